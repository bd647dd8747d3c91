"""Effective rank of a batch of embeddings: how many directions they really use."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def effective_rank(x: Tensor) -> Tensor:
    """RankMe: the exponential of the entropy of the normalised singular values.

    Args:
        x: (B, D) embeddings.

    Returns:
        0-d, between 1 and min(B, D) (after centring: B - 1); NaN if `x` holds NaN or infinity.

    Source: Garrido et al. 2022, RankMe (arXiv 2210.02885), equation 1. Deviation: the embeddings are centred first,
    because a common offset hides a collapse from the uncentred value. Computed from the smaller Gram matrix.
    """
    device = x.device
    x = x.cpu() if device.type == "mps" else x  # MPS has no float64
    x = x.double()  # in float32, the products below would lend a single direction a rank of 1.01
    if not bool(torch.isfinite(x).all()):
        return torch.tensor(float("nan"), device=device)
    x = x - x.mean(0)
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    shares = values / values.sum().clamp(min=torch.finfo(torch.float64).tiny)
    return torch.exp(-torch.xlogy(shares, shares).sum()).float().to(device)
