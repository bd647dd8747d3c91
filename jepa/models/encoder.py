"""The built-in encoder: a transformer over the tokens of each sample.

Dosovitskiy et al. 2020 (arXiv 2010.11929) without class token; registers: Darcet et al. 2023 (arXiv 2309.16588).
Axes: B batch, N tokens, K kept tokens, M wanted tokens, D features.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from jepa.models.base import BaseModel, describe, register
from jepa.models.layers import LAYER_NORM_EPS, heads_of, init_weights, make_blocks, run_blocks
from jepa.models.positions import Positions, distinct, gather_tokens
from jepa.models.tokenizers import Tokenizer


@register
class Encoder(BaseModel):
    """Encodes vectors, token sequences, and (through a tokenizer) images, videos and time series.

    A vector is one token; samples of a batch never attend to each other. An input of another size than the
    tokenizer's, such as a small crop, is taken where the tokenizer can cut it; its positions are spread over the same
    extent as those of a whole input.

    Args:
        hidden_dim: Width of the embeddings.
        input_dim: Width of the input; by default the tokenizer's `token_dim`, or `hidden_dim` without one.
        depth: Transformer blocks.
        num_heads: Heads, a divisor of `hidden_dim`; about one for 64 features by default.
        mlp_ratio: Width of the MLPs as a multiple of `hidden_dim`.
        tokenizer: Cuts inputs into tokens, e.g. `ImageTokenizer`.
        positions: `"sincos"` (fixed, added to the tokens), `"table"` (the same, but stored with the weights: published
            ones bring their own; inputs of the tokenizer's size only) or `"rotary"` (in every block, see
            `rotary_positions`).
        registers: Learned tokens that every token may use as a scratch pad; they are not in the output.
        checkpoint_blocks: Spend time instead of memory: blocks keep nothing for the backward pass but their input,
            and are computed again there.

    Raises:
        ValueError: Sizes do not fit each other; the message names them.
    """

    takes_only: ClassVar[bool] = True  # tells target branches that forward has only=

    def __init__(
        self,
        hidden_dim: int,
        input_dim: int | None = None,
        *,
        depth: int = 4,
        num_heads: int | None = None,
        mlp_ratio: float = 4.0,
        tokenizer: Tokenizer | None = None,
        positions: Literal["sincos", "table", "rotary"] = "sincos",
        registers: int = 0,
        checkpoint_blocks: bool = False,
    ) -> None:
        super().__init__()
        if hidden_dim < 1 or depth < 1:
            raise ValueError(f"hidden_dim and depth must be at least 1, got {hidden_dim} and {depth}")
        if registers < 0:
            raise ValueError(f"registers must be at least 0, got {registers}")
        width = hidden_dim if tokenizer is None else tokenizer.token_dim
        if tokenizer is not None and input_dim not in (None, width):
            raise ValueError(f"input_dim={input_dim} contradicts the tokenizer, whose tokens have {width} numbers")
        self.hidden_dim = hidden_dim
        self.input_dim = width if input_dim is None else input_dim
        if self.input_dim < 1:
            raise ValueError(f"input_dim must be at least 1, got {input_dim}")
        self._options: dict[str, Any] = {
            "depth": depth,
            "num_heads": num_heads,
            "mlp_ratio": mlp_ratio,
            "positions": positions,
            "registers": registers,
            "checkpoint_blocks": checkpoint_blocks,
        }
        self.checkpoint_blocks = checkpoint_blocks
        self.tokenizer = tokenizer
        self.embed = nn.Linear(self.input_dim, hidden_dim)
        heads = heads_of(hidden_dim, num_heads)
        self.positions = Positions(positions, None if tokenizer is None else tokenizer.grid, hidden_dim, heads)
        self.registers = nn.Parameter(torch.zeros(registers, hidden_dim)) if registers else None
        self.blocks = make_blocks(hidden_dim, depth, num_heads, mlp_ratio)
        self.norm = nn.LayerNorm(hidden_dim, eps=LAYER_NORM_EPS)
        init_weights(self.embed)
        if self.registers is not None:
            nn.init.trunc_normal_(self.registers, std=0.02)

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        tokenizer = None if self.tokenizer is None else describe(self.tokenizer)
        return {"hidden_dim": self.hidden_dim, "input_dim": self.input_dim, **self._options, "tokenizer": tokenizer}

    def forward(self, x: Tensor, keep: Tensor | None = None, only: Tensor | None = None) -> Tensor:
        """Encode a batch.

        Args:
            x: (B, D_in) vectors, (B, N, D_in) tokens, or what the tokenizer takes.
            keep: (B, K) integer positions: the encoder sees these tokens, the others are dropped at the start. Not for
                vectors.
            only: (B, M) integer positions, among the kept tokens with `keep`: every token is seen, but only these
                embeddings are wanted, so the last block computes no others. Not for vectors.

        Returns:
            (B, D) for vectors, otherwise (B, N, D), (B, K, D) with `keep`, (B, M, D) with `only`.
        """
        tokens, grid = self._cut(x, masked=keep is not None or only is not None)
        if tokens.ndim == 2:
            return self._transform(self.embed(tokens).unsqueeze(1)).squeeze(1)
        if keep is None:
            tokens, rotation = self.positions(self.embed(tokens), self.norm.weight.dtype, grid=grid)
        else:
            kept = self.embed(gather_tokens(tokens, keep))
            tokens, rotation = self.positions(kept, self.norm.weight.dtype, grid=grid, index=keep)
        if only is None:
            return self._transform(tokens, rotation)
        if only.ndim == 2 and len(only) == len(x) > 0 and only.device.type == "cpu":
            once, where = distinct(only, tokens.shape[1])  # elsewhere, waiting for the count costs more than it saves
            return gather_tokens(self._transform(tokens, rotation, once), where)
        if only.shape[-1] >= tokens.shape[1]:  # more than there are: cheaper to pick afterwards
            return gather_tokens(self._transform(tokens, rotation), only)
        return self._transform(tokens, rotation, only)

    def _cut(self, x: Tensor, masked: bool) -> tuple[Tensor, tuple[int, ...]]:
        """Tokens and their grid; positions of masks count on the tokenizer's own grid."""
        if self.tokenizer is not None:
            if masked:
                self.tokenizer.check(x)
            return self.tokenizer(x), self.tokenizer.grid_of(x)
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_dim:
            raise ValueError(
                f"Encoder takes (B, {self.input_dim}) vectors or (B, N, {self.input_dim}) tokens, got "
                f"{tuple(x.shape)}; set input_dim= to the width of your data, or tokenizer= for images, videos and "
                "time series"
            )
        if x.ndim == 2 and masked:
            raise ValueError(f"keep= and only= pick tokens, but the input is a batch of vectors {tuple(x.shape)}")
        return x, (x.shape[1],)

    def _transform(self, tokens: Tensor, rotation: Tensor | None = None, only: Tensor | None = None) -> Tensor:
        """Blocks and norm over tokens that know their positions; registers go in front, and do not come back."""
        wanted: Tensor | slice | None = only
        if self.registers is not None:
            count = len(self.registers)
            tokens = torch.cat([self.registers.expand(len(tokens), -1, -1).to(tokens.dtype), tokens], dim=1)
            wanted = slice(count, None) if only is None else only + count
            rotation = None if rotation is None else self.positions.unturned(rotation, count)
        return self.norm(
            run_blocks(self.blocks, tokens, only=wanted, rotation=rotation, recompute=self.checkpoint_blocks)
        )
