"""Tokenizers cut an input into tokens; they have no parameters (the encoder projects what they return)."""

from __future__ import annotations

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
        total = 1
        for size in self.grid:
            total *= size
        return total

    def check(self, x: Tensor) -> None:
        """Raise a ValueError unless `x` is a batch of `input_shape`."""
        if tuple(x.shape[1:]) != self.input_shape or x.ndim != len(self.input_shape) + 1:
            wanted = ", ".join(["B", *map(str, self.input_shape)])
            raise ValueError(f"{type(self).__name__} takes a batch of shape ({wanted}), got {tuple(x.shape)}")


@register
class ImageTokenizer(Tokenizer):
    """Square patches of an image, row by row.

    Args:
        image_size: Height and width in pixels, one number or (H, W); multiples of `patch_size`.
        patch_size: Side of a patch in pixels.
        channels: C.
    """

    def __init__(self, image_size: int | tuple[int, int], patch_size: int, channels: int = 1) -> None:
        super().__init__()
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        _positive(height=height, width=width, patch_size=patch_size, channels=channels)
        if height % patch_size or width % patch_size:
            raise ValueError(f"patch_size={patch_size} must divide the image size ({height}, {width})")
        self.patch_size = patch_size
        self.input_shape = (channels, height, width)
        self.grid = (height // patch_size, width // patch_size)
        self.token_dim = channels * patch_size**2

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        channels, height, width = self.input_shape
        return {"image_size": [height, width], "patch_size": self.patch_size, "channels": channels}

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, N, C * patch_size ** 2)."""
        self.check(x)
        size, (rows, columns) = self.patch_size, self.grid
        patches = x.reshape(len(x), -1, rows, size, columns, size).permute(0, 2, 4, 1, 3, 5)
        return patches.reshape(len(x), rows * columns, self.token_dim)


@register
class SeriesTokenizer(Tokenizer):
    """Pieces of a time series, in order.

    Args:
        length: T, a multiple of `patch_size`.
        patch_size: Samples in time a token holds.
        channels: C.
    """

    def __init__(self, length: int, patch_size: int, channels: int = 1) -> None:
        super().__init__()
        _positive(length=length, patch_size=patch_size, channels=channels)
        if length % patch_size:
            raise ValueError(f"patch_size={patch_size} must divide the length {length}")
        self.patch_size = patch_size
        self.input_shape = (channels, length)
        self.grid = (length // patch_size,)
        self.token_dim = channels * patch_size

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        channels, length = self.input_shape
        return {"length": length, "patch_size": self.patch_size, "channels": channels}

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) to (B, N, C * patch_size)."""
        self.check(x)
        pieces = x.reshape(len(x), -1, self.grid[0], self.patch_size).permute(0, 2, 1, 3)
        return pieces.reshape(len(x), self.grid[0], self.token_dim)
