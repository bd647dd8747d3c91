"""The samples of a batch as pictures or lines, and those with the largest losses.

Axes: B batch, C channels, T time, H W pixels, L places along a line, K lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from jepa.figures.images import as_pixels
from jepa.figures.style import COLOURS, TARGET, finish

MOST_LINES = 8


def sample_inputs(views: Mapping[str, Tensor]) -> Tensor:
    """What can be drawn of each sample: pictures (B, C, H, W), or lines (B, L, K).

    Of videos it is the frame in the middle, and of several views of a sample the first.

    Args:
        views: Of an inspection, by name, as an objective makes them.

    Raises:
        ValueError: None of them is known to hold samples.
    """
    if "videos" in views:
        videos = views["videos"]
        return videos[:, :, videos.shape[2] // 2]
    if "observations" in views:
        frames = views["observations"]
        return frames[:, frames.shape[1] // 2] if frames.ndim == 5 else frames.flatten(2)
    if "images" in views:
        return _lines(views["images"])
    if "global" in views:
        return _lines(views["global"][0])
    if "context" in views:
        context = views["context"]
        return context if context.ndim == 3 else _lines(context)
    raise ValueError(f"there is nothing to draw among the views {', '.join(views)}; pass inputs= of your own")


def _lines(x: Tensor) -> Tensor:
    """Images as they are, series (B, C, T) and vectors (B, D) as lines."""
    if x.ndim == 4:
        return x
    return x.transpose(1, 2) if x.ndim == 3 else x.flatten(1).unsqueeze(2)


def sample_row(inputs: Tensor, titles: Sequence[str]) -> Any:
    """Some samples side by side.

    Args:
        inputs: Pictures (B, C, H, W) or lines (B, L, K), one a title; see `sample_inputs`.
        titles: Above each.

    Returns:
        A `plotly.graph_objects.Figure`.
    """
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=1, cols=len(titles), horizontal_spacing=0.02, subplot_titles=list(titles))
    draw_samples(figure, inputs, row=1)
    return finish(figure, height=210, width=60 + 130 * max(len(titles), 3))


def draw_samples(figure: Any, inputs: Tensor, *, row: int) -> None:
    """Put samples into the first columns of a row of subplots."""
    if inputs.ndim == 4:
        for column, picture in enumerate(as_pixels(inputs), start=1):
            figure.add_image(z=picture.numpy(), hoverinfo="skip", row=row, col=column)
            figure.update_yaxes(autorange="reversed", constrain="domain", row=row, col=column)
            figure.update_xaxes(constrain="domain", row=row, col=column)
    else:
        inputs = inputs.detach().cpu().float()
        low, high = float(inputs.amin()), float(inputs.amax())
        room = 0.05 * ((high - low) or 1.0)
        for column, lines in enumerate(inputs.unbind(), start=1):
            for number, line in enumerate(lines.T[:MOST_LINES]):
                style = {"color": COLOURS[number % len(COLOURS)], "width": 1.4}
                figure.add_scatter(
                    x=list(range(len(line))),
                    y=line.tolist(),
                    mode="lines",
                    line=style,
                    showlegend=False,
                    row=row,
                    col=column,
                )
            figure.update_yaxes(range=[low - room, high + room], row=row, col=column)
    count = len(inputs)
    for column in range(1, count + 1):
        figure.update_xaxes(showticklabels=False, showgrid=False, zeroline=False, row=row, col=column)
        figure.update_yaxes(showticklabels=False, showgrid=False, zeroline=False, row=row, col=column)


def worst_samples_figure(
    losses: Tensor, inputs: Tensor | None = None, *, term: str = "loss", count: int = 6, title: str | None = None
) -> Any:
    """The losses of all samples from the largest down, and the samples that have the largest.

    Args:
        losses: (B,), one a sample.
        inputs: Pictures (B, C, H, W) or lines (B, L, K), see `sample_inputs`; without them, the losses alone.
        term: What the losses are of.
        count: Samples to draw.
        title: Above the figure.

    Returns:
        A `plotly.graph_objects.Figure`.

    Raises:
        ValueError: There is not one loss a sample.
    """
    from plotly.subplots import make_subplots

    if losses.ndim != 1 or (inputs is not None and len(inputs) != len(losses)):
        got = "" if inputs is None else f" for {len(inputs)} samples"
        raise ValueError(f"expected one loss a sample, (B,), got {tuple(losses.shape)}{got}")
    losses = losses.detach().cpu().float()
    order = torch.argsort(losses.nan_to_num(torch.inf), descending=True)
    worst = order[: min(count, len(order))].tolist()
    drawn = [] if inputs is None else worst
    columns = max(len(drawn), 1)
    figure = make_subplots(
        rows=2 if drawn else 1,
        cols=columns,
        specs=[*([[{} for _ in drawn]] if drawn else []), [{"colspan": columns}, *[None] * (columns - 1)]],
        subplot_titles=[f"{row}: {float(losses[row]):.3g}" for row in drawn],
        horizontal_spacing=0.015,
        vertical_spacing=0.12,
    )
    if inputs is not None:
        draw_samples(figure, inputs[drawn], row=1)
    figure.add_bar(
        x=list(range(len(order))),
        y=losses[order].tolist(),
        customdata=order.tolist(),
        marker={"color": [TARGET] * len(worst) + [COLOURS[0]] * (len(order) - len(worst))},
        hovertemplate="sample %{customdata}: %{y:.4g}<extra></extra>",
        showlegend=False,
        row=2 if drawn else 1,
        col=1,
    )
    bottom: dict[str, Any] = {"row": 2 if drawn else 1, "col": 1}
    figure.update_xaxes(title_text="samples, the largest loss first", showticklabels=False, **bottom)
    figure.update_yaxes(title_text=f"{term.replace('_', ' ')} of a sample", **bottom)
    figure = finish(figure, title=title, height=460 if drawn else 300, width=90 + 130 * 6)
    return figure.update_layout(bargap=0.1, margin={"t": 70 if title else 40})
