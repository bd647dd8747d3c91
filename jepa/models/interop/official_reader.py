"""Checkpoints in the layout of the official codes of I-JEPA, V-JEPA and V-JEPA 2.

Assran et al. 2023 (arXiv 2301.08243), Bardes et al. 2024 (arXiv 2404.08471), Assran et al. 2025 (arXiv 2506.09985). A
file holds the state dicts of `encoder`, `target_encoder` and `predictor`, beside the optimizer's, which is not used.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict, Unpack, get_args, overload

from torch import Tensor

from jepa.models.encoder import Encoder
from jepa.models.interop.build import LayoutError, build_encoder, build_predictor, matrix
from jepa.models.interop.files import Tensors, read_parts
from jepa.models.interop.geometry import PUBLISHED_FRAMES, Grid, ImageSize, Patch, square_grids, stored_grid
from jepa.models.interop.names import OFFICIAL_ENCODER, OFFICIAL_PREDICTOR, POSITIONS, to_ours
from jepa.models.jepa import JEPA
from jepa.models.predictor import MaskedPredictor

Family = Literal["ijepa", "vjepa", "vjepa2"]
Which = Literal["encoder", "target_encoder", "predictor", "jepa"]
PUBLISHED_TUBELET = 2
# the official sizes, by width: nothing in a file says how many heads share a width
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}
VJEPA2_HEADS = {**HEADS, 1408: 22, 1664: 26}
VJEPA2_PREDICTOR_HEADS = {384: 12}


class Options(TypedDict, total=False):
    """Keyword arguments of `from_official`; see there."""

    family: Family | None
    image_size: ImageSize | None
    num_frames: int | None
    num_heads: int | None
    predictor_heads: int | None


@overload
def from_official(
    path: str | os.PathLike[str], which: Literal["encoder", "target_encoder"], **options: Unpack[Options]
) -> Encoder: ...
@overload
def from_official(
    path: str | os.PathLike[str], which: Literal["predictor"], **options: Unpack[Options]
) -> MaskedPredictor: ...
@overload
def from_official(path: str | os.PathLike[str], which: Literal["jepa"], **options: Unpack[Options]) -> JEPA: ...
def from_official(
    path: str | os.PathLike[str], which: Which, **options: Unpack[Options]
) -> Encoder | MaskedPredictor | JEPA:
    """Load weights in the official layout. The family is recognised, sizes are read from the weights.

    Args:
        path: A file of `torch.save`, read without running code and mapped where possible, or a safetensors file.
        which: `"target_encoder"` (the moving average, which the papers evaluate), `"encoder"` (the trained one, which
            the predictor belongs to), `"predictor"`, or `"jepa"` for all three. A choice without a default.
        **options:
            family: `"ijepa"`, `"vjepa"` or `"vjepa2"`, where a file does not say. With `"vjepa2"` position tables in
            the file, which V-JEPA 2 does not use, are left out.

            image_size: Height and width of the inputs in pixels, one number or (H, W). By default that of the stored
            positions; for another size they are interpolated as V-JEPA's code does it. Must be given for V-JEPA 2,
            which stores none (its published models were trained at 256 or 384).

            num_frames: Of the clips, 16 by default.

            num_heads: Attention heads of the encoder; known for the official widths.

            predictor_heads: Of the predictor; by default the encoder's, and 12 for V-JEPA 2.

    Returns:
        `Encoder`, `MaskedPredictor`, or `JEPA` with an EMA target. Videos are (B, C, T, H, W), as officially.

    Raises:
        FileNotFoundError: There is no such file.
        LayoutError: Weights are missing, unexpected or of another shape; all are listed, and nothing is loaded.
        ValueError: The file is damaged, asks to run code, lacks the part, or leaves a size open.
    """
    if which not in get_args(Which):
        raise ValueError(f"which must be one of {', '.join(map(repr, get_args(Which)))}, got {which!r}")
    checkpoint = Checkpoint(Path(path), **options)
    if which == "jepa":
        return checkpoint.jepa()
    return checkpoint.predictor() if which == "predictor" else checkpoint.encoder(which)


@dataclass
class Checkpoint:
    """A file in the official layout; arguments as of `from_official`."""

    path: Path
    family: Family | None = None
    image_size: ImageSize | None = None
    num_frames: int | None = None
    num_heads: int | None = None
    predictor_heads: int | None = None

    def __post_init__(self) -> None:
        if self.family not in (None, *get_args(Family)):
            raise ValueError(f"family must be one of {', '.join(map(repr, get_args(Family)))}, got {self.family!r}")
        self.parts = read_parts(self.path)

    def jepa(self) -> JEPA:
        """Encoder, predictor, and the target encoder as a moving average."""
        encoder, predictor, target = self.encoder("encoder"), self.predictor(), self.encoder("target_encoder")
        model = JEPA(encoder, predictor, target="ema")
        model.target.encoder.load_state_dict(target.state_dict())
        return model

    def encoder(self, part: str) -> Encoder:
        """The encoder of that name."""
        tensors = to_ours(self._part(part), OFFICIAL_ENCODER)
        if "embed.weight" not in tensors:
            raise LayoutError(self._source(part), "Encoder", ("patch_embed.proj.weight",), tuple(tensors))
        patch = Patch.of(tensors["embed.weight"])
        family = self._family("ijepa" if patch.frames is None else "vjepa" if POSITIONS in tensors else "vjepa2")
        tensors = _with_positions_of(family, tensors, "Encoder", self._source(part))
        stored, grid = self._grids(tensors.get(POSITIONS), patch, family)
        heads = _heads(len(tensors["embed.weight"]), family, self.num_heads)
        source = self._source(part)
        return build_encoder(tensors, patch=patch, stored=stored, grid=grid, num_heads=heads, source=source)

    def predictor(self) -> MaskedPredictor:
        """The predictor, which knows its place in the grid of the file's encoder."""
        source, part = self._source("predictor"), self._part("predictor")
        tensors = to_ours(part, OFFICIAL_PREDICTOR)
        inner, width = matrix(tensors, "embed.weight", "MaskedPredictor", source)
        family = self._family("ijepa" if "mask_token" in part else "vjepa" if POSITIONS in tensors else "vjepa2")
        tensors = _with_positions_of(family, tensors, "MaskedPredictor", source)
        kernels = [tensors["patch_embed.proj.weight"] for tensors in self.parts.values() if _is_encoder(tensors)]
        patch = Patch.of(kernels[0]) if kernels else None
        stored, grid = self._grids(tensors.get(POSITIONS), patch, family)
        heads = self.predictor_heads
        if heads is None and family == "vjepa2":
            heads = _known(VJEPA2_PREDICTOR_HEADS, inner, "predictor_heads")
        elif heads is None:
            heads = _heads(width, family, self.num_heads)
        return build_predictor(tensors, stored=stored, grid=grid, num_heads=heads, source=source)

    def _source(self, part: str) -> str:
        return f"{part!r} of {self.path}"

    def _part(self, name: str) -> Tensors:
        bare = self.parts.get("", {})
        if any("patch_embeddings." in key for part in self.parts.values() for key in part):
            raise ValueError(f"{self.path} has the layout of transformers; load its folder with from_transformers")
        if name in self.parts:
            return self.parts[name]
        if bare and _is_encoder(bare) == (name != "predictor"):
            return bare
        kind = "an encoder" if _is_encoder(bare) else "a predictor"
        held = f"the state dict of {kind} alone" if bare else ", ".join(map(repr, self.parts))
        raise ValueError(f"{self.path} holds {held}, no {name!r}; pass another which=")

    def _family(self, seen: Family) -> Family:
        if self.family is not None:
            if (self.family == "ijepa") != (seen == "ijepa"):
                raise ValueError(
                    f"family={self.family!r}, but {self.path} has the layout of {seen!r}; leave family out"
                )
            return self.family
        many = sum(key.startswith("mask_tokens.") for key in self.parts.get("predictor", {})) > 2
        if seen == "vjepa" and many:
            raise ValueError(
                f"{self.path} holds tables of positions, as V-JEPA does, and more than two mask tokens, as V-JEPA 2 "
                "does; say which it is: family='vjepa' uses the tables, family='vjepa2' leaves them out for rotations"
            )
        return seen

    def _grids(self, table: Tensor | None, patch: Patch | None, family: Family) -> tuple[Grid, Grid]:
        """The grid of the stored positions (the wanted one, where there are none), and the grid wanted."""
        if self.num_frames is not None and family == "ijepa":
            raise ValueError(f"num_frames={self.num_frames} is for videos, but {self.path} encodes images")
        if patch is None and (table is None or (self.image_size, self.num_frames) != (None, None)):
            raise ValueError(
                f"{self.path} holds a predictor alone, and so not the patch size that turns pixels into a grid of "
                "tokens; use a file that holds the encoder too"
            )
        wanted = None
        if patch is not None and self.image_size is not None:
            wanted = patch.grid(self.image_size, self.num_frames or PUBLISHED_FRAMES)
        if table is None:
            if wanted is None:
                raise ValueError(
                    f"{self.path} stores no positions, so nothing in it says how large its inputs are; pass "
                    "image_size= (V-JEPA 2 was trained at 256 or 384) and, unless clips have 16 frames, num_frames="
                )
            return wanted, wanted
        stored = self._stored(table, family, (patch and patch.frames) or PUBLISHED_TUBELET, wanted)
        if wanted is None and patch is not None and self.num_frames is not None:
            wanted = patch.grid((stored[-2] * patch.side, stored[-1] * patch.side), self.num_frames)
        return stored, wanted or stored

    def _stored(self, table: Tensor, family: Family, tubelet: int, wanted: Grid | None) -> Grid:
        frames = (PUBLISHED_FRAMES, self.num_frames or PUBLISHED_FRAMES)
        steps = () if family == "ijepa" else [count // tubelet for count in frames]
        guesses = [*square_grids(len(table), steps), *([wanted] if wanted else [])]
        if stored := stored_grid(table, guesses):
            return stored
        if wanted and math.prod(wanted) == len(table):
            return wanted  # a table that was trained follows no axis
        raise ValueError(
            f"{self.path} stores {len(table)} positions, which belong to none of the token grids {guesses}; pass the "
            "image_size= " + ("" if family == "ijepa" else "and num_frames= ") + "that it was trained with"
        )


def _is_encoder(tensors: Mapping[str, Tensor]) -> bool:
    return "patch_embed.proj.weight" in tensors


def _with_positions_of(family: Family, tensors: Tensors, module: str, source: str) -> Tensors:
    if family == "vjepa2":
        return {name: tensor for name, tensor in tensors.items() if name != POSITIONS}
    matrix(tensors, POSITIONS, module, source)
    return tensors


def _heads(width: int, family: Family, given: int | None) -> int:
    return given if given is not None else _known(VJEPA2_HEADS if family == "vjepa2" else HEADS, width, "num_heads")


def _known(heads: Mapping[int, int], width: int, argument: str) -> int:
    if width not in heads:
        raise ValueError(
            f"nothing in a file says how many attention heads share {width} features, and only the official widths "
            f"are known ({', '.join(map(str, heads))}); pass {argument}="
        )
    return heads[width]
