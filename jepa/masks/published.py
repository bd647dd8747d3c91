"""The masks of the published codes, with the same distribution and therefore the same bias: for parity studies only.

I-JEPA (arXiv 2301.08243): scale and aspect ratio from one number; no block reaches the last row or column; a context of
`min_keep` tokens or fewer is drawn again, and after every 20 tries one target fewer is kept free; all contexts are cut
to the shortest of the batch, in raster order. V-JEPA (arXiv 2404.08471): contexts and targets are cut to the shortest
of the batch, in raster order, which begins with the first frame. What a loop did there is one draw of all tries here.

Axes: B batch, K target blocks, L constraint levels, N tokens of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from jepa.masks.blocks import (
    Masks,
    Range,
    Shape,
    between,
    covered_by,
    host_draws,
    hundredths,
    place,
    suggestion,
)

MIN_KEEP = 10
TRIES = 20  # before a constraint is dropped
SHARES = [number / 1000 for number in range(1001)]  # numbers that may be drawn, for the checks of sizes


def block_shape(grid: Shape, scale: Range, aspect_ratio: Range, share: float) -> Shape:
    """Sides of a block of an image, always below those of the grid; one number decides scale and ratio."""
    area = int(math.prod(grid) * between(scale, share))
    ratio = between(aspect_ratio, share)
    return tuple(
        min(round(math.sqrt(wanted)), size - 1) for wanted, size in zip((area * ratio, area / ratio), grid, strict=True)
    )


def draw_blocks(
    grid: Shape,
    batch_size: int,
    generator: torch.Generator,
    *,
    num_targets: int,
    target_scale: Range,
    aspect_ratio: Range,
    context_scale: Range,
    min_keep: int,
) -> Masks:
    """A batch of I-JEPA's masks; options as in `BlockMaskSampler`."""
    target_share, context_share = host_draws(2, generator)
    tokens = math.prod(grid)
    shape = block_shape(grid, target_scale, aspect_ratio, target_share)
    targets = place(grid, shape, batch_size * num_targets, generator, unreached=1).view(batch_size, num_targets, -1)
    taken = covered_by(targets, tokens).cumsum(1, dtype=torch.int32).flip(1) > 0
    taken = F.pad(taken, (0, 0, 0, 1))  # (B, K + 1, N): by all targets, by all but the last, ..., by none
    shape = block_shape(grid, context_scale, (1.0, 1.0), context_share)
    kept = _first_that_keeps(grid, shape, taken, min_keep, generator)
    return Masks(_first_in_raster_order(kept), targets)


def _first_that_keeps(grid: Shape, shape: Shape, taken: Tensor, min_keep: int, generator: torch.Generator) -> Tensor:
    """(B, N) bool: the first of 20 tries a level that leaves a block more than `min_keep` tokens, without the taken."""
    batch, levels, tokens = taken.shape
    device = generator.device
    free = (~taken).float().view(batch * levels, 1, *grid)
    left = F.avg_pool2d(free, list(shape), stride=1, divisor_override=1)[..., :-1, :-1]  # at every reachable place
    columns = left.shape[-1]
    left = left.reshape(batch, levels, -1)
    tries = torch.randint(left.shape[2], (batch, levels, TRIES), generator=generator, device=device)
    works = (left.gather(2, tries) > min_keep).flatten(1)
    first = (works * torch.arange(levels * TRIES, 0, -1, device=device)).argmax(1, keepdim=True)
    corner = tries.flatten(1).gather(1, first)
    rows, cols = (torch.arange(side, device=device) for side in shape)
    corner = corner // columns * grid[1] + corner % columns
    block = corner + (rows.unsqueeze(1) * grid[1] + cols).flatten()
    level = (first // TRIES).unsqueeze(2).expand(-1, 1, tokens)
    return covered_by(block, tokens) & ~taken.gather(1, level).squeeze(1)


def _first_in_raster_order(mask: Tensor) -> Tensor:
    """(B, C) positions: as many of the first ones as the shortest row of the batch has. Waits for the device."""
    tokens = mask.shape[1]
    positions = torch.where(mask, torch.arange(tokens, device=mask.device), tokens)
    return positions.sort(dim=1).values[:, : int(mask.sum(1).min())]


def tube_shape(frame: Shape, scale: float, ratio: float) -> Shape:
    """Height and width of a block of a video; what does not fit into the frame is cut off."""
    area = int(math.prod(frame) * scale)
    return tuple(
        min(max(round(math.sqrt(wanted)), 1), size)
        for wanted, size in zip((area * ratio, area / ratio), frame, strict=True)
    )


def largest_tube(frame: Shape, scale: float, aspect_ratio: Range) -> int:
    """Tokens of the largest block of that scale in a frame."""
    return max(math.prod(tube_shape(frame, scale, between(aspect_ratio, share))) for share in SHARES)


def draw_tubes(draw: Callable[[], Tensor]) -> Masks:
    """A batch of V-JEPA's masks.

    Args:
        draw: Gives (B, N) bool, what the blocks of each sample cover together; called again while a sample has no
            context (the published loop; ended after 20 rounds, far beyond what any usable configuration needs).
    """
    covered = draw()
    for _ in range(TRIES):
        whole = covered.all(1, keepdim=True)
        if not whole.any():
            break
        covered = torch.where(whole, draw(), covered)
    return Masks(_first_in_raster_order(~covered), _first_in_raster_order(covered))


def check_blocks(grid: Shape, target_scale: Range, aspect_ratio: Range, context_scale: Range, min_keep: int) -> None:
    """Raise a ValueError where the published code could not draw a block, or would try for ever."""
    if len(grid) != 2 or min(grid) < 2:
        raise ValueError(
            f"official=True draws the published masks of images, at least (2, 2) tokens large, got grid {grid}; leave "
            "it off for a sequence"
        )
    for name, scale, ratio in (
        ("target_scale", target_scale, aspect_ratio),
        ("context_scale", context_scale, (1.0, 1.0)),
    ):
        smallest = smallest_block(grid, scale, ratio)
        if smallest > min_keep:
            continue
        options = ["official=False"]
        if low := _lowest(grid, scale, ratio, min_keep):
            options.append(f"{name} from {low:.2f}")
        if smallest > 1:
            options.append(f"min_keep up to {smallest - 1}")
        size = "1 token" if smallest == 1 else f"{smallest} tokens"
        raise ValueError(
            f"with {name}={scale} on grid {grid} the published code may draw a block of {size}, and would then search "
            f"for ever for one of more than min_keep={min_keep}; {suggestion(*options)}"
        )


def smallest_block(grid: Shape, scale: Range, aspect_ratio: Range) -> int:
    """Tokens of the smallest block that may be drawn."""
    return min(math.prod(block_shape(grid, scale, aspect_ratio, share)) for share in SHARES)


def _lowest(grid: Shape, scale: Range, aspect_ratio: Range, min_keep: int) -> float | None:
    """The smallest lower end of `scale`, in hundredths, that would be accepted."""
    lows = (low for low in hundredths(downwards=False) if low > scale[0])
    return next((low for low in lows if smallest_block(grid, (low, max(low, scale[1])), aspect_ratio) > min_keep), None)
