"""What a run's last batch looks like to the model."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from jepa.figures.images import as_pixels, bare_axes, mask_figure, shade
from jepa.figures.style import finish


def batch_figure(inspection: Any, *, count: int = 6) -> Any:
    """Context and target views of some samples: pictures with their masks, or vectors as rows of a heat map.

    Args:
        inspection: What `run.inspect()` gives: `views` by name, `embedding`, and the token `grid`.
        count: Samples to show.
    """
    views, grid = dict(inspection.views), inspection.grid and tuple(inspection.grid)
    title = f"step {inspection.step}"
    if {"images", "context_mask", "target_mask"} <= set(views) and grid and len(grid) == 2:
        figure = mask_figure(views["images"], views["context_mask"], views["target_mask"], grid, count=count)
    elif {"videos", "context_mask_0"} <= set(views) and grid:
        figure = _video_figure(views, grid, count)
        title += ", the middle of the clip"
    elif "global" in views and views["global"].ndim == 5:
        figure = _picture_rows(_augmented(views, count))
    else:
        shown = {name: view for name, view in views.items() if name != "directions"}
        return _views_figure({**shown, "embedding": inspection.embedding}, inspection.step, count)
    return figure.update_layout(title={"text": title, "x": 0.01}, margin={"t": 40})


def _video_figure(views: dict[str, Tensor], grid: tuple[int, ...], count: int) -> Any:
    """One frame of each clip, and what each group of masks leaves of it."""
    videos = views["videos"][:count]
    time = grid[0] // 2
    pixels = as_pixels(videos[:, :, time * videos.shape[2] // grid[0]])
    rows = {"frame": pixels}
    groups = sum(name.startswith("context_mask_") for name in views)
    for group in range(groups):
        for name, kind in (("context", "context_mask"), ("targets", "target_mask")):
            index = views[f"{kind}_{group}"][:count]
            inside = torch.zeros(len(pixels), math.prod(grid), dtype=torch.bool).scatter(1, index.cpu(), True)
            mask = inside.view(-1, *grid)[:, time]
            for axis in (1, 2):
                mask = mask.repeat_interleave(pixels.shape[axis] // grid[axis], axis)
            rows[f"{name} {group}"] = shade(pixels, mask)
    return _picture_rows(rows)


def _augmented(views: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """The views of each sample, a row for each."""
    kinds = [(kind, views[kind]) for kind in ("global", "local") if kind in views]
    return {f"{kind} {number}": as_pixels(view[:count]) for kind, group in kinds for number, view in enumerate(group)}


def _picture_rows(rows: dict[str, Tensor]) -> Any:
    from plotly.subplots import make_subplots

    count = len(next(iter(rows.values())))
    figure = make_subplots(rows=len(rows), cols=count, horizontal_spacing=0.01, vertical_spacing=0.08 / len(rows))
    for row, pictures in enumerate(rows.values(), start=1):
        for column, picture in enumerate(pictures, start=1):
            figure.add_image(z=picture.numpy(), hoverinfo="skip", row=row, col=column)
    bare_axes(figure)
    for row, name in enumerate(rows, start=1):
        figure.update_yaxes(title_text=name, row=row, col=1)
    return finish(figure, height=90 + 100 * len(rows), width=90 + 110 * count)


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
