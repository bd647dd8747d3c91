"""Our models as `IJepaModel` and `VJEPA2Model` of transformers (the extra `interop`), imported on use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from jepa.models.encoder import Encoder
from jepa.models.interop.build import Unallocated, allocate, exportable, mlp_ratio, state_of
from jepa.models.interop.geometry import Patch
from jepa.models.interop.names import IJEPA_MODEL, VJEPA2_ENCODER, VJEPA2_PREDICTOR, Layout, apart, our_name
from jepa.models.jepa import JEPA
from jepa.models.layers import LAYER_NORM_EPS, Block
from jepa.models.predictor import MaskedPredictor
from jepa.models.tokenizers import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def to_transformers(
    model: Encoder | JEPA, which: Literal["encoder", "target_encoder"] | None = None
) -> PreTrainedModel:
    """The same weights as a model of transformers, whose `save_pretrained` then writes them.

    Args:
        model: An encoder of images becomes an `IJepaModel`, one of videos with rotary positions a `VJEPA2Model`. So
            does the encoder of a `JEPA`; its `MaskedPredictor` goes along for videos, and stays behind for images, for
            which transformers has none.
        which: Encoder of a `JEPA` to take: `"encoder"`, which the predictor belongs to, or `"target_encoder"`.

    Returns:
        The model, in evaluation mode. The `VJEPA2Model` of a bare encoder has a predictor without blocks that predicts
        zeros: call it with `skip_predictor=True`.

    Raises:
        ImportError: transformers is not installed.
        ValueError: transformers has no counterpart for the model, or `which` is missing.
    """
    if not isinstance(model, JEPA):
        if which is not None:
            raise ValueError(f"which={which!r} chooses an encoder of a JEPA, but this is one encoder; leave it out")
        encoder, predictor = exportable(model), None
    elif which in ("encoder", "target_encoder"):
        encoder, predictor = exportable(model.encoder if which == "encoder" else model.target.encoder), model.predictor
    else:
        raise ValueError(f"which encoder of the JEPA? pass which='encoder' or 'target_encoder', got {which!r}")
    if Patch.of_tokenizer(encoder.tokenizer).frames is None:
        return _image_model(encoder)
    if predictor is None or isinstance(predictor, MaskedPredictor):
        return _video_model(encoder, predictor)
    raise ValueError(
        f"transformers has no counterpart for a {type(predictor).__name__}; export the encoder: "
        "to_transformers(model.encoder)"
    )


def _image_model(encoder: Encoder) -> PreTrainedModel:
    if encoder.positions.kind == "rotary":
        raise ValueError("an IJepaModel adds positions to its tokens, got an encoder of images with positions='rotary'")
    patch, (height, width) = Patch.of_tokenizer(encoder.tokenizer), _pixels(encoder)
    transformers = _transformers()
    config = transformers.IJepaConfig(
        **_sizes(encoder),
        intermediate_size=_hidden(encoder),
        image_size=height if height == width else (height, width),
        patch_size=patch.side,
        num_channels=patch.channels,
    )
    with Unallocated():
        theirs = transformers.IJepaModel(config)
    return _filled(theirs, _translated(theirs, encoder, IJEPA_MODEL), encoder)


def _video_model(encoder: Encoder, predictor: MaskedPredictor | None) -> PreTrainedModel:
    kinds = [encoder.positions.kind, *([predictor.positions.kind] if predictor else [])]
    if set(kinds) != {"rotary"}:
        raise ValueError(
            f"a VJEPA2Model has rotary positions throughout, got positions={' and '.join(map(repr, kinds))}"
        )
    patch, (height, width) = Patch.of_tokenizer(encoder.tokenizer), _pixels(encoder)
    if height != width:
        raise ValueError(f"a VJEPA2Model takes square clips, got an encoder of {height} x {width} pixels")
    transformers = _transformers()
    config = transformers.VJEPA2Config(
        **_sizes(encoder),
        **_predictor_sizes(predictor),
        mlp_ratio=mlp_ratio(_hidden(encoder), encoder.hidden_dim),
        crop_size=height,
        frames_per_clip=cast("Tokenizer", encoder.tokenizer).input_shape[1],
        patch_size=patch.side,
        tubelet_size=patch.frames,
        in_chans=patch.channels,
    )
    with Unallocated():
        theirs = transformers.VJEPA2Model(config)
    weights = _translated(theirs, encoder, VJEPA2_ENCODER)
    if predictor is None:
        names = [name for name in theirs.state_dict() if name.startswith("predictor.")]
        weights |= {name: torch.zeros(theirs.get_parameter(name).shape) for name in names}
    else:
        weights |= _translated(theirs, predictor, VJEPA2_PREDICTOR)
    return _filled(theirs, weights, encoder)


def _sizes(encoder: Encoder) -> dict[str, Any]:
    return {
        "hidden_size": encoder.hidden_dim,
        "num_hidden_layers": len(encoder.blocks),
        "num_attention_heads": _heads(encoder),
        "layer_norm_eps": LAYER_NORM_EPS,  # the default of IJepaConfig is another
    }


def _predictor_sizes(predictor: MaskedPredictor | None) -> dict[str, Any]:
    if predictor is None:
        return {
            "pred_hidden_size": 1,
            "pred_num_attention_heads": 1,
            "pred_num_hidden_layers": 0,
            "pred_num_mask_tokens": 1,
        }
    return {
        "pred_hidden_size": predictor.predictor_dim,
        "pred_num_attention_heads": _heads(predictor),
        "pred_num_hidden_layers": len(predictor.blocks),
        "pred_num_mask_tokens": predictor.num_mask_tokens,
        "pred_mlp_ratio": mlp_ratio(_hidden(predictor), predictor.predictor_dim),
    }


def _heads(module: Encoder | MaskedPredictor) -> int:
    return cast("Block", module.blocks[0]).attn.num_heads


def _hidden(module: Encoder | MaskedPredictor) -> int:
    return cast("Block", module.blocks[0]).mlp.fc1.out_features


def _pixels(encoder: Encoder) -> tuple[int, int]:
    _, *_, height, width = cast("Tokenizer", encoder.tokenizer).input_shape
    return height, width


def _translated(theirs: nn.Module, ours: Encoder | MaskedPredictor, layout: Layout) -> dict[str, Tensor]:
    """All of our weights with their names and shapes; each of their names is asked which of ours it is."""
    state, used = apart(state_of(ours)), {}
    for name, tensor in theirs.state_dict().items():
        if (own := our_name(name, layout)) in state:
            used[name] = state.pop(own).reshape(tensor.shape)
    if state:
        raise ValueError(
            f"this version of transformers has no known weight for our {next(iter(state))}; it is known for 5.24"
        )
    return used


def _filled(theirs: PreTrainedModel, weights: dict[str, Tensor], encoder: Encoder) -> PreTrainedModel:
    allocate(theirs)
    theirs.load_state_dict(weights)
    nn.Module.to(theirs, encoder.norm.weight.dtype)
    return theirs.eval()


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError("export needs transformers: pip install 'jepa-lab[interop]'") from error
    return transformers
