"""V-JEPA's masks of videos (Bardes et al. 2024, arXiv 2404.08471), equally likely at every time and certain to end.

Blocks of space and time are drawn anywhere; what they cover together is the target, the rest is the context. Deliberate
deviations from the published code, whose own masks are drawn with `official=True`:

1. Masks of equal length are a *random* subset; the published cut keeps the first in raster order, which begins with the
   first frame, so that late frames are almost never predicted. Blocks last through the clip, but each frame loses other
   tokens to the cut: the distribution is the same at every time, the masks themselves are not.
2. The lengths follow from the size of the blocks: nine of ten samples have as much (found once for each size by a small
   simulation). On 8 x 14 x 14 tokens, eight small blocks give 26 % of all tokens as context and 54 % as target, two
   large ones 7 % and 72 %. The published ones are the shortest of the batch.
3. Where a sample has less (5 to 12 % of them there), random positions of the other kind complete it; the published
   code draws again where there is no context at all. A configuration in which one block could leave too little is
   refused at construction.
4. The aspect ratio is drawn evenly in its logarithm, so that upright and lying blocks are equally likely.

Axes: B batch, K blocks, M target tokens, C context tokens, N = T * H * W tokens of the grid.
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


class TubeMaskSampler:
    """Draws one group of V-JEPA's masks: the union of several blocks is the target, the rest the context.

    Args:
        grid: Tokens in time, rows and columns.
        num_blocks: Blocks a sample, K; they may overlap.
        spatial_scale: Smallest and largest share of a frame that a block covers.
        temporal_scale: Smallest and largest share of the clip's length that a block lasts.
        aspect_ratio: Smallest and largest height / width of a block.
        min_keep: Smallest number of context tokens; a fiftieth of the grid by default (1 in the published code).
        official: Draw as the published code does, with its bias, for comparisons with it. The lengths of its masks
            wait for the device.

    Raises:
        ValueError: The grid does not have three axes, a range is not ordered inside its limits, or one block could
            leave fewer than `min_keep` tokens of context; the message says which sizes would work.
    """

    def __init__(
        self,
        grid: Shape,
        *,
        num_blocks: int = 8,
        spatial_scale: Range = (0.15, 0.15),
        temporal_scale: Range = (1.0, 1.0),
        aspect_ratio: Range = (0.75, 1.5),
        min_keep: int | None = None,
        official: bool = False,
    ) -> None:
        if len(grid) != 3 or min(grid) < 1:
            raise ValueError(f"grid must be three positive sizes, (time, rows, columns), got {grid}")
        self.grid = tuple(grid)
        self.num_blocks = num_blocks
        self.spatial_scale = spatial_scale
        self.temporal_scale = temporal_scale
        self.aspect_ratio = aspect_ratio
        self.official = official
        self.min_keep = (1 if official else max(1, self.tokens // 50)) if min_keep is None else min_keep
        self.check()
        self._lengths: dict[Shape, tuple[int, int]] = {}

    def check(self) -> None:
        """Raise a ValueError where the ranges, as they are now, do not hold; they may be replaced between two draws."""
        scales = {"spatial_scale": self.spatial_scale, "temporal_scale": self.temporal_scale}
        check_options(scales, self.aspect_ratio, {"num_blocks": self.num_blocks, "min_keep": self.min_keep})
        highest = {name: scale[1] for name, scale in scales.items()}
        check_context("a block", self.grid, self.min_keep, highest, self._largest)

    @property
    def tokens(self) -> int:
        """Tokens of the grid, N."""
        return math.prod(self.grid)

    def __call__(self, batch_size: int, generator: torch.Generator) -> Masks:
        """Draw the masks of a batch on the generator's device: one block size a batch, positions a sample."""
        shape = self._shape(*host_draws(3, generator))
        if self.official:
            return published.draw_tubes(lambda: self._covered(shape, batch_size, generator))
        seen, hidden = self._mask_lengths(shape)
        order = torch.rand(batch_size, self.tokens, generator=generator, device=generator.device)
        order += self._covered(shape, batch_size, generator)  # what is covered comes after what is not
        context = order.topk(seen, dim=1, largest=False, sorted=False).indices
        order.scatter_(1, context, -1)
        return Masks(context, order.topk(hidden, dim=1, sorted=False).indices)

    def _shape(self, time: float, scale: float, ratio: float) -> Shape:
        frame, spatial = self.grid[1:], between(self.spatial_scale, scale)
        if self.official:
            sides = published.tube_shape(frame, spatial, between(self.aspect_ratio, ratio))
        else:
            sides = block_shape(frame, spatial, ratio_between(self.aspect_ratio, ratio))
        return self._lasts(between(self.temporal_scale, time)), *sides

    def _lasts(self, scale: float) -> int:
        frames = self.grid[0] * scale
        return max(1, int(frames) if self.official else round(frames))

    def _covered(self, shape: Shape, count: int, generator: torch.Generator) -> Tensor:
        """(count, N) bool: what the blocks of each sample cover together."""
        blocks = place(self.grid, shape, count * self.num_blocks, generator)
        return covered_by(blocks.view(count, -1), self.tokens)

    def _mask_lengths(self, shape: Shape) -> tuple[int, int]:
        """Context and target tokens a sample: what nine of ten samples have, and at least `min_keep` of context."""
        if shape not in self._lengths:
            sizes = self._covered(shape, simulated_samples(self.tokens), torch.Generator().manual_seed(0)).sum(1)
            seen = max(self.min_keep, reached_by_most(self.tokens - sizes))
            self._lengths[shape] = seen, min(reached_by_most(sizes), self.tokens - seen)
        return self._lengths[shape]

    def _largest(self, spatial: float, temporal: float) -> int:
        largest = published.largest_tube if self.official else largest_block
        return self._lasts(temporal) * largest(self.grid[1:], spatial, self.aspect_ratio)
