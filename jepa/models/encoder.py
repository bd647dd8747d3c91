"""The built-in encoder: a transformer over the tokens of each sample. Axes: B batch, N tokens, K kept, D features."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from jepa.models.base import BaseModel, describe, register
from jepa.models.layers import LAYER_NORM_EPS, gather_tokens, init_weights, make_blocks, sincos_positions
from jepa.models.tokenizers import Tokenizer


@register
class Encoder(BaseModel):
    """Encodes vectors, token sequences, and (through a tokenizer) images and time series.

    A vector is one token; samples of a batch never attend to each other. Positions are fixed sine-cosine tables.

    Args:
        hidden_dim: Width of the embeddings.
        input_dim: Width of the input; by default the tokenizer's `token_dim`, or `hidden_dim` without one.
        depth: Transformer blocks.
        num_heads: Heads, a divisor of `hidden_dim`; about one for 64 features by default.
        mlp_ratio: Width of the MLPs as a multiple of `hidden_dim`.
        tokenizer: Cuts inputs into tokens, e.g. `ImageTokenizer`.

    Raises:
        ValueError: Sizes do not fit each other; the message names them.
    """

    def __init__(
        self,
        hidden_dim: int,
        input_dim: int | None = None,
        *,
        depth: int = 4,
        num_heads: int | None = None,
        mlp_ratio: float = 4.0,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        super().__init__()
        if hidden_dim < 1 or depth < 1:
            raise ValueError(f"hidden_dim and depth must be at least 1, got {hidden_dim} and {depth}")
        width = hidden_dim if tokenizer is None else tokenizer.token_dim
        if tokenizer is not None and input_dim not in (None, width):
            raise ValueError(f"input_dim={input_dim} contradicts the tokenizer, whose tokens have {width} numbers")
        self.hidden_dim = hidden_dim
        self.input_dim = width if input_dim is None else input_dim
        if self.input_dim < 1:
            raise ValueError(f"input_dim must be at least 1, got {input_dim}")
        self._sizes: dict[str, Any] = {"depth": depth, "num_heads": num_heads, "mlp_ratio": mlp_ratio}
        self.tokenizer = tokenizer
        self.embed = nn.Linear(self.input_dim, hidden_dim)
        self.blocks = make_blocks(hidden_dim, depth, num_heads, mlp_ratio)
        self.norm = nn.LayerNorm(hidden_dim, eps=LAYER_NORM_EPS)
        init_weights(self.embed)
        grid = (1,) if tokenizer is None else tokenizer.grid
        self.register_buffer("positions", sincos_positions(grid, hidden_dim), persistent=False)
        self.positions: Tensor

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        tokenizer = None if self.tokenizer is None else describe(self.tokenizer)
        return {"hidden_dim": self.hidden_dim, "input_dim": self.input_dim, **self._sizes, "tokenizer": tokenizer}

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Encode a batch.

        Args:
            x: (B, D_in) vectors, (B, N, D_in) tokens, or what the tokenizer takes.
            keep: (B, K) integer positions; only these tokens are computed, the others are dropped before the first
                block. Not for vectors.

        Returns:
            (B, D) for vectors, (B, N, D) or (B, K, D) otherwise.
        """
        tokens = self._tokens(x)
        if tokens.ndim == 2:
            if keep is not None:
                raise ValueError(f"keep= picks tokens, but the input is a batch of vectors {tuple(x.shape)}")
            return self._transform(self.embed(tokens).unsqueeze(1)).squeeze(1)
        tokens = self.embed(tokens) + self._positions(tokens.shape[1])
        return self._transform(tokens if keep is None else gather_tokens(tokens, keep))

    def _tokens(self, x: Tensor) -> Tensor:
        if self.tokenizer is not None:
            return self.tokenizer(x)
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_dim:
            raise ValueError(
                f"Encoder takes (B, {self.input_dim}) vectors or (B, N, {self.input_dim}) tokens, got "
                f"{tuple(x.shape)}; set input_dim= to the width of your data, or tokenizer= for images and time series"
            )
        return x

    def _positions(self, count: int) -> Tensor:
        if self.tokenizer is None and len(self.positions) < count:
            table = sincos_positions((count,), self.hidden_dim)
            self.positions = table.to(self.positions)  # a longer sequence than any before
        return self.positions[:count]

    def _transform(self, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)
