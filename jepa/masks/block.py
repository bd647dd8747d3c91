"""I-JEPA's multi-block masks (Assran et al. 2023, arXiv 2301.08243), unbiased and certain to end.

Deliberate deviations from the published collator, whose own masks are drawn with `official=True`:

1. A block may touch every border; the published draw never reaches the last row and column.
2. Contexts of equal length are a *random* subset; the published cut keeps the first in raster order, which removes the
   bottom of the picture.
3. The length of the context follows from the sizes of the blocks: nine of ten samples have as much to keep (found once
   for each pair of sizes by a small simulation). With the paper's numbers on 14 x 14 tokens it is 73.7 on average. The
   published one is the shortest of the batch (53 in batches of 64), so it falls with the batch size, differs between
   ranks, and has to be read back from the device in every step.
4. Where a sample has less, targets that leave too little room move onto its first one (in 5 % of samples there), and
   its context is completed from the positions outside the targets (in 5 %); the published code draws again and again.
   A configuration that cannot hold is refused at construction.
5. Scale and aspect ratio are drawn apart, the ratio evenly in its logarithm; the published code takes both from one
   number, so its largest blocks are always its tallest.

Axes: B batch, K target blocks, M tokens a block, C context tokens, N tokens of the grid.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jepa.masks import published
from jepa.masks.blocks import (
    Masks,
    Range,
    Shape,
    between,
    block_shape,
    check_context,
    check_options,
    covered_by,
    host_draws,
    largest_block,
    place,
    ratio_between,
    reached_by_most,
    simulated_samples,
)


class BlockMaskSampler:
    """Draws I-JEPA's masks: several target blocks, and one large context block without them.

    Args:
        grid: Rows and columns of tokens (one number for a sequence: its blocks are intervals).
        num_targets: Target blocks a sample, K; they may overlap.
        target_scale: Smallest and largest share of the grid a target block covers.
        aspect_ratio: Smallest and largest height / width of a target block.
        context_scale: Smallest and largest share of the grid the context block covers before targets are removed.
        min_keep: Smallest number of context tokens; a tenth of the grid by default (10 in the published code).
        official: Draw as the published code does, with its bias, for comparisons with it. Contexts may then overlap
            with targets (a constraint is dropped after every 20 failed tries), and their length waits for the device.

    Raises:
        ValueError: A range is not ordered inside its limits, or targets could leave fewer than `min_keep` tokens of
            context (with `official=True`: the published code could search for ever); the message says which sizes
            would work.
    """

    def __init__(
        self,
        grid: Shape,
        *,
        num_targets: int = 4,
        target_scale: Range = (0.15, 0.2),
        aspect_ratio: Range = (0.75, 1.5),
        context_scale: Range = (0.85, 1.0),
        min_keep: int | None = None,
        official: bool = False,
    ) -> None:
        if len(grid) not in (1, 2) or min(grid) < 1:
            raise ValueError(f"grid must be one or two positive sizes, got {grid}")
        self.grid = tuple(grid)
        self.num_targets = num_targets
        self.target_scale = target_scale
        self.aspect_ratio = aspect_ratio
        self.context_scale = context_scale
        self.official = official
        default = published.MIN_KEEP if official else max(1, self.tokens // 10)
        self.min_keep = default if min_keep is None else min_keep
        self.check()
        self._lengths: dict[tuple[Shape, Shape], int] = {}

    def check(self) -> None:
        """Raise a ValueError where the ranges, as they are now, do not hold; they may be replaced between two draws."""
        scales = {"target_scale": self.target_scale, "context_scale": self.context_scale}
        check_options(scales, self.aspect_ratio, {"num_targets": self.num_targets, "min_keep": self.min_keep})
        if self.official:
            ranges = self.target_scale, self.aspect_ratio, self.context_scale
            published.check_blocks(self.grid, *ranges, self.min_keep)
        else:
            highest = {"target_scale": self.target_scale[1]}
            check_context("a target block", self.grid, self.min_keep, highest, self._largest)

    @property
    def tokens(self) -> int:
        """Tokens of the grid, N."""
        return math.prod(self.grid)

    def __call__(self, batch_size: int, generator: torch.Generator) -> Masks:
        """Draw the masks of a batch on the generator's device: one block size a batch, positions a sample."""
        if self.official:
            return published.draw_blocks(
                self.grid,
                batch_size,
                generator,
                num_targets=self.num_targets,
                target_scale=self.target_scale,
                aspect_ratio=self.aspect_ratio,
                context_scale=self.context_scale,
                min_keep=self.min_keep,
            )
        scale, ratio, context_scale = host_draws(3, generator)
        shape = block_shape(self.grid, between(self.target_scale, scale), ratio_between(self.aspect_ratio, ratio))
        wide = 1.0 if len(self.grid) == 1 else self.grid[0] / self.grid[1]
        context_shape = block_shape(self.grid, between(self.context_scale, context_scale), wide)
        length = self._context_length(shape, context_shape)
        targets = self._targets(shape, batch_size, generator)
        if targets[0].numel() + length > self.tokens:
            targets, covered = self._with_room(targets, length)
        else:
            covered = covered_by(targets.flatten(1), self.tokens)
        return Masks(self._context(context_shape, covered, length, generator), targets)

    def _largest(self, scale: float) -> int:
        return largest_block(self.grid, scale, self.aspect_ratio)

    def _targets(self, shape: Shape, count: int, generator: torch.Generator) -> Tensor:
        """(count, K, M) positions of target blocks."""
        return place(self.grid, shape, count * self.num_targets, generator).view(count, self.num_targets, -1)

    def _context_length(self, shape: Shape, context_shape: Shape) -> int:
        """Context tokens a sample: what nine of ten samples have left of their context block, at least `min_keep`."""
        key = shape, context_shape
        if key not in self._lengths:
            samples, generator = simulated_samples(self.tokens), torch.Generator().manual_seed(0)
            covered = covered_by(self._targets(shape, samples, generator).flatten(1), self.tokens)
            left = covered_by(place(self.grid, context_shape, samples, generator), self.tokens) & ~covered
            self._lengths[key] = max(self.min_keep, reached_by_most(left.sum(1)))
        return self._lengths[key]

    def _with_room(self, targets: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Targets that leave `length` tokens free, and (B, N) bool, what they cover.

        The first block of a sample leaves enough; the blocks from which on it would be too little move onto the first.
        """
        covered = covered_by(targets, self.tokens)
        for number in range(1, self.num_targets):
            covered[:, number] |= covered[:, number - 1]  # by this block and all before it
        fits = covered.sum(2, dtype=torch.int32) <= self.tokens - length
        moved = torch.where(fits.unsqueeze(2), targets, targets[:, :1])
        return moved, covered[torch.arange(len(covered), device=covered.device), fits.sum(1) - 1]

    def _context(self, shape: Shape, covered: Tensor, length: int, generator: torch.Generator) -> Tensor:
        """Equally many random positions a sample: of the context block first, of the rest where that is too little."""
        priority = torch.rand(covered.shape, generator=generator, device=covered.device)
        if shape != self.grid:
            priority += covered_by(place(self.grid, shape, len(covered), generator), self.tokens)
        priority.masked_fill_(covered, -1)  # never covered ones: `length` are always free
        return priority.topk(length, dim=1, sorted=False).indices
