"""Multilayer perceptrons: an encoder of state vectors, and a predictor of embeddings.

Both look at one row at a time, layer normalisation included, so any number of ranks computes what one process with the
whole batch does.

Axes: B batch, T time or tokens, D features, W width inside.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from torch import Tensor, nn

from jepa.models.base import BaseModel, register

Norm = Literal["layer", "none"]


def mlp_layers(input_dim: int, output_dim: int, width: int, depth: int, norm: Norm) -> nn.Sequential:
    """`depth` hidden layers (linear, norm, GELU) of `width` features and a linear layer after them.

    Raises:
        ValueError: A size is too small, or the norm is unknown.
    """
    sizes = {"input_dim": input_dim, "output_dim": output_dim, "width": width}
    if min(sizes.values()) < 1:
        raise ValueError("widths must be at least 1, got " + ", ".join(f"{key}={size}" for key, size in sizes.items()))
    if depth < 0:
        raise ValueError(f"depth must be at least 0 hidden layers, got {depth}")
    if norm not in get_args(Norm):
        raise ValueError(f"norm must be one of {', '.join(map(repr, get_args(Norm)))}, got {norm!r}")
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers.append(nn.Linear(input_dim, width))
        if norm == "layer":
            layers.append(nn.LayerNorm(width))
        layers.append(nn.GELU())
        input_dim = width
    return nn.Sequential(*layers, nn.Linear(input_dim, output_dim))


@register
class MLPEncoder(BaseModel):
    """Encodes state vectors, each by itself; a sequence of them becomes a sequence of embeddings.

    Args:
        input_dim: Numbers in a state.
        hidden_dim: Width of the embeddings.
        width: Features of the hidden layers; twice `hidden_dim` by default.
        depth: Hidden layers; 0 is a linear map.
        norm: After each hidden linear layer: `"layer"` or `"none"`.
    """

    def __init__(
        self, input_dim: int, hidden_dim: int, *, width: int | None = None, depth: int = 2, norm: Norm = "layer"
    ) -> None:
        super().__init__()
        self.input_dim = input_dim
        self.hidden_dim = hidden_dim
        self._sizes: dict[str, Any] = {
            "width": 2 * hidden_dim if width is None else width,
            "depth": depth,
            "norm": norm,
        }
        self.layers = mlp_layers(input_dim, hidden_dim, **self._sizes)

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {"input_dim": self.input_dim, "hidden_dim": self.hidden_dim, **self._sizes}

    def forward(self, x: Tensor) -> Tensor:
        """(B, D_in) to (B, D), or (B, T, D_in) to (B, T, D)."""
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_dim:
            raise ValueError(
                f"MLPEncoder takes (B, {self.input_dim}) or (B, T, {self.input_dim}), got {tuple(x.shape)}; set "
                "input_dim= to the width of your data"
            )
        return self.layers(x)


@register
class MLPPredictor(BaseModel):
    """Maps embeddings to predictions, each by itself.

    Args:
        hidden_dim: Width of the embeddings.
        output_dim: Width of what it returns; `hidden_dim` by default.
        width: Features of the hidden layers; four times `hidden_dim` by default.
        depth: Hidden layers; 0 is a linear map.
        norm: After each hidden linear layer: `"layer"` or `"none"`.
    """

    def __init__(
        self,
        hidden_dim: int,
        output_dim: int | None = None,
        *,
        width: int | None = None,
        depth: int = 2,
        norm: Norm = "layer",
    ) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.output_dim = hidden_dim if output_dim is None else output_dim
        self._sizes: dict[str, Any] = {
            "width": 4 * hidden_dim if width is None else width,
            "depth": depth,
            "norm": norm,
        }
        self.layers = mlp_layers(hidden_dim, self.output_dim, **self._sizes)

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {"hidden_dim": self.hidden_dim, "output_dim": self.output_dim, **self._sizes}

    def forward(self, context: Tensor) -> Tensor:
        """(B, D) to (B, D_out), or (B, N, D) to (B, N, D_out)."""
        if context.ndim not in (2, 3) or context.shape[-1] != self.hidden_dim:
            raise ValueError(
                f"MLPPredictor takes (B, {self.hidden_dim}) or (B, N, {self.hidden_dim}), got {tuple(context.shape)}; "
                "its hidden_dim must be the encoder's"
            )
        return self.layers(context)
