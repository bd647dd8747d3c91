"""Which samples a model takes for alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def nearest_neighbours(x: Tensor, sample: int, count: int = 5) -> tuple[Tensor, Tensor]:
    """The samples whose embeddings point most nearly in the direction of one sample's, seen from their mean.

    Args:
        x: (B, D) embeddings.
        sample: Whose neighbours, in [0, B).
        count: How many; fewer where there are no more.

    Returns:
        Their rows (count,), nearest first and without `sample` itself, and their cosine similarities.

    Raises:
        ValueError: There is no such sample, or `count` is not positive.
    """
    if not 0 <= sample < len(x):
        raise ValueError(f"sample must be in [0, {len(x)}), the samples of the batch, got {sample}")
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    directions = F.normalize(x.detach().float() - x.detach().float().mean(0), dim=1)
    likeness = directions @ directions[sample]
    likeness[sample] = -torch.inf
    similarities, rows = likeness.topk(min(count, len(x) - 1))
    return rows, similarities
