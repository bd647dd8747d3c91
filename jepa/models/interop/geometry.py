"""Grids of tokens: what a stored table of positions belongs to, and how it is brought to another size.

Axes: N tokens of a grid, D features; grids are (H', W') of images, (T', H', W') of videos.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from jepa.models.tokenizers import ImageTokenizer, Tokenizer, VideoTokenizer

Grid = tuple[int, ...]
ImageSize = int | tuple[int, int]
PUBLISHED_FRAMES = 16  # of V-JEPA's clips


@dataclass(frozen=True)
class Patch:
    """What one token covers, read from the kernel of the patch embedding.

    Attributes:
        channels: C.
        side: Height and width in pixels.
        frames: In time, `None` for images.
    """

    channels: int
    side: int
    frames: int | None = None

    @classmethod
    def of(cls, kernel: Tensor) -> Patch:
        """Of a kernel (D, C, P, P) or (D, C, T, P, P).

        Raises:
            ValueError: It has other axes, or is not square.
        """
        if kernel.ndim not in (4, 5) or kernel.shape[-1] != kernel.shape[-2]:
            raise ValueError(f"expected a patch embedding of square patches, got a kernel of {tuple(kernel.shape)}")
        return cls(kernel.shape[1], kernel.shape[-1], kernel.shape[2] if kernel.ndim == 5 else None)

    @classmethod
    def of_tokenizer(cls, tokenizer: Tokenizer | None) -> Patch:
        """Of images or videos.

        Raises:
            ValueError: Of anything else.
        """
        if isinstance(tokenizer, ImageTokenizer):
            return cls(tokenizer.input_shape[0], tokenizer.patch[-1])
        if isinstance(tokenizer, VideoTokenizer):
            return cls(tokenizer.input_shape[0], tokenizer.patch[-1], tokenizer.patch[0])
        raise ValueError(f"other layouts hold encoders of images and videos only, got tokenizer={tokenizer!r}")

    @property
    def kernel(self) -> tuple[int, ...]:
        """Shape of one filter of the patch embedding: (C, P, P) or (C, T, P, P)."""
        return (self.channels, *(() if self.frames is None else (self.frames,)), self.side, self.side)

    def grid(self, image_size: ImageSize, num_frames: int) -> Grid:
        """The token grid of inputs of that size.

        Raises:
            ValueError: Patches do not fill them.
        """
        pixels = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        sizes, patch = (pixels, (self.side,) * 2)
        if self.frames is not None:
            sizes, patch = (num_frames, *sizes), (self.frames, *patch)
        if any(size < part or size % part for size, part in zip(sizes, patch, strict=True)):
            raise ValueError(f"inputs of size {sizes} cannot be cut into patches of {patch}; choose multiples of them")
        return tuple(size // part for size, part in zip(sizes, patch, strict=True))

    def tokenizer(self, grid: Grid) -> Tokenizer:
        """The tokenizer that cuts inputs into that grid."""
        size = (grid[-2] * self.side, grid[-1] * self.side)
        if self.frames is None:
            return ImageTokenizer(size, self.side, self.channels)
        return VideoTokenizer(grid[0] * self.frames, size, self.side, self.frames, self.channels)


def stored_grid(table: Tensor, guesses: Iterable[Grid]) -> Grid | None:
    """The first grid that the table can belong to: the right number of rows, and every feature follows one axis only.

    The count alone would leave a choice (1568 is 8 x 14 x 14 and 2 x 28 x 28); sine-cosine tables settle it.
    """
    return next((grid for grid in guesses if math.prod(grid) == len(table) and _follows_axes(table, grid)), None)


def _follows_axes(table: Tensor, grid: Grid) -> bool:
    cells = table.unflatten(0, grid)
    axes = range(len(grid))
    moves = [(cells != cells.select(axis, 0).unsqueeze(axis)).flatten(0, -2).any(dim=0) for axis in axes]
    return bool((torch.stack(moves).sum(dim=0) <= 1).all())


def square_grids(count: int, steps: Iterable[int] = ()) -> list[Grid]:
    """Square grids of that many tokens, for images, or for videos of so many steps in time."""
    if not steps:
        return [(math.isqrt(count),) * 2]
    return [(step, *(math.isqrt(count // step),) * 2) for step in steps if step]


def resize_positions(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """Positions for another grid, as V-JEPA's code computes them for inputs of another size (arXiv 2404.08471).

    Fewer frames of the same height and width keep the first steps; anything else is interpolated: bicubic for images,
    trilinear for videos. I-JEPA's code means the same for images, but takes the first position for a class token's.

    Args:
        table: (N, D) of the grid `old`.
        old: The grid it belongs to.
        new: The grid wanted.

    Returns:
        (N', D).
    """
    if new == old:
        return table
    if len(new) == 3 and new[1:] == old[1:] and new[0] < old[0]:
        return table[: math.prod(new)]
    cells = table.unflatten(0, old).movedim(-1, 0).unsqueeze(0)
    mode = "bicubic" if len(new) == 2 else "trilinear"
    resized = F.interpolate(cells.float(), size=new, mode=mode, align_corners=False)
    return resized.squeeze(0).movedim(0, -1).flatten(0, -2).to(table.dtype)
