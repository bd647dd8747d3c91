"""Transformer parts. Axes: B batch, N tokens, M wanted tokens, D features, H heads, E features of a head."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jepa.models.positions import gather_tokens, rotate

LAYER_NORM_EPS = 1e-6
Only = Tensor | slice  # the wanted tokens: (B, M) positions, or the same piece of every sample


def default_heads(dim: int) -> int:
    """The number of heads nearest to 64 features each that divides `dim`."""
    wanted = max(1, dim // 64)
    return max(heads for heads in range(1, wanted + 1) if dim % heads == 0)


class Attention(nn.Module):
    """Multi-head self-attention within each sample.

    Args:
        dim: Features.
        num_heads: Heads; must divide `dim`.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = heads_of(dim, num_heads)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, x: Tensor, *, only: Only | None = None, rotation: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Mix the tokens of each sample.

        Args:
            x: (B, N, D).
            only: Tokens whose outputs are wanted; every token is still looked at.
            rotation: Turns queries and keys by their positions: (N, 2 E) or (B, N, 2 E), see `rotary_positions`.
            mask: (N, N) bool, or (M, N) with `only`: whether a token (row) sees another (column).

        Returns:
            (B, N, D), or (B, M, D) with `only`.
        """
        if only is None:
            q, k, v = self._heads(self.qkv(x)).unbind(2)
        else:
            parts = (x.shape[-1], 2 * x.shape[-1])
            (asking, answering), (shift, other) = self.qkv.weight.split(parts), self.qkv.bias.split(parts)
            q = self._heads(F.linear(pick(x, only), asking, shift)).squeeze(2)
            k, v = self._heads(F.linear(x, answering, other)).unbind(2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if rotation is not None:
            k = rotate(k, rotation)
            q = rotate(q, rotation if only is None else pick(rotation.expand(len(x), -1, -1), only))
        return self.proj(attend(q, k, v, mask).transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        """(B, N, parts D) to (B, N, parts, H, E)."""
        return x.unflatten(-1, (-1, self.num_heads, self.proj.in_features // self.num_heads))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention of (B, H, M, E) queries over (B, H, N, E) keys and values, in torch's fused kernel.

    With a mask, (M, N) bool, a query sees only the keys where it is true.

    On a CPU, bfloat16 is widened to float32 for it. Measured with 16 to 1,024 tokens and heads of 32 and 64 on one
    thread of an AVX-512 processor without matrix units: with gradients that took .12 to .57 of the kernel's time in
    bfloat16 (plain products .15 to 1.2); without gradients .66 to 1.0 from 144 tokens on, but 1.1 to 1.8 for fewer.
    In float32 plain products took 1.1 to 1.9 of the kernel's time with gradients, and 1.3 to 4.4 without. With a mask,
    4 to 1,024 tokens: .18 to .91 with gradients (plain products .20 to 1.2), .71 to .80 without from 256 tokens on.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and (q.requires_grad or k.shape[-2] > 128):
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), mask).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, mask)


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


def make_mlp(dim: int, mlp_ratio: float) -> MLP:
    """The MLP of a block, `mlp_ratio` times as wide inside as outside.

    Raises:
        ValueError: There would be no feature inside.
    """
    if not 1 <= dim * mlp_ratio < math.inf:
        raise ValueError(
            f"mlp_ratio must be positive and give the width {dim} at least one hidden feature, got {mlp_ratio}"
        )
    return MLP(dim, int(dim * mlp_ratio))


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
        self.mlp = make_mlp(dim, mlp_ratio)

    def forward(self, x: Tensor, *, only: Only | None = None, rotation: Tensor | None = None) -> Tensor:
        """(B, N, D) to (B, N, D), or to (B, M, D) with `only`. Arguments as of `Attention`."""
        mixed = self.attn(self.norm1(x), only=only, rotation=rotation)
        x = mixed + (x if only is None else pick(x, only))
        return x + self.mlp(self.norm2(x))


def pick(x: Tensor, only: Only) -> Tensor:
    """Tokens of (B, N, D): a piece of every sample, or those at (B, M) positions."""
    return x[:, only] if isinstance(only, slice) else gather_tokens(x, only)


def run_blocks(
    blocks: Iterable[nn.Module],
    x: Tensor,
    *,
    only: Only | None = None,
    rotation: Tensor | None = None,
    recompute: bool = False,
) -> Tensor:
    """Apply blocks one after the other; the last computes no more than the wanted tokens.

    Args:
        blocks: Of the type `Block`.
        x: (B, N, D).
        only: Tokens whose outputs are wanted; all by default.
        rotation: As for `Attention`.
        recompute: Keep no activations inside a block for the backward pass, and compute them again there.

    Returns:
        (B, N, D), or (B, M, D) with `only`.
    """
    *first, last = blocks
    for block, wanted in [*((block, None) for block in first), (last, only)]:
        if recompute and torch.is_grad_enabled():
            # nothing inside is random
            x = checkpoint(block, x, only=wanted, rotation=rotation, use_reentrant=False, preserve_rng_state=False)
        else:
            x = block(x, only=wanted, rotation=rotation)
    return x


def heads_of(dim: int, num_heads: int | None) -> int:
    """`num_heads`, or the default for that width.

    Raises:
        ValueError: It is not positive, or does not divide the width.
    """
    heads = default_heads(dim) if num_heads is None else num_heads
    if heads < 1:
        raise ValueError(f"num_heads must be at least 1, got {heads}")
    if dim % heads:
        raise ValueError(f"num_heads={heads} must divide the width {dim}")
    return heads


def make_blocks(dim: int, depth: int, num_heads: int | None, mlp_ratio: float) -> nn.ModuleList:
    """`depth` blocks, initialised as in I-JEPA: normal(0, .02) weights, residual outputs shrunk with depth."""
    blocks = [Block(dim, heads_of(dim, num_heads), mlp_ratio) for _ in range(depth)]
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
