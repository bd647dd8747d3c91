"""Where each token is: tables added to tokens, or rotations of their queries and keys.

Sine and cosine: Vaswani et al. 2017 (arXiv 1706.03762), on grids as in He et al. 2021 (arXiv 2111.06377). Rotary: Su et
al. 2021 (arXiv 2104.09864), axis by axis as V-JEPA 2 publishes it (Assran et al. 2025, arXiv 2506.09985).
Axes: B batch, N tokens, K kept tokens, D features (E of one head).
"""

from __future__ import annotations

import difflib
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KINDS = ("sincos", "table", "rotary")


def sincos_positions(grid: tuple[int, ...], dim: int, extent: tuple[int, ...] | None = None) -> Tensor:
    """Fixed sine-cosine position embeddings of a grid of any number of axes (row-major).

    The features are shared out among the axes; a remainder that does not fill a sine-cosine pair stays zero.

    Args:
        grid: Number of positions along each axis.
        dim: Number of features.
        extent: Sizes of another grid that covers the same input, in whose units positions count; `grid` by default.

    Returns:
        (N, D) float32, N the product of `grid`.
    """
    pairs = dim // (2 * len(grid))
    angles = _angles(grid, pairs, extent)
    table = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)
    return F.pad(table, (0, dim - table.shape[1])).float()


