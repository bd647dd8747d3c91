"""What a run's last batch looks like to the model."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from jepa.figures.images import as_pixels, mask_figure
from jepa.figures.style import finish


def batch_figure(inspection: Any, *, count: int = 6) -> Any:
    """Context and target views of some samples: pictures with their masks, or vectors as rows of a heat map.

    Args:
        inspection: What `run.inspect()` gives: `views` by name, `embedding`, and the token `grid`.
        count: Samples to show.
    """
    views = dict(inspection.views)
    if {"images", "context_mask", "target_mask"} <= set(views) and inspection.grid and len(inspection.grid) == 2:
        figure = mask_figure(
            views["images"], views["context_mask"], views["target_mask"], tuple(inspection.grid), count=count
        )
        return figure.update_layout(title={"text": f"step {inspection.step}", "x": 0.01}, margin={"t": 40})
    return _views_figure({**views, "embedding": inspection.embedding}, inspection.step, count)


def _views_figure(views: dict[str, Tensor], step: int, count: int) -> Any:
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=1, cols=len(views), subplot_titles=list(views), horizontal_spacing=0.06)
    for column, view in enumerate(views.values(), start=1):
        rows = view[:count].float()
        if rows.ndim == 4:
            figure.add_image(z=as_pixels(rows)[0].numpy(), row=1, col=column)
            continue
        table = rows.flatten(1).reshape(len(rows), -1)
        figure.add_heatmap(z=table.tolist(), colorscale="RdBu", zmid=0, showscale=False, row=1, col=column)
    figure.update_xaxes(title_text="feature")
    figure.update_yaxes(title_text="sample", col=1)
    return finish(figure, title=f"step {step}", height=300)
