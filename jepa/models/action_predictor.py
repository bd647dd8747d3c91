"""A predictor of what happens next: a causal transformer over frame embeddings, conditioned on actions.

The predictor of LeWorldModel (Maes et al. 2026, arXiv 2603.19312; depth 6, 16 heads, history 3), whose actions enter by
adaLN-zero (Peebles, Xie 2022, arXiv 2212.09748). For encoders that return tokens it attends in blocks: every token of a
frame sees all tokens of that frame and of earlier ones, as in V-JEPA 2-AC (Assran et al. 2025, arXiv 2506.09985).

Deviations: positions are fixed sine-cosine tables instead of learned; heads have the width divided by their number
instead of 64 features; V-JEPA 2-AC feeds actions as tokens of their own. There is no dropout.

Axes: B batch, T frames, H frames at the start of a rollout, K predicted frames, N tokens of a frame, D features,
A numbers in an action.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from jepa.models.base import BaseModel, register
from jepa.models.layers import LAYER_NORM_EPS, Attention, heads_of, init_weights, make_mlp
from jepa.models.positions import sincos_positions


def frame_mask(frames: int, tokens: int, device: torch.device | str | None = None) -> Tensor:
    """(T N, T N) bool: whether a token (row) sees another (column): those of its own frame and of earlier ones."""
    frame = torch.arange(frames, device=device).repeat_interleave(tokens)
    return frame.unsqueeze(1) >= frame


class ConditionedBlock(nn.Module):
    """A pre-norm transformer block whose shifts, scales and gates are read off a condition (adaLN-zero).

    Gates begin at zero, so the block begins as the identity, whatever the condition.

    Args:
        dim: Features.
        num_heads: Heads; must divide `dim`.
        mlp_ratio: Width of the MLP as a multiple of `dim`.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS, elementwise_affine=False)
        self.attn = Attention(dim, num_heads)
        self.mlp = make_mlp(dim, mlp_ratio)
        self.modulation = nn.Linear(dim, 6 * dim)
        self.apply(init_weights)
        nn.init.zeros_(self.modulation.weight)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, T, N, D) under a condition (B, T, 1, D), to (B, T, N, D)."""
        shift, scale, gate, shift2, scale2, gate2 = self.modulation(condition).chunk(6, dim=-1)
        seen = (self.norm(x) * (1 + scale) + shift).flatten(1, 2)
        x = x + gate * self.attn(seen, mask=frame_mask(x.shape[1], x.shape[2], x.device)).view_as(x)
        return x + gate2 * self.mlp(self.norm(x) * (1 + scale2) + shift2)


@register
class ActionPredictor(BaseModel):
    """Predicts the embedding of the next frame at every step, from the frames and actions so far.

    Args:
        hidden_dim: Width of the embeddings.
        action_dim: Numbers in an action, A.
        history: Most frames it looks back on, the present one included.
        grid: Token grid of a frame, for encoders that return (B, N, D); `None` for one vector a frame.
        predictor_dim: Width inside; `hidden_dim` by default.
        depth: Transformer blocks.
        num_heads: Heads, a divisor of `predictor_dim`; about one for 64 features by default.
        mlp_ratio: Width of the MLPs as a multiple of `predictor_dim`.

    Raises:
        ValueError: A size is too small, or the heads do not divide the width.
    """

    def __init__(
        self,
        hidden_dim: int,
        action_dim: int,
        *,
        history: int = 3,
        grid: tuple[int, ...] | None = None,
        predictor_dim: int | None = None,
        depth: int = 6,
        num_heads: int | None = None,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        width = hidden_dim if predictor_dim is None else predictor_dim
        sizes = {"hidden_dim": hidden_dim, "action_dim": action_dim, "history": history, "predictor_dim": width}
        for name, size in {**sizes, "depth": depth, "grid": min(grid or (1,))}.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.hidden_dim = hidden_dim
        self.action_dim = action_dim
        self.history = history
        self.grid = None if grid is None else tuple(grid)
        self.predictor_dim = width
        self._sizes: dict[str, Any] = {"depth": depth, "num_heads": num_heads, "mlp_ratio": mlp_ratio}
        self.embed = nn.Linear(hidden_dim, width)
        self.embed_action = nn.Sequential(nn.Linear(action_dim, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        heads = heads_of(width, num_heads)
        self.blocks = nn.ModuleList(ConditionedBlock(width, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.proj = nn.Linear(width, hidden_dim)
        init_weights(self.embed)
        init_weights(self.proj)
        table = sincos_positions((history, *(self.grid or ())), width).view(history, -1, width)
        self.register_buffer("positions", table, persistent=False)
        self.positions: Tensor

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            "hidden_dim": self.hidden_dim,
            "action_dim": self.action_dim,
            "history": self.history,
            "grid": None if self.grid is None else list(self.grid),
            "predictor_dim": self.predictor_dim,
            **self._sizes,
        }

    def forward(self, context: Tensor, actions: Tensor) -> Tensor:
        """Predict the next embedding after each frame and the action taken there.

        Args:
            context: (B, T, D), or (B, T, N, D) with a `grid`; T no more than `history`.
            actions: (B, T, A), `actions[:, t]` taken in frame t.

        Returns:
            The shape of `context`: at t the prediction of frame t + 1, from frames and actions 0 to t.
        """
        self._check(context, actions)
        frames = context if self.grid is not None else context.unsqueeze(2)
        x = self.embed(frames) + self.positions[: context.shape[1]]
        condition = self.embed_action(actions).unsqueeze(2)
        for block in self.blocks:
            x = block(x, condition)
        return self.proj(self.norm(x)).view_as(context)

    def rollout(self, start: Tensor, actions: Tensor) -> Tensor:
        """Predict several frames ahead, each from the predictions before it.

        Args:
            start: (B, H, D), or (B, H, N, D) with a `grid`: embeddings of the frames known, in order.
            actions: (B, H - 1 + K, A): those taken between the known frames, then those to try.

        Returns:
            (B, K, D) or (B, K, N, D).
        """
        return roll_out(self, start, actions, self.history)

    def _check(self, context: Tensor, actions: Tensor) -> None:
        tokens = () if self.grid is None else (math.prod(self.grid),)
        wanted = (*tokens, self.hidden_dim)
        if context.ndim < 3 or tuple(context.shape[2:]) != wanted:
            hint = "pass grid= for frames of several tokens" if not tokens else f"its grid is {self.grid}"
            raise ValueError(
                f"ActionPredictor takes frames (B, T, {', '.join(map(str, wanted))}), got {tuple(context.shape)}; "
                + hint
            )
        if not 1 <= context.shape[1] <= self.history:
            raise ValueError(
                f"ActionPredictor looks at 1 to history={self.history} frames, got {context.shape[1]}; pass the last "
                "ones, or build it with a longer history="
            )
        if tuple(actions.shape) != (*context.shape[:2], self.action_dim):
            raise ValueError(
                f"expected one action a frame, {(*context.shape[:2], self.action_dim)}, got {tuple(actions.shape)}"
            )


def roll_out(predictor: nn.Module, start: Tensor, actions: Tensor, history: int) -> Tensor:
    """Predict several frames ahead with any causal predictor, called as `predictor(context, actions)`.

    Args:
        predictor: Returns the shape of its context; its last frame is the prediction of the next one.
        start: (B, H, ...) embeddings of the frames known.
        actions: (B, H - 1 + K, A): those taken between the known frames, then those to try.
        history: Most frames to show the predictor at once.

    Returns:
        (B, K, ...).

    Raises:
        ValueError: There is no frame to start from, or no action for a first step.
    """
    known, total = start.shape[1], actions.shape[1]
    if not 1 <= known <= total:
        raise ValueError(
            f"a rollout from H frames takes H - 1 + K actions, H and K at least 1; got H = {known}, {total} actions"
        )
    window = start[:, -history:]
    predicted: list[Tensor] = []
    for end in range(known, total + 1):
        following = predictor(window, actions[:, end - window.shape[1] : end])[:, -1:]
        predicted.append(following)
        window = torch.cat([window, following], dim=1)[:, -history:]
    return torch.cat(predicted, dim=1)