def rotary_positions(grid: tuple[int, ...], dim: int, extent: tuple[int, ...] | None = None) -> Tensor:
    """Rotations of queries and keys for each position of a grid: what `rotate` takes.

    The features of a head are shared out among the axes and turned in neighbouring pairs; a remainder is left as it is.
    As in the published V-JEPA 2, feature j of an axis with P pairs turns by the frequency number j mod P, so the two
    features of a pair turn by different angles. Published weights need exactly this; the price is that a product of
    query and key depends on more than the distance of the two tokens.

    Args:
        grid: Number of positions along each axis.
        dim: Features of a head, E.
        extent: As for `sincos_positions`.

    Returns:
        (N, 2 E) float32: factors of the feature itself, then of its neighbour.
    """
    pairs = dim // (2 * len(grid))
    angles = torch.cat([angle.repeat(1, 2) for angle in _angles(grid, pairs, extent)], dim=1)
    sign = torch.tensor([-1.0, 1.0], dtype=angles.dtype).repeat(angles.shape[1] // 2)
    rest = dim - angles.shape[1]
    own, neighbour = F.pad(angles.cos(), (0, rest), value=1.0), F.pad(angles.sin() * sign, (0, rest))
    return torch.cat([own, neighbour], dim=1).float()


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn queries or keys by their positions.

    Args:
        x: (B, H, N, E).
        rotation: (N, 2 E) or (B, N, 2 E), rows of `rotary_positions`.
    """
    own, neighbour = rotation.to(x.dtype).unsqueeze(-3).chunk(2, dim=-1)
    return x * own + x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2) * neighbour


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Tokens of (B, N, D) at the positions (B, M) of each sample: (B, M, D).

    Raises:
        ValueError: `index` does not hold one row of positions a sample; `gather` itself would drop samples silently.
    """
    if index.ndim != 2 or len(index) != len(x):
        raise ValueError(f"expected one row of token positions a sample, ({len(x)}, K), got {tuple(index.shape)}")
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def distinct(index: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Each position once, where several blocks of a sample want the same.

    How many there are is read by the CPU, so on another device this waits for it.

    Args:
        index: (B, M) positions, any of them repeated.
        count: Positions there are, N.

    Returns:
        (B, U) positions without repetition, U the most that a sample has (others are filled up with positions that
        nobody wants), and (B, M): where in its row of those each position of `index` is.
    """
    wanted = torch.zeros(len(index), count, dtype=torch.int64, device=index.device).scatter(1, index, 1)
    most = int(wanted.sum(1).max())
    once = wanted.argsort(dim=1, descending=True, stable=True)[:, :most]
    return once, wanted.cumsum(1).gather(1, index) - 1


def _angles(grid: tuple[int, ...], pairs: int, extent: tuple[int, ...] | None) -> list[Tensor]:
    """(N, pairs) float64 an axis: position times falling frequency."""
    frequencies = 10000.0 ** -(torch.arange(pairs, dtype=torch.float64) / max(pairs, 1))
    along = [torch.arange(size, dtype=torch.float64) for size in grid]
    if extent is not None and extent != grid:
        # cell centres of the finer or coarser grid, in units of the other's cells
        along = [(axis + 0.5) * (other / len(axis)) - 0.5 for axis, other in zip(along, extent, strict=True)]
    return [axis.reshape(-1, 1) * frequencies for axis in torch.meshgrid(*along, indexing="ij")]


class Positions(nn.Module):
    """The positions of the tokens of one grid.

    Args:
        kind: `"sincos"` (a fixed table that is added), `"table"` (the same, but part of the state, for published
            weights that bring their own) or `"rotary"`.
        grid: Sizes of the token grid; `None` for sequences of any length.
        dim: Features of a token.
        num_heads: Heads that share them.

    Raises:
        ValueError: The kind is unknown, or does not fit the grid or the heads.
    """

    def __init__(self, kind: str, grid: tuple[int, ...] | None, dim: int, num_heads: int) -> None:
        super().__init__()
        if kind not in KINDS:
            nearest = difflib.get_close_matches(str(kind), KINDS, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise ValueError(f"positions must be one of {', '.join(map(repr, KINDS))}, got {kind!r}{hint}")
        if kind == "table" and grid is None:
            raise ValueError("positions='table' needs a grid of known size: give the encoder a tokenizer")
        axes = 1 if grid is None else len(grid)
        head = dim // num_heads
        if kind == "rotary" and (head < 2 * axes or head % 2):
            raise ValueError(
                f"positions='rotary' needs heads of an even number of features, at least {2 * axes} for a grid of "
                f"{axes} axes, got {head} ({dim} features, num_heads={num_heads})"
            )
        self.kind = kind
        self.grid = grid
        self._features = head if kind == "rotary" else dim
        self._others: dict[tuple[int, ...], Tensor] = {}
        self.register_buffer("table", self._compute(grid or (1,)), persistent=kind == "table")
        self.table: Tensor

    def forward(
        self, tokens: Tensor, dtype: torch.dtype, *, grid: tuple[int, ...] | None = None, index: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Tell each token where it is.

        Args:
            tokens: (B, N, D), or (B, K, D) with `index`.
            dtype: Of the model's weights; the positions are added in it.
            grid: The tokens' grid, where it is another than the one given at construction.
            index: (B, K) positions of the tokens.

        Returns:
            The tokens, and the rotations (N, 2 E) or (B, K, 2 E) for the blocks where the kind is `"rotary"`.
        """
        table = self._rows(grid or (tokens.shape[1],) if self.grid is None else grid or self.grid).to(dtype)
        if index is not None:
            table = gather_tokens(table.expand(len(index), -1, -1), index)
        return (tokens, table) if self.kind == "rotary" else (tokens + table, None)

    def unturned(self, rotation: Tensor, count: int) -> Tensor:
        """`rotation`, with `count` tokens in front that have no position and are left as they are."""
        still = torch.zeros_like(rotation[..., :1, :])
        still[..., : self._features] = 1.0
        return torch.cat([still.expand(*rotation.shape[:-2], count, -1), rotation], dim=-2)

    def _rows(self, grid: tuple[int, ...]) -> Tensor:
        if grid == self.grid:
            return self.table
        if self.grid is None:
            if len(self.table) < grid[0]:
                self.table = self._compute_to_keep(grid)  # a longer sequence than any before
            return self.table[: grid[0]]
        if self.kind == "table":
            raise ValueError(
                f"positions='table' holds the positions of a {self.grid} grid of tokens, got an input of {grid}; "
                "resize it, or build the encoder with positions='sincos' or 'rotary'"
            )
        if grid not in self._others:
            self._others[grid] = self._compute_to_keep(grid)
        return self._others[grid]

    @torch.inference_mode(False)  # or training could not use what an evaluation leaves behind
    def _compute_to_keep(self, grid: tuple[int, ...]) -> Tensor:
        return self._compute(grid).to(self.table)

    def _compute(self, grid: tuple[int, ...]) -> Tensor:
        compute = rotary_positions if self.kind == "rotary" else sincos_positions
        return compute(grid, self._features, self.grid)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self._others.clear()  # these follow the table's device and type when they are made again
        return super()._apply(fn, recurse)
