"""Writing our models in the layout of the official codes, which can then load them."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from jepa.files import atomic_path
from jepa.models.encoder import Encoder
from jepa.models.interop.build import exportable, state_of
from jepa.models.interop.geometry import Patch
from jepa.models.interop.names import POSITIONS
from jepa.models.jepa import JEPA
from jepa.models.predictor import MaskedPredictor


def to_official(model: JEPA, path: str | os.PathLike[str]) -> Path:
    """Write `encoder`, `predictor` and `target_encoder` in the official layout of the model's family.

    Images give I-JEPA's, videos V-JEPA's, and videos with rotary positions V-JEPA 2's. The state of the optimizer,
    which the official codes need to continue a run, is not in it.

    Args:
        model: Of the built-in `Encoder` on images or videos, and a `MaskedPredictor`.
        path: The file to write.

    Returns:
        The file.

    Raises:
        ValueError: The official codes have no counterpart for the model.
    """
    encoder, predictor, target = exportable(model.encoder), model.predictor, exportable(model.target.encoder)
    if not isinstance(predictor, MaskedPredictor):
        raise ValueError(f"the official layouts hold a MaskedPredictor, got {type(predictor).__name__}")
    images = Patch.of_tokenizer(encoder.tokenizer).frames is None
    rotary = {module.positions.kind == "rotary" for module in (encoder, predictor)}
    if len(rotary) > 1 or (images and (True in rotary or predictor.num_mask_tokens > 1)):
        raise ValueError(
            "I-JEPA adds positions to tokens and has one mask token, V-JEPA adds positions, V-JEPA 2 rotates; encoder "
            f"and predictor alike. Got positions={encoder.positions.kind!r} in the encoder of "
            f"{'images' if images else 'videos'} and {predictor.positions.kind!r} in the predictor, which has "
            f"num_mask_tokens={predictor.num_mask_tokens}"
        )
    parts = {
        "encoder": _encoder(encoder),
        "predictor": _predictor(predictor, images),
        "target_encoder": _encoder(target),
    }
    prefix = "module." if images else "module.backbone."  # of DDP, and of the wrapper for several masks
    content = {part: {prefix + name: tensor for name, tensor in tensors.items()} for part, tensors in parts.items()}
    with atomic_path(path) as temporary:
        torch.save(content, temporary)
    return Path(path)


def _encoder(encoder: Encoder) -> dict[str, Tensor]:
    state = state_of(encoder)
    kernel = state.pop("embed.weight").unflatten(1, Patch.of_tokenizer(encoder.tokenizer).kernel)
    tensors = {"patch_embed.proj.weight": kernel, "patch_embed.proj.bias": state.pop("embed.bias")}
    if POSITIONS in state:
        tensors["pos_embed"] = state.pop(POSITIONS).unsqueeze(0)
    return {**tensors, **state}


def _predictor(predictor: MaskedPredictor, images: bool) -> dict[str, Tensor]:
    state = state_of(predictor)
    tokens = [token.view(1, 1, -1) for token in state.pop("mask_tokens")]
    tensors = {"mask_token": tokens[0]} if images else {f"mask_tokens.{k}": token for k, token in enumerate(tokens)}
    if POSITIONS in state:
        tensors["predictor_pos_embed"] = state.pop(POSITIONS).unsqueeze(0)
    return {**tensors, **{f"predictor_{name}": tensor for name, tensor in state.items()}}
