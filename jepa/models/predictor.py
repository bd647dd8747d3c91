"""Predictors: from context embeddings to target embeddings. Axes: B batch, K context tokens, M targets, D features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from jepa.models.base import BaseModel, register
from jepa.models.layers import LAYER_NORM_EPS, gather_tokens, init_weights, make_blocks, sincos_positions


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
        for block in self.blocks:
            tokens = block(tokens)
        return self.proj(self.norm(tokens)).view_as(context)


@register
class MaskedPredictor(BaseModel):
    """The narrow transformer of I-JEPA: fills in mask tokens at target positions (arXiv 2301.08243).

    Args:
        hidden_dim: Width of the encoder's embeddings.
        grid: Token grid of the encoder's tokenizer.
        predictor_dim: Width inside; half of `hidden_dim` by default.
        depth: Transformer blocks.
        num_heads: Heads, a divisor of `predictor_dim`.
        mlp_ratio: Width of the MLPs as a multiple of `predictor_dim`.
    """

    def __init__(
        self,
        hidden_dim: int,
        grid: tuple[int, ...],
        *,
        predictor_dim: int | None = None,
        depth: int = 2,
        num_heads: int | None = None,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        if hidden_dim < 1 or depth < 1:
            raise ValueError(f"hidden_dim and depth must be at least 1, got {hidden_dim} and {depth}")
        self.hidden_dim = hidden_dim
        self.grid = tuple(grid)
        self.predictor_dim = max(hidden_dim // 2, 1) if predictor_dim is None else predictor_dim
        if self.predictor_dim < 1:
            raise ValueError(f"predictor_dim must be at least 1, got {predictor_dim}")
        self._sizes: dict[str, Any] = {"depth": depth, "num_heads": num_heads, "mlp_ratio": mlp_ratio}
        self.embed = nn.Linear(hidden_dim, self.predictor_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, self.predictor_dim))
        self.blocks = make_blocks(self.predictor_dim, depth, num_heads, mlp_ratio)
        self.norm = nn.LayerNorm(self.predictor_dim, eps=LAYER_NORM_EPS)
        self.proj = nn.Linear(self.predictor_dim, hidden_dim)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        init_weights(self.embed)
        init_weights(self.proj)
        self.register_buffer("positions", sincos_positions(self.grid, self.predictor_dim), persistent=False)
        self.positions: Tensor

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        sizes = {"hidden_dim": self.hidden_dim, "grid": list(self.grid), "predictor_dim": self.predictor_dim}
        return {**sizes, **self._sizes}

    def forward(self, context: Tensor, context_mask: Tensor, target_mask: Tensor) -> Tensor:
        """Predict the target tokens of each sample.

        Args:
            context: (B, K, D) embeddings of the visible tokens.
            context_mask: (B, K) their positions.
            target_mask: (B, M) positions to predict.

        Returns:
            (B, M, D).
        """
        if context.ndim != 3 or context.shape[-1] != self.hidden_dim or context_mask.shape != context.shape[:2]:
            raise ValueError(
                f"MaskedPredictor takes a context of shape (B, K, {self.hidden_dim}) and one position for each of its "
                f"tokens, (B, K), got {tuple(context.shape)} and {tuple(context_mask.shape)}"
            )
        batch = len(context)
        positions = self.positions.expand(batch, -1, -1)
        seen = self.embed(context)
        seen = seen + gather_tokens(positions, context_mask)
        asked = self.mask_token.to(seen.dtype) + gather_tokens(positions, target_mask)
        tokens = torch.cat([seen, asked], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.proj(self.norm(tokens[:, seen.shape[1] :]))
