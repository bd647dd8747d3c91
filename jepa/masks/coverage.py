"""How often each place of the grid is context, and how often it is a target: where masks are biased, it shows."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from jepa.masks.blocks import Masks, Shape, covered_by


class MaskSampler(Protocol):
    """What draws masks over a grid."""

    grid: Shape

    @property
    def tokens(self) -> int:
        """Tokens of the grid."""
        ...

    def __call__(self, batch_size: int, generator: torch.Generator) -> Masks:
        """Draw the masks of a batch."""
        ...


class Coverage(NamedTuple):
    """Probabilities by place: (H, W) for images, (1, N) for sequences, (T, H, W) for videos; float64.

    Attributes:
        context: Of being context.
        target: Of being in some target.
    """

    context: Tensor
    target: Tensor


def coverage(sampler: MaskSampler, batches: int, batch_size: int, generator: torch.Generator) -> Coverage:
    """Estimate how often each place is context, and how often target, over `batches * batch_size` samples."""
    counts = torch.zeros(2, sampler.tokens, dtype=torch.int64, device=generator.device)
    for _ in range(batches):
        for row, positions in enumerate(sampler(batch_size, generator)):
            counts[row] += covered_by(positions.flatten(1), sampler.tokens).sum(0)
    shape = (1, *sampler.grid) if len(sampler.grid) == 1 else sampler.grid
    context, target = (counts.cpu().double() / (batches * batch_size)).view(2, *shape)
    return Coverage(context, target)
