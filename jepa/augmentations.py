"""Random changes of whole batches that keep what a sample is about, on the batch's own device.

Every random number comes from a generator that the caller gives: `BatchRandom` draws for the global batch and keeps the
rows of this process, so that any number of ranks sees the same. `jepa.views` makes several views of a sample with them.

Deviations from the usual pipelines for single images: crops have real-valued borders, and exactly the drawn area; the
parts of a colour jitter come in one order; nothing is clamped, so standardised images may be used too, except by
`solarize`, which reads values as intensities in [0, 1].

Axes: B batch, C channels, H W rows and columns of an image, T time, D features.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Range = tuple[float, float]


class BatchRandom(NamedTuple):
    """Random numbers for the samples of a batch.

    Attributes:
        generator: On the batch's device.
        size: Samples of the global batch.
        rows: Those of this process.
        views: Views of each sample, one after the other: row `v * B + b` is view v of sample b.
    """

    generator: torch.Generator
    size: int
    rows: slice = slice(None)
    views: int = 1

    def uniform(self, x: Tensor, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """`(len(x), *shape)` numbers in [low, high), in the precision of `x`."""
        numbers = torch.rand(self.size, self.views, *shape, generator=self.generator, device=x.device)
        return self._mine(low + (high - low) * numbers, x).to(x.dtype)

    def normal(self, x: Tensor, *shape: int) -> Tensor:
        """`(len(x), *shape)` standard normal numbers, in the precision of `x`.

        Only two integers a sample are drawn for the global batch, so that the cost does not grow with the number of
        processes.
        """
        integers = torch.iinfo(torch.int32)
        keys = torch.randint(
            integers.min,
            integers.max,
            (self.size, self.views, 2),
            generator=self.generator,
            device=x.device,
            dtype=torch.int32,
        )
        return _normal(self._mine(keys, x), math.prod(shape)).view(-1, *shape).to(x.dtype)

    def _mine(self, numbers: Tensor, x: Tensor) -> Tensor:
        mine = numbers[self.rows].transpose(0, 1).flatten(0, 1)
        if len(mine) != len(x):
            raise ValueError(f"random numbers are for {len(mine)} samples, but the batch has {len(x)}")
        return mine


def _normal(keys: Tensor, count: int) -> Tensor:
    """(B, count) standard normal numbers that follow from keys (B, 2), int32: a hash of the key and of 0, 1, 2, ...

    The numbers of one row are a progression with a step and a start of its own, mixed until neighbours have nothing in
    common, and made normal in pairs (Box and Muller 1958).
    """
    pairs = (count + 1) // 2
    # wraps around at 32 bits; an odd step never meets a number twice
    bits = torch.arange(2 * pairs, dtype=torch.int32, device=keys.device) * (keys[:, :1] | 1) + keys[:, 1:]
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B - 2**32), (16, 1)):
        # the mask takes away the sign that a shift to the right fills in
        bits = (bits ^ (bits >> shift & (1 << 32 - shift) - 1)) * factor
    uniform = ((bits >> 8 & 2**24 - 1).float() + 0.5) * 2**-24
    first, second = uniform.view(len(keys), 2, pairs).unbind(1)
    radius, angle = (-2 * first.log()).sqrt(), 2 * math.pi * second
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count]


# Images


def random_resized_crop(
    x: Tensor,
    random: BatchRandom,
    *,
    size: int | tuple[int, int] | None = None,
    scale: Range = (0.08, 1.0),
    ratio: Range = (3 / 4, 4 / 3),
) -> Tensor:
    """A part of each image, resized (bilinear; averaged where it shrinks to half or less).

    Args:
        x: (B, C, H, W).
        random: Where the numbers come from.
        size: Height and width of the result; those of `x` by default.
        scale: Share of the area that a part has, smallest and largest.
        ratio: Width / height of a part in pixels, smallest and largest, log-uniform; those at which the part would
            not fit into the image are left out. Where none fits, the nearest one that does is taken.
    """
    _check_axes(x, 4, "images (B, C, H, W)")
    height, width = x.shape[-2:]
    area = random.uniform(x, low=scale[0], high=scale[1])
    natural = width / height
    narrowest, widest = area * natural, natural / area  # as high, and as wide, as the image
    low, high = narrowest.clamp(*ratio), widest.clamp(*ratio)
    aspect = (low * (high / low) ** random.uniform(x)).clamp(narrowest, widest)
    extent = torch.stack([area * aspect / natural, area * natural / aspect], dim=1).sqrt().clamp(max=1)
    size = (height, width) if size is None else size if isinstance(size, tuple) else (size, size)
    shrink = math.sqrt(scale[1]) * max(height / size[0], width / size[1])
    return _resample(x, extent, random.uniform(x, 2, low=-1, high=1), size, max(1, round(shrink)))


def _resample(x: Tensor, extent: Tensor, place: Tensor, size: tuple[int, int], samples: int) -> Tensor:
    """Cut out and resize.

    Args:
        x: (B, C, H, W).
        extent: (B, 2) width and height of the parts, as shares.
        place: (B, 2) where they are, from -1 (left, top) to 1.
        size: Height and width of the result.
        samples: Points averaged along each axis for one pixel of the result.
    """
    affine = torch.cat([torch.diag_embed(extent), (place * (1 - extent)).unsqueeze(-1)], dim=-1)
    # an axis of one has nothing to average
    factors = tuple(samples if length > 1 else 1 for length in x.shape[-2:])
    fine = [len(x), x.shape[1], size[0] * factors[0], size[1] * factors[1]]
    grid = F.affine_grid(affine, fine, align_corners=False)
    parts = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return parts if max(factors) == 1 else F.avg_pool2d(parts, factors)


def horizontal_flip(x: Tensor, random: BatchRandom, *, probability: float = 0.5) -> Tensor:
    """Mirror some images (B, C, H, W) left to right."""
    _check_axes(x, 4, "images (B, C, H, W)")
    return _sometimes(x, x.flip(-1), random, probability)


def color_jitter(
    x: Tensor,
    random: BatchRandom,
    *,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.0,
    probability: float = 1.0,
) -> Tensor:
    """Change brightness, then contrast, saturation and hue of some images.

    Args:
        x: (B, C, H, W); without three channels, grey is their mean, and there is no hue.
        random: Where the numbers come from.
        brightness: Factors lie in [1 - brightness, 1 + brightness].
        contrast: Likewise, of the distance from the image's mean grey.
        saturation: Likewise, of the distance from each pixel's grey.
        hue: Largest turn in either direction, as a share of the colour circle, at most 0.5; needs kornia.
        probability: Share of images that change.
    """
    _check_axes(x, 4, "images (B, C, H, W)")

    def factor(strength: float) -> Tensor:
        return _column(random.uniform(x, low=1 - strength, high=1 + strength), x)

    changed = x * factor(brightness)
    changed = torch.lerp(_grey(changed).mean((-2, -1), keepdim=True).expand_as(x), changed, factor(contrast))
    changed = torch.lerp(_grey(changed).expand_as(x), changed, factor(saturation))
    if hue:
        if x.shape[1] != 3:
            raise ValueError(f"only images with three channels have a hue, got {x.shape[1]}; set hue=0")
        changed = _kornia("hue").enhance.adjust_hue(changed, random.uniform(x, low=-hue, high=hue) * (2 * math.pi))
    return _sometimes(x, changed, random, probability)


def grayscale(x: Tensor, random: BatchRandom, *, probability: float = 0.2) -> Tensor:
    """Take the colour out of some images (B, C, H, W)."""
    _check_axes(x, 4, "images (B, C, H, W)")
    return _sometimes(x, _grey(x).expand_as(x), random, probability)


def blur(x: Tensor, random: BatchRandom, *, sigma: Range = (0.1, 2.0), probability: float = 0.5) -> Tensor:
    """Smooth some images (B, C, H, W) by a Gaussian of random width; needs kornia.

    Args:
        x: (B, C, H, W).
        random: Where the numbers come from.
        sigma: Deviation in pixels, smallest and largest.
        probability: Share of images that change.
    """
    _check_axes(x, 4, "images (B, C, H, W)")
    # two deviations on either side, as far as the image can be mirrored
    sides = [2 * min(math.ceil(2 * sigma[1]), length - 1) + 1 for length in x.shape[-2:]]
    deviations = random.uniform(x, low=sigma[0], high=sigma[1]).unsqueeze(-1).expand(-1, 2)
    return _sometimes(x, _kornia("blur").filters.gaussian_blur2d(x, tuple(sides), deviations), random, probability)


def solarize(x: Tensor, random: BatchRandom, *, threshold: float = 0.5, probability: float = 0.2) -> Tensor:
    """Invert what is at least as bright as `threshold`, in some images (B, C, H, W) of intensities in [0, 1]."""
    _check_axes(x, 4, "images (B, C, H, W)")
    return _sometimes(x, torch.where(x < threshold, x, 1 - x), random, probability)


# Time series


def time_crop(x: Tensor, random: BatchRandom, *, size: int | None = None, scale: Range = (0.5, 1.0)) -> Tensor:
    """A piece of each series, stretched or shrunk to one length (linear; averaged where it shrinks to half or less).

    Args:
        x: (B, C, T).
        random: Where the numbers come from.
        size: Length of the result; T by default.
        scale: Share of the time that a piece has, smallest and largest.
    """
    _check_axes(x, 3, "series (B, C, T)")
    length = x.shape[-1]
    size = length if size is None else size
    share = random.uniform(x, low=scale[0], high=scale[1])
    extent = torch.stack([share, torch.ones_like(share)], dim=1)
    place = random.uniform(x, 1, low=-1, high=1).expand(-1, 2)
    return _resample(x.unsqueeze(2), extent, place, (1, size), max(1, round(scale[1] * length / size))).squeeze(2)


def random_scaling(x: Tensor, random: BatchRandom, *, deviation: float = 0.1) -> Tensor:
    """Multiply each channel of each sample (B, C, ...) by a normal number around 1."""
    factors = 1 + deviation * random.normal(x, x.shape[1])
    return x * factors.view(*factors.shape, *[1] * (x.ndim - 2))


# Anything


def gaussian_noise(x: Tensor, random: BatchRandom, *, deviation: float = 0.1) -> Tensor:
    """Add normal noise to each number of (B, ...)."""
    return x + deviation * random.normal(x, *x.shape[1:])


def mask_features(x: Tensor, random: BatchRandom, *, probability: float = 0.2) -> Tensor:
    """Set some features of vectors (B, D), or some channels of (B, C, ...), to 0; each has its own chance."""
    kept = random.uniform(x, x.shape[1]) >= probability
    return x * kept.view(*kept.shape, *[1] * (x.ndim - 2))


def _check_axes(x: Tensor, axes: int, wanted: str) -> None:
    if x.ndim != axes:
        raise ValueError(f"expected {wanted}, got a tensor of shape {tuple(x.shape)}")


def _column(values: Tensor, x: Tensor) -> Tensor:
    """(B,) values, one a sample, in a shape that multiplies `x`."""
    return values.view(-1, *[1] * (x.ndim - 1))


def _sometimes(x: Tensor, changed: Tensor, random: BatchRandom, probability: float) -> Tensor:
    return torch.where(_column(random.uniform(x) < probability, x), changed, x)


def _grey(x: Tensor) -> Tensor:
    """(B, 1, H, W): luma (ITU-R BT.601) of three channels, the mean of any other number."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    red, green, blue = x.unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue).unsqueeze(1)


def _kornia(what: str) -> Any:
    try:
        import kornia
    except ImportError as error:
        raise ImportError(f"{what} needs kornia: pip install 'jepa-lab[augment]'") from error
    return kornia
