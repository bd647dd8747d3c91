"""Predictors: from context embeddings to target embeddings.

Axes: B batch, N tokens, C context tokens, K target blocks, M tokens of a block, D features.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from jepa.models.base import BaseModel, register
from jepa.models.layers import LAYER_NORM_EPS, heads_of, init_weights, make_blocks, run_blocks
from jepa.models.positions import Positions


@register
class Predictor(BaseModel):
    """A transformer that maps context embeddings to predictions of the same shape, conditioned on nothing else.

    Args:
        hidden_dim: Width of the embeddings.
        depth: Transformer blocks.
        num_heads: Heads, a divisor of `hidden_dim`.
        mlp_ratio: Width of the MLPs as a multiple of `hidden_dim`.
    """

    def __init__(
        self, hidden_dim: int, *, depth: int = 2, num_heads: int | None = None, mlp_ratio: float = 4.0
    ) -> None:
        super().__init__()
        if hidden_dim < 1 or depth < 1:
            raise ValueError(f"hidden_dim and depth must be at least 1, got {hidden_dim} and {depth}")
        self.hidden_dim = hidden_dim
        self._sizes: dict[str, Any] = {"depth": depth, "num_heads": num_heads, "mlp_ratio": mlp_ratio}
        self.blocks = make_blocks(hidden_dim, depth, num_heads, mlp_ratio)
        self.norm = nn.LayerNorm(hidden_dim, eps=LAYER_NORM_EPS)
        self.proj = nn.Linear(hidden_dim, hidden_dim)
        init_weights(self.proj)

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {"hidden_dim": self.hidden_dim, **self._sizes}

    def forward(self, context: Tensor) -> Tensor:
        """(B, D) to (B, D), or (B, N, D) to (B, N, D)."""
        if context.ndim not in (2, 3) or context.shape[-1] != self.hidden_dim:
            raise ValueError(
                f"Predictor takes (B, {self.hidden_dim}) or (B, N, {self.hidden_dim}), got {tuple(context.shape)}; "
                "its hidden_dim must be the encoder's"
            )
        tokens = context.unsqueeze(1) if context.ndim == 2 else context
        return self.proj(self.norm(run_blocks(self.blocks, tokens))).view_as(context)


@register
class MaskedPredictor(BaseModel):
    """The narrow transformer of I-JEPA and V-JEPA: fills in mask tokens at target positions.

    I-JEPA (arXiv 2301.08243) has one mask token, begun at a deviation of .02; V-JEPA (arXiv 2404.08471) has one for
    each of its groups of masks, begun at zero. The last block computes target tokens only.

    Args:
        hidden_dim: Width of the encoder's embeddings.
        grid: Token grid of the encoder's tokenizer.
        predictor_dim: Width inside; half of `hidden_dim` by default.
        depth: Transformer blocks.
        num_heads: Heads, a divisor of `predictor_dim`.
        mlp_ratio: Width of the MLPs as a multiple of `predictor_dim`.
        num_mask_tokens: Groups of masks that have a mask token of their own.
        positions: `"sincos"`, `"table"` or `"rotary"`, as for `Encoder`.
        checkpoint_blocks: Spend time instead of memory, as for `Encoder`.

    Raises:
        ValueError: Sizes do not fit each other; the message names them.
    """

    takes_blocks: ClassVar[bool] = True  # tells JEPA that target_mask may be (B, K, M)

    def __init__(
        self,
        hidden_dim: int,
        grid: tuple[int, ...],
        *,
        predictor_dim: int | None = None,
        depth: int = 2,
        num_heads: int | None = None,
        mlp_ratio: float = 4.0,
        num_mask_tokens: int = 1,
        positions: Literal["sincos", "table", "rotary"] = "sincos",
        checkpoint_blocks: bool = False,
    ) -> None:
        super().__init__()
        if hidden_dim < 1 or depth < 1:
            raise ValueError(f"hidden_dim and depth must be at least 1, got {hidden_dim} and {depth}")
        if not grid or min(grid) < 1:
            raise ValueError(f"grid must hold positive sizes, got {tuple(grid)}")
        if num_mask_tokens < 1:
            raise ValueError(f"num_mask_tokens must be at least 1, got {num_mask_tokens}")
        self.hidden_dim = hidden_dim
        self.grid = tuple(grid)
        self.predictor_dim = max(hidden_dim // 2, 1) if predictor_dim is None else predictor_dim
        if self.predictor_dim < 1:
            raise ValueError(f"predictor_dim must be at least 1, got {predictor_dim}")
        self.num_mask_tokens = num_mask_tokens
        self.checkpoint_blocks = checkpoint_blocks
        self._options: dict[str, Any] = {
            "depth": depth,
            "num_heads": num_heads,
            "mlp_ratio": mlp_ratio,
            "num_mask_tokens": num_mask_tokens,
            "positions": positions,
            "checkpoint_blocks": checkpoint_blocks,
        }
        self.embed = nn.Linear(hidden_dim, self.predictor_dim)
        self.mask_tokens = nn.Parameter(torch.zeros(num_mask_tokens, self.predictor_dim))
        heads = heads_of(self.predictor_dim, num_heads)
        self.positions = Positions(positions, self.grid, self.predictor_dim, heads)
        self.blocks = make_blocks(self.predictor_dim, depth, num_heads, mlp_ratio)
        self.norm = nn.LayerNorm(self.predictor_dim, eps=LAYER_NORM_EPS)
        self.proj = nn.Linear(self.predictor_dim, hidden_dim)
        if num_mask_tokens == 1:
            nn.init.trunc_normal_(self.mask_tokens, std=0.02)
        init_weights(self.embed)
        init_weights(self.proj)

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        sizes = {"hidden_dim": self.hidden_dim, "grid": list(self.grid), "predictor_dim": self.predictor_dim}
        return {**sizes, **self._options}

    def forward(self, context: Tensor, context_mask: Tensor, target_mask: Tensor, group: int | None = None) -> Tensor:
        """Predict the target tokens of each sample.

        Args:
            context: (B, C, D) embeddings of the visible tokens.
            context_mask: (B, C) their positions.
            target_mask: (B, M) positions to predict, or (B, K, M) for K blocks that do not see each other.
            group: Which mask token stands for the targets. Must be said where there are several, so that none can
                stay untrained unnoticed.

        Returns:
            (B, M, D) or (B, K, M, D).
        """
        if context.ndim != 3 or context.shape[-1] != self.hidden_dim or context_mask.shape != context.shape[:2]:
            raise ValueError(
                f"MaskedPredictor takes a context of shape (B, C, {self.hidden_dim}) and one position for each of its "
                f"tokens, (B, C), got {tuple(context.shape)} and {tuple(context_mask.shape)}"
            )
        if target_mask.ndim not in (2, 3) or len(target_mask) != len(context):
            raise ValueError(
                f"MaskedPredictor takes target positions of shape ({len(context)}, M) or ({len(context)}, K, M), "
                f"got {tuple(target_mask.shape)}"
            )
        blocks = target_mask if target_mask.ndim == 3 else target_mask.unsqueeze(1)
        seen = self.embed(context)
        asked = self._mask_token(group).to(seen.dtype).expand(*blocks.shape, -1)
        tokens, index = _before_each(seen, asked), _before_each(context_mask, blocks)
        tokens, rotation = self.positions(tokens, self.norm.weight.dtype, index=index)
        wanted = slice(context.shape[1], None)
        tokens = run_blocks(self.blocks, tokens, only=wanted, rotation=rotation, recompute=self.checkpoint_blocks)
        return self.proj(self.norm(tokens)).view(*target_mask.shape, self.hidden_dim)

    def _mask_token(self, group: int | None) -> Tensor:
        if group is None and self.num_mask_tokens > 1:
            raise ValueError(
                f"this predictor has {self.num_mask_tokens} mask tokens, one for each group of masks: say which with "
                f"group=0 to {self.num_mask_tokens - 1}, or build it with num_mask_tokens=1"
            )
        group = group or 0
        if not 0 <= group < self.num_mask_tokens:
            raise ValueError(
                f"group must lie in 0 to {self.num_mask_tokens - 1}, got {group}; num_mask_tokens= is the number of "
                "groups of masks"
            )
        return self.mask_tokens[group]


def _before_each(context: Tensor, blocks: Tensor) -> Tensor:
    """(B, C, ...) in front of each block of (B, K, M, ...): (B K, C + M, ...)."""
    count = blocks.shape[1]
    return torch.cat([context.unsqueeze(1).expand(-1, count, *context.shape[1:]), blocks], dim=2).flatten(0, 1)
