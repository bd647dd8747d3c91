"""How the variance of embeddings is shared out among directions."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def covariance_spectrum(x: Tensor) -> Tensor:
    """Standard deviations along the principal directions, largest first.

    They are the singular values of the centred embeddings, divided by the root of the number of samples; their squares
    are the eigenvalues of the covariance.

    Args:
        x: (B, D) embeddings, any dtype.

    Returns:
        (min(B, D),) float64 on the CPU.

    Raises:
        ValueError: `x` is not (B, D), or holds NaN or infinity.
    """
    if x.ndim != 2 or not len(x):
        raise ValueError(f"expected embeddings (B, D), got {tuple(x.shape)}; pool over tokens first: x.mean(dim=1)")
    x = x.detach().cpu().double()
    if bad := int((~torch.isfinite(x)).sum()):
        raise ValueError(f"{bad} of {x.numel()} numbers of the embeddings are not finite; there is no spectrum")
    return torch.linalg.svdvals(x - x.mean(0)) / len(x) ** 0.5
