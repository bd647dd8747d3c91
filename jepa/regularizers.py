"""Terms against collapse: pure functions of a batch of embeddings, over the samples of all ranks.

Bardes, Ponce, LeCun 2021, VICReg (arXiv 2105.04906). Axes: B batch, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jepa.distributed import all_reduce_mean, world_size

EPS = 1e-4


def _centred(x: Tensor) -> Tensor:
    if x.ndim != 2:
        raise ValueError(f"expected embeddings of shape (B, D), got {tuple(x.shape)}; pool or flatten the tokens first")
    x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    return x - all_reduce_mean(x.mean(0))


def _samples(x: Tensor) -> int:
    total = len(x) * world_size()
    if total < 2:
        raise ValueError(f"variance and covariance need at least 2 samples in the global batch, got {total}")
    return total


def variance(x: Tensor, *, target: float = 1.0) -> Tensor:
    """Hinge on each feature's standard deviation: `mean_d relu(target - sqrt(var_d + 1e-4))`.

    Args:
        x: (B, D) embeddings of this rank; every rank must hold equally many.
        target: Standard deviation below which a feature costs.

    Returns:
        0-d. The variance is the unbiased one over all ranks, as in the paper.
    """
    total = _samples(x)
    spread = all_reduce_mean(_centred(x).square().mean(0)) * total / (total - 1)
    return torch.relu(target - (spread + EPS).sqrt()).mean()


def covariance(x: Tensor) -> Tensor:
    """Squared off-diagonal covariances, summed and divided by D (the paper's normalisation).

    Args:
        x: (B, D) embeddings of this rank; every rank must hold equally many.

    Returns:
        0-d.
    """
    total = _samples(x)
    centred = _centred(x)
    matrix = all_reduce_mean(centred.T @ centred / len(x)) * total / (total - 1)
    return (matrix.square().sum() - matrix.diagonal().square().sum()) / x.shape[1]
