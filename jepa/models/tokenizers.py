"""Tokenizers cut an input into tokens; they have no parameters (the encoder projects what they return).

Axes: B batch, N tokens, C channels, T time, H height, W width (T', H', W' of the token grid).
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from jepa.models.base import register


def _positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


class Tokenizer(nn.Module):
    """Base: `input_shape` of one sample, the `grid` of its tokens, and `token_dim` numbers in each."""

    input_shape: tuple[int, ...]
    grid: tuple[int, ...]
    token_dim: int

    @property
    def num_tokens(self) -> int:
        """Tokens a sample."""
        return math.prod(self.grid)

    def check(self, x: Tensor) -> None:
        """Raise a ValueError unless `x` is a batch of `input_shape`."""
        if tuple(x.shape[1:]) != self.input_shape or x.ndim != len(self.input_shape) + 1:
            raise ValueError(f"{self._takes()}, got {tuple(x.shape)}")

    def grid_of(self, x: Tensor) -> tuple[int, ...]:
        """The token grid of a batch: `grid`, unless the tokenizer takes other sizes too.

        Raises:
            ValueError: It cannot cut such a batch.
        """
        self.check(x)
        return self.grid

    def _takes(self) -> str:
        wanted = ", ".join(["B", *map(str, self.input_shape)])
        return f"{type(self).__name__} takes a batch of shape ({wanted})"


class _PatchTokenizer(Tokenizer):
    """Boxes of equal size along every axis, row-major; the numbers of a token are ordered as a convolution's weights.

    Inputs of other sizes than the one at construction are taken where the boxes fill them.
    """

    def __init__(self, channels: int, sizes: tuple[int, ...], patch: tuple[int, ...]) -> None:
        super().__init__()
        self.patch = patch
        self.input_shape = (channels, *sizes)
        self.grid = tuple(size // side for size, side in zip(sizes, patch, strict=True))
        self.token_dim = channels * math.prod(patch)

    def grid_of(self, x: Tensor) -> tuple[int, ...]:
        """The token grid of a batch: its sizes divided by those of a patch.

        Raises:
            ValueError: Other axes or channels than at construction, or sizes that patches do not fill.
        """
        sizes = tuple(x.shape[2:])
        if x.ndim != len(self.input_shape) + 1 or x.shape[1] != self.input_shape[0] or 0 in sizes:
            self.check(x)
        if any(size % side for size, side in zip(sizes, self.patch, strict=True)):
            raise ValueError(f"{self._takes()} or of other multiples of {self.patch}, got {tuple(x.shape)}")
        return tuple(size // side for size, side in zip(sizes, self.patch, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Cut (B, C, *sizes) into (B, N, token_dim)."""
        grid, axes = self.grid_of(x), len(self.patch)
        cells = [number for pair in zip(grid, self.patch, strict=True) for number in pair]
        inside = [3 + 2 * axis for axis in range(axes)]
        between = [2 + 2 * axis for axis in range(axes)]
        boxes = x.reshape(*x.shape[:2], *cells).permute(0, *between, 1, *inside)
        return boxes.reshape(len(x), math.prod(grid), self.token_dim)


@register
class ImageTokenizer(_PatchTokenizer):
    """Square patches of an image, row by row: (B, C, H, W) to (B, N, C * patch_size ** 2).

    Args:
        image_size: Height and width in pixels, one number or (H, W); multiples of `patch_size`.
        patch_size: Side of a patch in pixels.
        channels: C.
    """

    def __init__(self, image_size: int | tuple[int, int], patch_size: int, channels: int = 1) -> None:
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        _positive(height=height, width=width, patch_size=patch_size, channels=channels)
        if height % patch_size or width % patch_size:
            raise ValueError(f"patch_size={patch_size} must divide the image size ({height}, {width})")
        super().__init__(channels, (height, width), (patch_size, patch_size))

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        channels, height, width = self.input_shape
        return {"image_size": [height, width], "patch_size": self.patch[0], "channels": channels}


@register
class VideoTokenizer(_PatchTokenizer):
    """Tubelets of a video, frame pair by frame pair: (B, C, T, H, W) to (B, N, C * tubelet_size * patch_size ** 2).

    Args:
        num_frames: T, a multiple of `tubelet_size`.
        image_size: Height and width in pixels, one number or (H, W); multiples of `patch_size`.
        patch_size: Side of a tubelet in pixels.
        tubelet_size: Frames a tubelet holds.
        channels: C.

    The `grid` is (T', H', W').
    """

    def __init__(
        self,
        num_frames: int,
        image_size: int | tuple[int, int],
        patch_size: int,
        tubelet_size: int = 2,
        channels: int = 3,
    ) -> None:
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        _positive(
            num_frames=num_frames,
            height=height,
            width=width,
            patch_size=patch_size,
            tubelet_size=tubelet_size,
            channels=channels,
        )
        if num_frames < tubelet_size:
            raise ValueError(
                f"num_frames={num_frames} is shorter than one tubelet of tubelet_size={tubelet_size} frames"
            )
        if num_frames % tubelet_size:
            raise ValueError(f"tubelet_size={tubelet_size} must divide num_frames={num_frames}")
        if height % patch_size or width % patch_size:
            raise ValueError(f"patch_size={patch_size} must divide the image size ({height}, {width})")
        super().__init__(channels, (num_frames, height, width), (tubelet_size, patch_size, patch_size))

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        channels, frames, height, width = self.input_shape
        return {
            "num_frames": frames,
            "image_size": [height, width],
            "patch_size": self.patch[1],
            "tubelet_size": self.patch[0],
            "channels": channels,
        }


@register
class SeriesTokenizer(_PatchTokenizer):
    """Pieces of a time series, in order: (B, C, T) to (B, N, C * patch_size).

    Args:
        length: T, a multiple of `patch_size`.
        patch_size: Samples in time a token holds.
        channels: C.
    """

    def __init__(self, length: int, patch_size: int, channels: int = 1) -> None:
        _positive(length=length, patch_size=patch_size, channels=channels)
        if length % patch_size:
            raise ValueError(f"patch_size={patch_size} must divide the length {length}")
        super().__init__(channels, (length,), (patch_size,))

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        channels, length = self.input_shape
        return {"length": length, "patch_size": self.patch[0], "channels": channels}
