"""Residual networks for images: He, Zhang, Ren, Sun 2015 (arXiv 1512.03385).

Deviations: group normalisation (Wu, He 2018, arXiv 1803.08494; 16 channels a group) is the default. It looks at one
sample at a time, so any number of ranks computes what one process does. The small-image form, usual on CIFAR, begins
with one 3x3 convolution and no pooling. A bottleneck strides in its 3x3 convolution, as later implementations do.

Axes: B batch, C channels, H height, W width (of a feature map), D features.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from jepa.models.base import BaseModel, register

Norm = Literal["group", "batch"]
LAYOUTS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
CHANNELS_PER_GROUP = 16


def _norm(channels: int, kind: Norm) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    wanted = max(1, channels // CHANNELS_PER_GROUP)
    return nn.GroupNorm(max(groups for groups in range(1, wanted + 1) if channels % groups == 0), channels)


def _convolution(channels: int, out: int, size: int, stride: int, norm: Norm) -> nn.Sequential:
    """Convolution that keeps the size but for its stride, and a norm after it."""
    return nn.Sequential(nn.Conv2d(channels, out, size, stride, padding=size // 2, bias=False), _norm(out, norm))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1 with a quarter of the channels between, beside a shortcut.

    Args:
        channels: C in.
        width: Channels inside.
        stride: Of the first 3x3 convolution.
        bottleneck: Whether to take the second form, which has `4 * width` channels out instead of `width`.
        norm: `"group"` or `"batch"`.
    """

    def __init__(self, channels: int, width: int, stride: int, bottleneck: bool, norm: Norm) -> None:
        super().__init__()
        out = 4 * width if bottleneck else width
        if bottleneck:
            shapes = [(channels, width, 1, 1), (width, width, 3, stride), (width, out, 1, 1)]
        else:
            shapes = [(channels, width, 3, stride), (width, out, 3, 1)]
        self.convolutions = nn.ModuleList(_convolution(*shape, norm) for shape in shapes)
        same = stride == 1 and channels == out
        self.shortcut = nn.Identity() if same else _convolution(channels, out, 1, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C_out, H / stride, W / stride)."""
        *first, last = self.convolutions
        y = x
        for convolution in first:
            y = F.relu(convolution(y))
        return F.relu(last(y) + self.shortcut(x))


@register
class ResNet(BaseModel):
    """Encodes images as one vector each, the mean over the last feature map.

    Args:
        depth: 18 or 34 (pairs of 3x3 convolutions), or 50 (bottlenecks).
        width: Channels of the first stage, doubled in each of the three after it. Embeddings have `8 * width` features,
            `32 * width` at depth 50.
        channels: C of the images.
        small_images: Whether to begin with one 3x3 convolution, for images of some 32 pixels; otherwise with a 7x7
            one of stride 2 and a pooling of stride 2.
        norm: `"group"`, or `"batch"` as in the paper, with which N ranks do not compute what one process does.

    Raises:
        ValueError: The depth or the norm is unknown, or a size is too small.
    """

    def __init__(
        self,
        depth: int = 18,
        *,
        width: int = 64,
        channels: int = 3,
        small_images: bool = True,
        norm: Norm = "group",
    ) -> None:
        super().__init__()
        if depth not in LAYOUTS:
            raise ValueError(f"depth must be one of {', '.join(map(str, LAYOUTS))}, got {depth}")
        if width < 1 or channels < 1:
            raise ValueError(f"width and channels must be at least 1, got {width} and {channels}")
        if norm not in get_args(Norm):
            raise ValueError(f"norm must be one of {', '.join(map(repr, get_args(Norm)))}, got {norm!r}")
        self._sizes: dict[str, Any] = {
            "depth": depth,
            "width": width,
            "channels": channels,
            "small_images": small_images,
            "norm": norm,
        }
        self.channels = channels
        bottleneck = depth == 50
        size, stride = (3, 1) if small_images else (7, 2)
        stem: list[nn.Module] = [_convolution(channels, width, size, stride, norm), nn.ReLU()]
        self.stem = nn.Sequential(*stem, *([] if small_images else [nn.MaxPool2d(3, 2, padding=1)]))
        blocks: list[nn.Module] = []
        now = width
        for stage, count in enumerate(LAYOUTS[depth]):
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(ResidualBlock(now, width * 2**stage, stride, bottleneck, norm))
                now = width * 2**stage * (4 if bottleneck else 1)
        self.blocks = nn.Sequential(*blocks)
        self.hidden_dim = now
        self.apply(_init)

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return dict(self._sizes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D)."""
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(f"ResNet takes images (B, {self.channels}, H, W), got {tuple(x.shape)}; set channels=")
        return self.blocks(self.stem(x)).mean(dim=(2, 3))


def _init(module: nn.Module) -> None:
    """Normal weights that keep the variance of gradients through rectifiers (He et al. 2015, arXiv 1502.01852)."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
