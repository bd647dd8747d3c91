"""How many directions embeddings use, and which samples they put side by side."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from jepa.diagnostics import covariance_spectrum, effective_rank, nearest_neighbours
from jepa.figures.samples import sample_row
from jepa.figures.style import COLOURS, TARGET, finish

FLOOR = 1e-6  # of the largest: below it there is nothing but rounding, which would stretch the axis


def spectrum_figure(embeddings: Tensor, *, title: str | None = None) -> Any:
    """Deviation along each principal direction on a logarithmic axis, with the effective rank.

    A model that collapses to few directions shows as a cliff.

    Args:
        embeddings: (B, D).
        title: Above the figure.

    Raises:
        ValueError: These are no embeddings (B, D), or not all are finite.
    """
    import plotly.graph_objects as go

    spectrum = covariance_spectrum(embeddings)
    rank = float(effective_rank(embeddings))
    used = spectrum[spectrum > FLOOR * spectrum[0]].tolist()
    figure = go.Figure()
    line = {"color": COLOURS[0], "width": 1.8}
    figure.add_scatter(x=list(range(1, len(used) + 1)), y=used, mode="lines+markers", line=line, showlegend=False)
    if used:
        style = {"color": TARGET, "width": 1.4, "dash": "dash"}
        ends = [min(used), max(used)]
        figure.add_scatter(x=[rank, rank], y=ends, mode="lines", line=style, name=f"effective rank {rank:.3g}")
    directions = min(embeddings.shape[0] - 1, embeddings.shape[1])
    figure.update_yaxes(title_text="standard deviation", type="log", exponentformat="power", dtick=1)
    figure.update_xaxes(title_text=f"principal direction, of {directions} that there can be", range=[0, directions + 1])
    text = title or f"effective rank {rank:.3g} of at most {directions}"
    return finish(figure, title=text, height=360, width=620).update_layout(showlegend=False)


def neighbours_figure(
    embeddings: Tensor, inputs: Tensor, sample: int = 0, *, count: int = 5, title: str | None = None
) -> Any:
    """A sample, and those of the batch whose embeddings are most alike, with their cosine similarities.

    Args:
        embeddings: (B, D).
        inputs: Pictures (B, C, H, W) or lines (B, L, K) of the samples, see `jepa.figures.samples.sample_inputs`.
        sample: Whose neighbours.
        count: How many.
        title: Above the figure.

    Raises:
        ValueError: There is no such sample, or inputs and embeddings are not of the same samples.
    """
    if len(inputs) != len(embeddings):
        raise ValueError(f"expected one input an embedding, got {len(inputs)} for {len(embeddings)} embeddings")
    rows, likeness = nearest_neighbours(embeddings, sample, count)
    near = zip(rows.tolist(), likeness.tolist(), strict=True)
    titles = [f"sample {sample}", *(f"{row}: {value:.2f}" for row, value in near)]
    figure = sample_row(inputs[[sample, *rows.tolist()]], titles)
    text = title or "nearest in the batch, by cosine similarity"
    return figure.update_layout(title={"text": text, "x": 0.01}, margin={"t": 70})
