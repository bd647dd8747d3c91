"""Transformer parts. Axes: B batch, N tokens, D features, H heads."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYER_NORM_EPS = 1e-6


def default_heads(dim: int) -> int:
    """The number of heads nearest to 64 features each that divides `dim`."""
    wanted = max(1, dim // 64)
    return max(heads for heads in range(1, wanted + 1) if dim % heads == 0)


def sincos_positions(grid: tuple[int, ...], dim: int) -> Tensor:
    """Fixed sine-cosine position embeddings of a grid of any number of axes (row-major).

    The features are shared out among the axes; a remainder that does not fill a sine-cosine pair stays zero.

    Args:
        grid: Number of positions along each axis.
        dim: Number of features.

    Returns:
        (N, D) float32, N the product of `grid`.

    Source: Vaswani et al. 2017 (arXiv 1706.03762); 2-D form as in He et al. 2021 (arXiv 2111.06377).
    """
    pairs = dim // (2 * len(grid))
    frequencies = 10000.0 ** -(torch.arange(pairs, dtype=torch.float64) / max(pairs, 1))
    axes = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in grid), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequencies for axis in axes]
    table = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)
    return F.pad(table, (0, dim - table.shape[1])).float()


class Attention(nn.Module):
    """Multi-head self-attention within each sample.

    Args:
        dim: Features.
        num_heads: Heads; must divide `dim`.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads={num_heads} must divide the width {dim}")
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.num_heads, dim // self.num_heads).permute(2, 0, 3, 1, 4)
        if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad:
            # the fused kernel's bf16 backward is an order of magnitude slower on CPU than plain products
            mixed = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1).to(v.dtype) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, dim))


class MLP(nn.Module):
    """Two linear layers with a GELU between them.

    Args:
        dim: Features in and out.
        hidden: Features between.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block.

    Args:
        dim: Features.
        num_heads: Heads; must divide `dim`.
        mlp_ratio: Width of the MLP as a multiple of `dim`.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = MLP(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def make_blocks(dim: int, depth: int, num_heads: int | None, mlp_ratio: float) -> nn.ModuleList:
    """`depth` blocks, initialised as in I-JEPA: normal(0, .02) weights, residual outputs shrunk with depth."""
    heads = default_heads(dim) if num_heads is None else num_heads
    if heads < 1:
        raise ValueError(f"num_heads must be at least 1, got {heads}")
    blocks = [Block(dim, heads, mlp_ratio) for _ in range(depth)]
    for index, block in enumerate(blocks, start=1):
        block.apply(init_weights)
        for linear in (block.attn.proj, block.mlp.fc2):
            linear.weight.data.div_(math.sqrt(2.0 * index))
    return nn.ModuleList(blocks)


def init_weights(module: nn.Module) -> None:
    """Truncated normal weights of deviation .02, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Tokens of (B, N, D) at the positions (B, M) of each sample: (B, M, D).

    Raises:
        ValueError: `index` does not hold one row of positions a sample; `gather` itself would drop samples silently.
    """
    if index.ndim != 2 or len(index) != len(x):
        raise ValueError(f"expected one row of token positions a sample, ({len(x)}, K), got {tuple(index.shape)}")
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
