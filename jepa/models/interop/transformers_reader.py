"""`IJepaModel` and `VJEPA2Model` of transformers, which need not be installed to read their folders."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, get_args, overload

from torch import Tensor, nn

from jepa.models.encoder import Encoder
from jepa.models.interop.build import LayoutError, build_encoder, build_predictor
from jepa.models.interop.files import Tensors, read_folder
from jepa.models.interop.geometry import Grid, ImageSize, Patch
from jepa.models.interop.names import IJEPA_MODEL, VJEPA2_ENCODER, VJEPA2_PREDICTOR, to_ours
from jepa.models.jepa import JEPA
from jepa.models.layers import LAYER_NORM_EPS
from jepa.models.predictor import MaskedPredictor

Source = str | os.PathLike[str] | nn.Module
Which = Literal["encoder", "predictor", "jepa"]
KERNELS = {
    "ijepa": "embeddings.patch_embeddings.projection.weight",
    "vjepa2": "encoder.embeddings.patch_embeddings.proj.weight",
}
_FIXED = {"layer_norm_eps": LAYER_NORM_EPS, "hidden_act": "gelu", "qkv_bias": True}
_NOT_OURS = ("pooler.", "embeddings.mask_token")  # optional parts that no encoder output depends on


class Options(TypedDict, total=False):
    """Keyword arguments of `from_transformers`; see there."""

    image_size: ImageSize | None
    num_frames: int | None


@overload
def from_transformers(source: Source, which: Literal["encoder"] = "encoder", **options: Unpack[Options]) -> Encoder: ...
@overload
def from_transformers(source: Source, which: Literal["predictor"], **options: Unpack[Options]) -> MaskedPredictor: ...
@overload
def from_transformers(source: Source, which: Literal["jepa"], **options: Unpack[Options]) -> JEPA: ...
def from_transformers(
    source: Source, which: Which = "encoder", **options: Unpack[Options]
) -> Encoder | MaskedPredictor | JEPA:
    """Load an `IJepaModel` or a `VJEPA2Model`, or the one inside a model for classification, whose head is left out.

    Args:
        source: The model, or a folder with `config.json` and safetensors files.
        which: `"encoder"`, or of a `VJEPA2Model` also `"predictor"` or `"jepa"` (both, with a fresh EMA target).
        **options:
            image_size: Height and width of the inputs in pixels, one number or (H, W), where they are not those of the
            configuration; I-JEPA's positions are then interpolated.

            num_frames: Of the clips, where they are not those of the configuration.

    Returns:
        `Encoder`, `MaskedPredictor` or `JEPA`. Videos are (B, C, T, H, W) here and (B, T, C, H, W) in transformers.
        `VJEPA2Model` always predicts with its mask token 1, as `predictor(..., group=1)` does.

    Raises:
        FileNotFoundError: A file is missing.
        LayoutError: Weights are missing, unexpected or of another shape; all are listed, and nothing is loaded.
        ValueError: A file is damaged, or the configuration asks for what our modules do not do.
    """
    if which not in get_args(Which):
        raise ValueError(f"which must be one of {', '.join(map(repr, get_args(Which)))}, got {which!r}")
    published = Published(source, **options)
    if which == "encoder":
        return published.encoder()
    return published.predictor() if which == "predictor" else JEPA(published.encoder(), published.predictor())


class Published:
    """A model of transformers; arguments as of `from_transformers`."""

    def __init__(self, source: Source, *, image_size: ImageSize | None = None, num_frames: int | None = None) -> None:
        self.config, tensors, self.name = _read(source)
        self.kind = self._get("model_type")
        if self.kind not in KERNELS:
            raise ValueError(
                f"{self.name} is of type {self.kind!r}; these can be read: {', '.join(map(repr, KERNELS))}"
            )
        for key, value in _FIXED.items():
            if self.config.get(key, value) != value:
                raise ValueError(
                    f"{self.name} is configured with {key}={self.config[key]!r}, but our encoders (and the official "
                    f"ones) have {value!r} and would compute something else; set it to {value!r} if that was a slip"
                )
        self.tensors = _without_heads(tensors, self.kind)
        if KERNELS[self.kind] not in self.tensors:
            raise LayoutError(self.name, "Encoder", (KERNELS[self.kind],), tuple(self.tensors))
        self.patch = Patch.of(self.tensors[KERNELS[self.kind]])
        if num_frames is not None and self.kind == "ijepa":
            raise ValueError(f"num_frames={num_frames} is for videos, but {self.name} encodes images")
        size = self._get("image_size" if self.kind == "ijepa" else "crop_size")
        size = size if isinstance(size, int) else (size[0], size[1])
        frames = 1 if self.kind == "ijepa" else self._get("frames_per_clip")
        self.stored: Grid = self.patch.grid(size, frames)
        self.grid: Grid = self.patch.grid(image_size or size, num_frames or frames)

    def encoder(self) -> Encoder:
        """The encoder."""
        rest = {name: tensor for name, tensor in self.tensors.items() if not name.startswith("predictor.")}
        return build_encoder(
            to_ours(rest, IJEPA_MODEL if self.kind == "ijepa" else VJEPA2_ENCODER),
            patch=self.patch,
            stored=self.stored,
            grid=self.grid,
            num_heads=self._get("num_attention_heads"),
            source=self.name,
        )

    def predictor(self) -> MaskedPredictor:
        """The predictor of a `VJEPA2Model`."""
        if self.kind == "ijepa":
            raise ValueError(f"{self.name} is an IJepaModel, which has no predictor; pass which='encoder'")
        part = {name: tensor for name, tensor in self.tensors.items() if name.startswith("predictor.")}
        return build_predictor(
            to_ours(part, VJEPA2_PREDICTOR),
            stored=self.grid,
            grid=self.grid,
            num_heads=self._get("pred_num_attention_heads"),
            source=self.name,
        )

    def _get(self, key: str) -> Any:
        if key not in self.config:
            raise ValueError(
                f"the configuration of {self.name} does not say {key}, which is needed to read its weights"
            )
        return self.config[key]


def _read(source: Source) -> tuple[Mapping[str, Any], Tensors, str]:
    if isinstance(source, nn.Module):
        to_dict = getattr(getattr(source, "config", None), "to_dict", None)
        if to_dict is None:
            raise ValueError(f"expected a model of transformers or its folder, got a {type(source).__name__}")
        return to_dict(), source.state_dict(), f"this {type(source).__name__}"
    folder = Path(source)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {folder} (looked from {Path.cwd()}); nothing is downloaded here: fetch the model first, "
            "or pass the model itself, loaded by transformers"
        )
    config, tensors = read_folder(folder)
    return config, tensors, str(folder)


def _without_heads(tensors: Mapping[str, Tensor], kind: str) -> Tensors:
    """Of a model for classification, what is in the model proper; and no pooler."""
    inner = {name.removeprefix(f"{kind}."): tensor for name, tensor in tensors.items() if name.startswith(f"{kind}.")}
    return {name: tensor for name, tensor in (inner or tensors).items() if not name.startswith(_NOT_OURS)}
