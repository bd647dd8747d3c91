"""What block masks of any number of axes are made of: sizes, places, and what they cover.

Nothing here reads a tensor of the training device: sizes are drawn on the host, everything else stays where it is.

Axes: B batch, K blocks, M tokens a block, N tokens of the grid (row-major).
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

Range = tuple[float, float]
Shape = tuple[int, ...]

COMPLETED = 0.1  # share of samples whose masks are completed; fewer would cut more off all others


class Masks(NamedTuple):
    """Token positions, int64: a set in each row, in no particular order.

    Attributes:
        context: (B, C), what the encoder sees.
        target: (B, K, M) for K blocks that are predicted one by one, (B, M) for one set; never in the context, unless
            `official=True` allows it.
    """

    context: Tensor
    target: Tensor


def host_generator(generator: torch.Generator) -> torch.Generator:
    """A generator on the CPU that follows from another, for numbers that decide shapes.

    The state of a generator lives on the host on every device: reading it waits for nothing, and it differs with every
    draw. A CPU generator is used itself.
    """
    if generator.device.type == "cpu":
        return generator
    digest = hashlib.blake2b(generator.get_state().numpy().tobytes(), digest_size=7)
    return torch.Generator().manual_seed(int.from_bytes(digest.digest(), "big"))


def host_draws(count: int, generator: torch.Generator) -> list[float]:
    """`count` numbers in [0, 1) on the host."""
    return torch.rand(count, generator=host_generator(generator)).tolist()


def block_shape(grid: Shape, scale: float, ratio: float) -> Shape:
    """Sides of a block that covers `scale` of a grid of one or two axes.

    `ratio` is height / width; where a side would not fit, or be less than one token, the other one makes up for it.
    """
    area = max(scale * math.prod(grid), 1.0)  # at least a token
    if len(grid) == 1:
        return (round(area),)
    height = min(max(math.sqrt(area * ratio), area / grid[1], 1.0), grid[0], area)
    return round(height), min(round(area / height), grid[1])


def largest_block(grid: Shape, scale: float, aspect_ratio: Range) -> int:
    """Tokens of the largest block of that scale, over all aspect ratios."""
    low, high = aspect_ratio
    area = max(scale * math.prod(grid), 1.0)
    # height and width are rounded: between two of these ratios neither changes
    steps = [(side + 0.5) ** 2 / area for side in range(grid[0])]
    steps += [area / (side + 0.5) ** 2 for side in range(grid[-1])]
    steps = [low, *sorted(ratio for ratio in steps if low < ratio < high), high]
    between = [math.sqrt(first * second) for first, second in itertools.pairwise(steps)]
    return max(math.prod(block_shape(grid, scale, ratio)) for ratio in [*steps, *between])


def place(grid: Shape, shape: Shape, count: int, generator: torch.Generator, *, unreached: int = 0) -> Tensor:
    """(count, M) sorted positions of blocks placed anywhere on the grid.

    Args:
        grid: Sizes of the grid.
        shape: Sides of a block.
        count: Number of blocks.
        generator: On the device where the positions are wanted.
        unreached: Lines at the end of each axis that no block touches; only the published code has any.
    """
    corner: Tensor | int = 0
    for size, side in zip(grid, shape, strict=True):
        first = torch.randint(size - side + 1 - unreached, (count, 1), generator=generator, device=generator.device)
        corner = first + corner * size
    return corner + _from_corner(grid, shape, generator.device)


@lru_cache(maxsize=256)
def _from_corner(grid: Shape, shape: Shape, device: torch.device) -> Tensor:
    """(M,) positions of a block in the first corner of the grid."""
    positions = torch.zeros(1, dtype=torch.int64)
    for size, side in zip(grid, shape, strict=True):
        positions = (positions.unsqueeze(1) * size + torch.arange(side)).flatten()
    return positions.to(device)


def simulated_samples(tokens: int) -> int:
    """Samples from which the common length of masks is taken: hundreds, of about 200,000 tokens together."""
    return min(max(200_000 // tokens, 100), 1000)


def reached_by_most(sizes: Tensor) -> int:
    """The size that all but `COMPLETED` of the samples reach."""
    return int(sizes.sort().values[int(COMPLETED * len(sizes))])


def covered_by(positions: Tensor, tokens: int) -> Tensor:
    """(..., N) bool: which tokens are among `positions` (..., M)."""
    mask = torch.zeros(*positions.shape[:-1], tokens, dtype=torch.bool, device=positions.device)
    return mask.scatter_(-1, positions, True)


def between(limits: Range, share: float) -> float:
    """The number at that share of the way."""
    return limits[0] + share * (limits[1] - limits[0])


def ratio_between(limits: Range, share: float) -> float:
    """The ratio at that share of the way in the logarithm, where 2 and 1/2 are equally far from 1."""
    return math.exp(between((math.log(limits[0]), math.log(limits[1])), share))


def check_options(scales: Mapping[str, Range], aspect_ratio: Range, counts: Mapping[str, int]) -> None:
    """Raise a ValueError for a range that is not ordered inside its limits, or a count below 1."""
    for name, (low, high) in scales.items():
        if not 0 < low <= high <= 1:
            raise ValueError(f"{name} must satisfy 0 < low <= high <= 1, got {(low, high)}")
    if not 0 < aspect_ratio[0] <= aspect_ratio[1] < math.inf:
        raise ValueError(f"aspect_ratio must satisfy 0 < low <= high, got {aspect_ratio}")
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")


def check_context(
    what: str, grid: Shape, min_keep: int, scales: Mapping[str, float], largest: Callable[..., int]
) -> None:
    """Refuse sizes of blocks that could leave too little context.

    Args:
        what: One of the blocks, for the message.
        grid: Sizes of the grid.
        min_keep: Context tokens that every sample needs.
        scales: The largest scale of each kind by name.
        largest: Tokens of the largest block, given a scale of each kind.

    Raises:
        ValueError: The largest block leaves fewer than `min_keep` tokens; the message says which sizes would work.
    """
    tokens, most = math.prod(grid), largest(*scales.values())
    if min_keep + most <= tokens:
        return
    options = []
    for name in scales:
        smaller = ({**scales, name: scale} for scale in hundredths(downwards=True))
        fitting = (each[name] for each in smaller if largest(*each.values()) + min_keep <= tokens)
        if scale := next(fitting, None):
            options.append(f"{name} up to {scale:.2f}")
    if tokens > most:
        options.append(f"min_keep up to {tokens - most}")
    raise ValueError(
        f"{what} may cover {most} of the {tokens} tokens of grid {grid}, which leaves fewer than min_keep={min_keep} "
        f"as context; {suggestion(*options)}"
    )


def hundredths(*, downwards: bool) -> list[float]:
    """Scales to suggest: .99, .98, ... or .01, .02, ..."""
    scales = [number / 100 for number in range(1, 100)]
    return scales[::-1] if downwards else scales


def suggestion(*options: str) -> str:
    """The end of a refusal: what would work instead."""
    return "use " + ", ".join([*options, "or a larger grid"] if options else ["a larger grid"])
