"""Which tokens are context and which are targets: block masks as a pure function of a generator.

I-JEPA's multi-block masks (Assran et al. 2023, arXiv 2301.08243), with three deliberate deviations from the published
collator, which make the masks unbiased and certain to end:

1. A block may touch every border; the published draw never reaches the last row and column.
2. Where masks are cut to equal length, a *random* subset stays; the published cut keeps the first in raster order,
   which removes the bottom of the picture from the context.
3. The shortest context is a share of the grid, and is completed from the positions outside the targets instead of
   drawing again and again, so every configuration ends. One that cannot hold is refused at construction.

Axes: B batch, K target blocks, M tokens a block, C context tokens, N = H * W tokens of the grid.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor


class Masks(NamedTuple):
    """Token positions, sorted within each row.

    Attributes:
        context: (B, C) int64, what the encoder sees.
        target: (B, K, M) int64, what is predicted; never in the context.
    """

    context: Tensor
    target: Tensor


class BlockMaskSampler:
    """Draws I-JEPA's masks: several target blocks, and one large context block without them.

    Args:
        grid: Rows and columns of tokens (one number for a sequence: its blocks are intervals).
        num_targets: Target blocks a sample, K; they may overlap.
        target_scale: Smallest and largest share of the grid a target block covers.
        aspect_ratio: Smallest and largest height / width of a target block.
        context_scale: Smallest and largest share of the grid the context block covers before targets are removed.
        min_keep: Smallest number of context tokens; a tenth of the grid by default.

    Raises:
        ValueError: A range is not ordered inside its limits, or targets could leave fewer than `min_keep` tokens of
            context; the message says which sizes would work.
    """

    def __init__(
        self,
        grid: tuple[int, ...],
        *,
        num_targets: int = 4,
        target_scale: tuple[float, float] = (0.15, 0.2),
        aspect_ratio: tuple[float, float] = (0.75, 1.5),
        context_scale: tuple[float, float] = (0.85, 1.0),
        min_keep: int | None = None,
    ) -> None:
        if len(grid) not in (1, 2) or min(grid) < 1:
            raise ValueError(f"grid must be one or two positive sizes, got {grid}")
        for name, (low, high) in {"target_scale": target_scale, "context_scale": context_scale}.items():
            if not 0 < low <= high <= 1:
                raise ValueError(f"{name} must satisfy 0 < low <= high <= 1, got {(low, high)}")
        if not 0 < aspect_ratio[0] <= aspect_ratio[1]:
            raise ValueError(f"aspect_ratio must satisfy 0 < low <= high, got {aspect_ratio}")
        if num_targets < 1:
            raise ValueError(f"num_targets must be at least 1, got {num_targets}")
        self.grid = tuple(grid)
        self.rows, self.columns = (1, grid[0]) if len(grid) == 1 else (grid[0], grid[1])
        self.num_targets = num_targets
        self.target_scale = target_scale
        self.aspect_ratio = aspect_ratio
        self.context_scale = context_scale
        tokens = self.rows * self.columns
        self.min_keep = max(1, tokens // 10) if min_keep is None else min_keep
        if self.min_keep < 1:
            raise ValueError(f"min_keep must be at least 1, got {min_keep}")
        largest = self._largest_block(target_scale[1])
        if self.min_keep + largest > tokens:
            raise ValueError(
                f"a target block may cover {largest} of the {tokens} tokens of grid {self.grid}, which leaves fewer "
                f"than min_keep={self.min_keep} as context; use {self._what_works(tokens - largest)}a larger grid"
            )

    def __call__(self, batch_size: int, generator: torch.Generator) -> Masks:
        """Draw the masks of a batch on the generator's device: one block size a batch, positions a sample."""
        device = generator.device
        draws = torch.rand(3, generator=generator, device=device).tolist()
        height, width = self._block_shape(_between(self.target_scale, draws[0]), _ratio(self.aspect_ratio, draws[1]))
        targets = self._place(batch_size * self.num_targets, height, width, generator)
        targets = targets.view(batch_size, self.num_targets, -1)
        covered = self._cover(targets)
        side = self._block_shape(_between(self.context_scale, draws[2]), self.rows / self.columns)
        block = self._place(batch_size, *side, generator)
        context = self._context(block, covered, generator)
        return Masks(context, targets)

    def _block_shape(self, scale: float, ratio: float) -> tuple[int, int]:
        if self.rows == 1:
            return 1, min(max(round(scale * self.columns), 1), self.columns)
        area = scale * self.rows * self.columns
        height = min(max(round(math.sqrt(area * ratio)), 1), self.rows)
        return height, min(max(round(math.sqrt(area / ratio)), 1), self.columns)

    def _largest_block(self, scale: float) -> int:
        """Tokens of the largest target block of that scale, over all aspect ratios."""
        low, high = self.aspect_ratio
        area = scale * self.rows * self.columns
        # height and width are rounded: between two of these ratios neither changes
        steps = [(side + 0.5) ** 2 / area for side in range(self.rows)]
        steps += [area / (side + 0.5) ** 2 for side in range(self.columns)]
        steps = [low, *sorted(ratio for ratio in steps if low < ratio < high), high]
        between = [math.sqrt(first * second) for first, second in itertools.pairwise(steps)]
        return max(math.prod(self._block_shape(scale, ratio)) for ratio in [*steps, *between])

    def _what_works(self, min_keep: int) -> str:
        """The largest `target_scale` in hundredths, and the largest `min_keep`, that would be accepted."""
        most = self.rows * self.columns - self.min_keep
        scales = (hundredths / 100 for hundredths in range(99, 0, -1))
        scale = next((scale for scale in scales if self._largest_block(scale) <= most), None)
        hint = "" if scale is None else f"target_scale up to {scale:.2f}, "
        return hint + (f"min_keep up to {min_keep}, or " if min_keep > 0 else "or " if hint else "")

    def _place(self, count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """(count, height * width) sorted positions of blocks placed anywhere on the grid."""
        device = generator.device
        top = torch.randint(self.rows - height + 1, (count, 1, 1), generator=generator, device=device)
        left = torch.randint(self.columns - width + 1, (count, 1, 1), generator=generator, device=device)
        rows = top + torch.arange(height, device=device).view(1, -1, 1)
        columns = left + torch.arange(width, device=device).view(1, 1, -1)
        return (rows * self.columns + columns).flatten(1)

    def _cover(self, targets: Tensor) -> Tensor:
        """(B, N) bool: positions the context may not have.

        Where all blocks together leave too little, the positions of some blocks of that sample are moved onto its
        first block, which always leaves enough.
        """
        batch = len(targets)
        tokens = self.rows * self.columns
        covered = torch.zeros(batch, tokens, dtype=torch.bool, device=targets.device)
        for block in targets.unbind(1):
            added = covered.scatter(1, block, True)
            fits = tokens - added.sum(1, keepdim=True) >= self.min_keep
            block.copy_(torch.where(fits, block, targets[:, 0]))
            covered = torch.where(fits, added, covered)
        return covered

    def _context(self, block: Tensor, covered: Tensor, generator: torch.Generator) -> Tensor:
        """Equally many random positions a sample: of the context block first, of the rest where that is too little."""
        inside = torch.zeros_like(covered).scatter(1, block, True)
        free = ~covered
        kept = (inside & free).sum(1)
        count = max(int(kept.min()), self.min_keep)
        order = torch.rand(covered.shape, generator=generator, device=covered.device)
        priority = order + inside + 2 * free  # free and inside, then free, never covered: min_keep are always free
        return priority.topk(count, dim=1).indices.sort(dim=1).values


def _between(limits: tuple[float, float], share: float) -> float:
    return limits[0] + share * (limits[1] - limits[0])


def _ratio(limits: tuple[float, float], share: float) -> float:
    return math.exp(_between((math.log(limits[0]), math.log(limits[1])), share))


def coverage(
    sampler: BlockMaskSampler, batches: int, batch_size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """How often each position is context, and how often it is in some target block.

    Returns:
        Two (H, W) tensors of probabilities, estimated over `batches * batch_size` samples.
    """
    tokens = sampler.rows * sampler.columns
    counts = torch.zeros(2, tokens, dtype=torch.float64, device=generator.device)
    for _ in range(batches):
        masks = sampler(batch_size, generator)
        for row, index in enumerate((masks.context, masks.target.flatten(1))):
            hit = torch.zeros(batch_size, tokens, dtype=torch.bool, device=generator.device).scatter(1, index, True)
            counts[row] += hit.sum(0)
    context, target = (counts / (batches * batch_size)).view(2, sampler.rows, sampler.columns)
    return context, target
