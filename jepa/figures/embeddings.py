"""Pictures of embeddings and of what they are good for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from jepa.figures.style import COLOURS, finish


def project(embeddings: Tensor, dimensions: int = 2) -> Tensor:
    """Principal components of (B, D) embeddings: (B, dimensions), zero where there are fewer directions."""
    centred = embeddings.detach().cpu().double()
    centred = centred - centred.mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    points = (centred @ directions[:dimensions].T).float()
    return F.pad(points, (0, dimensions - points.shape[1]))


def embedding_map(embeddings: Tensor, labels: Tensor | Sequence[Any] | None = None, *, title: str | None = None) -> Any:
    """The first two principal components of embeddings, coloured by label.

    Args:
        embeddings: (B, D).
        labels: One a sample.
        title: Above the figure.

    Raises:
        ValueError: There are more or fewer labels than embeddings.
    """
    import plotly.graph_objects as go

    points = project(embeddings)
    names = ["all"] * len(points) if labels is None else [str(label) for label in _plain(labels)]
    if len(names) != len(points):
        raise ValueError(f"every sample needs one label, got {len(points)} embeddings, but {len(names)} labels")
    figure = go.Figure()
    for number, name in enumerate(sorted(set(names), key=_order)):
        rows = [row for row, other in enumerate(names) if other == name]
        figure.add_scatter(
            x=[round(value, 3) for value in points[rows, 0].tolist()],
            y=[round(value, 3) for value in points[rows, 1].tolist()],
            mode="markers",
            name=name,
            marker={
                "size": 5,
                "opacity": 0.75,
                "color": COLOURS[number % len(COLOURS)],
                "symbol": ("circle", "diamond", "x", "triangle-up")[number // len(COLOURS) % 4],
            },
            showlegend=labels is not None,
        )
    figure.update_xaxes(title_text="first component")
    figure.update_yaxes(title_text="second component")
    figure = finish(figure, title=title, height=440, width=620)
    return figure.update_layout(legend={"orientation": "v", "x": 1.02, "y": 1})


def probe_figure(scores: Mapping[str, Sequence[float] | float], *, label: str = "accuracy (%)") -> Any:
    """Scores as bars (their mean) with a point for each seed.

    Args:
        scores: Name to one score or several.
        label: Of the axis.
    """
    import plotly.graph_objects as go

    rows = {
        name: [float(s) for s in ([score] if isinstance(score, int | float) else score)]
        for name, score in scores.items()
    }
    means = {name: sum(values) / len(values) for name, values in rows.items()}
    figure = go.Figure()
    figure.add_bar(
        x=list(means),
        y=list(means.values()),
        marker={"color": list(COLOURS[: len(means)])},
        text=[f"{mean:.1f}" for mean in means.values()],
        textposition="outside",
        showlegend=False,
        cliponaxis=False,
    )
    for name, values in rows.items():
        if len(values) > 1:
            figure.add_scatter(
                x=[name] * len(values), y=values, mode="markers", marker={"color": "black", "size": 6}, showlegend=False
            )
    figure.update_yaxes(title_text=label, range=[0, 104])  # bars that begin elsewhere lie about ratios
    return finish(figure, height=360, width=520)


def _order(name: str) -> tuple[float, str]:
    """Numbers by size, then words."""
    return (int(name), "") if name.isdecimal() else (math.inf, name)


def _plain(labels: Tensor | Sequence[Any]) -> Sequence[Any]:
    return labels.tolist() if isinstance(labels, Tensor) else labels
