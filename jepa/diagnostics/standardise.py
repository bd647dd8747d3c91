"""Features on one scale, as probes need them."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = 1e-6  # of a feature's size: what float32 leaves of one that is constant
NEGLIGIBLE = 1e-10  # of the largest deviation


def standardise(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Both parts with the training part's mean taken off and its deviation divided out, in float64 on the CPU.

    A feature that does not vary in the training part, but for rounding, becomes 0 in both: divided by next to nothing,
    it would outweigh all others wherever it does vary.

    Args:
        train: (N, D).
        test: (M, D).
    """
    train, test = train.double().cpu(), test.double().cpu()
    mean, deviation = train.mean(0), train.std(0)
    varies = (deviation > ROUNDING * mean.abs()) & (deviation > NEGLIGIBLE * deviation.max())
    scale = torch.where(varies, 1 / deviation, 0.0)
    return (train - mean) * scale, (test - mean) * scale
