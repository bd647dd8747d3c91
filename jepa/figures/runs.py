"""Many runs beside each other: their curves, and what their parameters came to."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from jepa.figures.branches import HUES, read_way
from jepa.figures.style import finish
from jepa.figures.thinning import thin

FEW = len(HUES)  # runs that are told apart by colour alone
LOG_FROM = 20.0  # times the smallest value from which on an axis of positive numbers is logarithmic


def compare_figure(runs: Any, metric: str = "loss", *, title: str | None = None, points: int = 300) -> Any:
    """The curves of many runs in one chart; of each run the part that led to its present.

    Up to six runs have a colour and a place in the legend each. More are coloured by where they ended, from blue for
    the smallest value to yellow for the largest; hovering one tells its name.

    Args:
        runs: A table from `jepa.runs`, or folders of runs.
        metric: One that was recorded: `"loss"`, `"val_loss"`, `"effective_rank"`, ...
        title: Above the figure.
        points: Largest number of points a curve; peaks are kept.

    Returns:
        A `plotly.graph_objects.Figure`.

    Raises:
        ValueError: There are no runs, or none has recorded this metric.

    Example:
        All of a sweep, and its three best::

            table = jepa.runs("runs/rates")
            compare_figure(table, "effective_rank")
            compare_figure(table.nlargest(3, "metrics.effective_rank"), "effective_rank")
    """
    import plotly.graph_objects as go

    folders = _folders(runs)
    if not folders:
        raise ValueError("there are no runs to compare; pass a table from jepa.runs or the folders of runs")
    ways = {name: read_way(path, metric) for name, path in folders.items()}
    curves = {name: way.counted for name, way in ways.items() if way.counted}
    if not curves:
        known = sorted(set().union(*(way.known for way in ways.values())))
        raise ValueError(f"no run here has recorded {metric!r}; there are {', '.join(known) or 'no records at all'}")
    colours = _colours({name: curve[-1][1] for name, curve in curves.items()})
    figure = go.Figure()
    for name, curve in curves.items():
        steps, values = thin(curve, points)
        few = len(curves) <= FEW
        figure.add_scatter(
            x=list(steps),
            y=list(values),
            name=escape(name),
            mode="lines",
            line={"color": colours[name], "width": 2 if few else 1.3},
            showlegend=few,
        )
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(title_text=metric.replace("_", " "))
    return finish(figure, title=title, height=440)


def parallel_figure(table: Any, metric: str = "loss", *, title: str | None = None) -> Any:
    """What each run was given and what it came to: one line a run, one axis a parameter, the metric on the last one.

    Lines are coloured by the metric, from blue for the smallest value to yellow for the largest.

    Args:
        table: From `jepa.runs`.
        metric: Of the table's `metrics.NAME`; runs without it are left out.
        title: Above the figure.

    Returns:
        A `plotly.graph_objects.Figure`.

    Raises:
        ValueError: No run has this metric, or no parameter differs.
    """
    import plotly.graph_objects as go

    column = f"metrics.{metric}"
    kept = table[[_is_number(value) for value in table[column]]] if column in table else table[:0]
    if not len(kept):
        known = [name.removeprefix("metrics.") for name in table.columns if name.startswith("metrics.")]
        raise ValueError(f"no run here has a number for {metric!r}; there are {', '.join(known) or 'no metrics'}")
    names = [name for name in kept.columns if name.startswith("parameters.") and len(set(map(_told, kept[name]))) > 1]
    if not names:
        raise ValueError("these runs do not differ in any parameter; pass the table of a whole sweep")
    axes = [_axis(list(kept[name])) for name in [*names, column]]
    colours = _colours(dict(zip(kept.index, kept[column], strict=True)), few=0)
    figure = go.Figure()
    for place, run in enumerate(kept.index):
        values = (f"{name.split('.', 1)[1]} {_told(kept[name].iloc[place])}" for name in [*names, column])
        figure.add_scatter(
            x=list(range(len(axes))),
            y=[axis.heights[place] for axis in axes],
            mode="lines",
            line={"color": colours[run], "width": 1.6},
            name=escape(str(run)),
            text=["<br>".join(map(escape, (str(run), *values)))] * len(axes),
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
        )
    for place, axis in enumerate(axes):
        figure.add_scatter(
            x=[place] * len(axis.ticks),
            y=list(axis.ticks.values()),
            mode="lines+markers+text",
            line={"color": "#555555", "width": 1},
            marker={"color": "#555555", "size": 3},
            text=[escape(text) for text in axis.ticks],
            textposition="middle left",
            hoverinfo="skip",
            showlegend=False,
        )
    titles = [name.split(".", 1)[1].replace("_", " ") for name in [*names, column]]
    figure.update_xaxes(
        tickvals=list(range(len(axes))), ticktext=titles, range=[-0.5, len(axes) - 0.8], showgrid=False, zeroline=False
    )
    figure.update_yaxes(showticklabels=False, showgrid=False, zeroline=False, range=[-0.06, 1.06])
    return finish(figure, title=title, height=440)


class Axis(NamedTuple):
    """One of the upright lines.

    Attributes:
        heights: Where each run crosses it, from 0 to 1.
        ticks: What stands beside it, and where.
    """

    heights: list[float]
    ticks: dict[str, float]


def _axis(values: Sequence[Any]) -> Axis:
    """Numbers by their size, on a logarithmic scale where they span much; anything else evenly, in order."""
    if not all(map(_is_number, values)):
        kinds = sorted(set(map(_told, values)))
        places = {kind: (index / (len(kinds) - 1) if len(kinds) > 1 else 0.5) for index, kind in enumerate(kinds)}
        return Axis([places[_told(value)] for value in values], places)
    low, high = min(values), max(values)
    log = low > 0 and high >= LOG_FROM * low
    scale = math.log if log else float

    def height(value: float) -> float:
        return (scale(value) - scale(low)) / (scale(high) - scale(low)) if high > low else 0.5

    shown = sorted(set(values))
    if len(shown) > FEW:
        shown = _decades(low, high) if log else [low + (high - low) * part / 4 for part in range(5)]
    return Axis([height(value) for value in values], {_told(value): height(value) for value in shown})


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten between two numbers that are more than a decade apart, and the two."""
    between = range(math.floor(math.log10(low)) + 1, math.ceil(math.log10(high)))
    return [low, *(10.0**power for power in between if low * 1.5 < 10.0**power < high / 1.5), high]


def _told(value: Any) -> str:
    return f"{value:.4g}" if _is_number(value) else str(list(value) if isinstance(value, tuple) else value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _colours(last: dict[Any, float], few: int = FEW) -> dict[Any, str]:
    """A colour for each run: its own, or where its value lies among the others."""
    if len(last) <= few:
        return dict(zip(last, HUES, strict=False))
    from plotly.colors import sample_colorscale

    order = {value: rank for rank, value in enumerate(sorted(set(last.values())))}
    shares = [order[value] / max(len(order) - 1, 1) for value in last.values()]
    parts: Any = sample_colorscale("Cividis", shares, colortype="tuple")
    return {
        run: "#" + "".join(f"{round(255 * part):02x}" for part in colour)
        for run, colour in zip(last, parts, strict=True)
    }


def _folders(runs: Any) -> dict[str, Path]:
    if hasattr(runs, "columns"):
        return {str(name): Path(path) for name, path in zip(runs.index, runs["path"], strict=True)}
    paths = [Path(run) for run in ([runs] if isinstance(runs, str | os.PathLike) else runs)]
    return {path.name if len({one.name for one in paths}) == len(paths) else str(path): path for path in paths}
