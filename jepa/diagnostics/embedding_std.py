"""Standard deviation of normalised embeddings: near 0 means that all samples look alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def embedding_std(x: Tensor) -> Tensor:
    """Mean standard deviation of the features of L2-normalised embeddings, times sqrt(D).

    Args:
        x: (B, D).

    Returns:
        0-d: 0 for a complete collapse, about 1 for embeddings that point in all directions.

    Source: Chen and He 2020, SimSiam (arXiv 2011.10566), section 4.1, scaled so that the ideal is 1 at any width.
    """
    return F.normalize(x.float(), dim=1).std(dim=0, correction=0).mean() * x.shape[1] ** 0.5
