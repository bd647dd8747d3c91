"""Figures as files. PNGs are drawn by matplotlib from the same plotly figure, so that no browser is needed."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy

from jepa.files import atomic_path

DPI = 100
TICK_WIDTH = 60  # pixels
TRACES = ("scatter", "bar", "heatmap", "image", "table")
MARKERS = {"circle": "o", "diamond": "D", "x": "x", "triangle-up": "^"}


def save_figure(figure: Any, path: str | os.PathLike[str]) -> Path:
    """Write a plotly figure as `.html` (opens offline), `.png`, or `.json`.

    Raises:
        ValueError: Another suffix.
    """
    path = Path(path)
    writers = {
        ".html": lambda: figure.to_html(include_plotlyjs=True).encode(),
        ".png": lambda: to_png(figure),
        ".json": lambda: figure.to_json().encode(),
    }
    if path.suffix not in writers:
        raise ValueError(f"a figure is written as .html, .png or .json, got {path.name!r}")
    content = writers[path.suffix]()
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return path


def to_png(figure: Any, *, width: int | None = None, height: int | None = None) -> bytes:
    """Draw a figure of this package as a PNG.

    Args:
        figure: A plotly figure of scatter, bar, heatmap and image traces, with or without subplots, or one table.
        width: In pixels; the figure's own by default.
        height: In pixels; the figure's own by default.

    Raises:
        ValueError: The figure holds a trace of another type.
    """
    import matplotlib

    for trace in figure.data:
        if trace.type not in TRACES:
            raise ValueError(f"cannot draw a {trace.type!r} trace as PNG; known: {', '.join(TRACES)}")
    with matplotlib.rc_context({"axes.formatter.useoffset": False}):
        return _encode(_canvas(figure, width, height))


def _canvas(figure: Any, width: int | None, height: int | None) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layout = figure.layout
    size = (width or layout.width or 800) / DPI, (height or layout.height or 440) / DPI
    canvas = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(canvas)
    if layout.title.text:
        canvas.suptitle(layout.title.text, x=0.02, ha="left", fontsize=11)
    if figure.data and figure.data[0].type == "table":
        _draw_table(figure.data[0], canvas)
        return canvas
    panels = _panels(figure, canvas)
    for trace in figure.data:
        _draw(trace, panels[trace.xaxis or "x"])
    for name, axes in panels.items():
        _label(figure, name, axes)
    return canvas


def _draw_table(trace: Any, canvas: Any) -> None:
    """As many rows as there is room for; a picture cannot be scrolled."""
    room = int(canvas.get_figheight() * DPI / trace.cells.height) - 2
    rows = list(zip(*trace.cells.values, strict=True))
    shown = rows if len(rows) <= room else [*rows[: room - 1], ["…"] * len(trace.header.values)]
    widths = trace.columnwidth or [1] * len(trace.header.values)
    total = sum(widths)
    letters = [int(canvas.get_figwidth() * DPI * width / total / 5.2) for width in widths]  # of 8 points
    cut = [
        [text if len(text) <= most else f"{text[: most - 1]}…" for text, most in zip(row, letters, strict=True)]
        for row in shown
    ]
    axes = canvas.add_subplot()
    axes.axis("off")
    if not cut:
        cut = [[""] * len(letters)]
    table = axes.table(
        cut, colLabels=trace.header.values, colWidths=[width / total for width in widths], loc="upper left"
    )
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    for (row, column), cell in table.get_celld().items():
        cell.set_linewidth(0.3)
        cell.set_facecolor(trace.header.fill.color if row == 0 else "white")
        cell.get_text().set_horizontalalignment(trace.cells.align[column])


def _encode(canvas: Any) -> bytes:
    """A PNG of few colours, a third of the size: executed notebooks hold several."""
    from PIL import Image

    canvas.canvas.draw()
    picture = Image.fromarray(numpy.asarray(canvas.canvas.buffer_rgba())).convert("RGB")
    target = io.BytesIO()
    picture.quantize(128, dither=Image.Dither.NONE).save(target, format="png")
    return target.getvalue()


def _panels(figure: Any, canvas: Any) -> dict[str, Any]:
    """One matplotlib axes for each plotly x axis, in the grid that the domains describe."""
    names = sorted({trace.xaxis or "x" for trace in figure.data}, key=lambda name: int(name[1:] or 1))
    domains = {}
    for name in names:
        suffix = name[1:]
        x, y = figure.layout[f"xaxis{suffix}"].domain, figure.layout[f"yaxis{suffix}"].domain
        domains[name] = (x or (0, 1))[0], (y or (0, 1))[0], (x or (0, 1))[1]
    columns = sorted({round(left, 4) for left, _, _ in domains.values()})
    rows = sorted({round(bottom, 4) for _, bottom, _ in domains.values()}, reverse=True)
    if not names:
        return {}
    grid = canvas.add_gridspec(len(rows), len(columns))
    return {
        name: canvas.add_subplot(
            grid[rows.index(round(bottom, 4)), columns.index(round(left, 4)) : sum(one < right for one in columns)]
        )
        for name, (left, bottom, right) in domains.items()
    }


def _draw(trace: Any, axes: Any) -> None:
    if trace.type == "scatter":
        _draw_scatter(trace, axes)
    elif trace.type == "bar":
        bars = axes.bar(list(trace.x), list(trace.y), color=trace.marker.color)
        if trace.text is not None:
            axes.bar_label(bars, labels=list(trace.text), padding=2)
    elif trace.type == "heatmap":
        colours = "RdBu" if trace.zmid == 0 else "viridis"
        limit = max((abs(value) for row in trace.z for value in row), default=1) if trace.zmid == 0 else None
        low, high = (-limit, limit) if limit is not None else (trace.zmin, trace.zmax)
        picture = axes.imshow(trace.z, cmap=colours, vmin=low, vmax=high, aspect="auto")
        if trace.showscale:
            axes.figure.colorbar(picture, ax=axes)
    else:
        axes.imshow(trace.z)


def _space_ticks(axes: Any) -> None:
    """So few numbers along x that none touches the next one."""
    from matplotlib.ticker import MaxNLocator

    if isinstance(axes.xaxis.get_major_locator(), MaxNLocator):  # not names, nor a log axis
        axes.locator_params("x", nbins=max(3, int(axes.bbox.width / TICK_WIDTH)))


def _draw_scatter(trace: Any, axes: Any) -> None:
    if "lines" in (trace.mode or "lines"):
        marker = "o" if "markers" in (trace.mode or "") else None
        style = {"dot": ":", "dash": "--"}.get(trace.line.dash, "-")
        label = trace.name if trace.showlegend is not False else None
        width = 0.8 * (trace.line.width or 1.6)
        looks = {"color": trace.line.color, "alpha": trace.opacity, "lw": width, "marker": marker, "ms": 3}
        axes.plot(trace.x, trace.y, style, label=label, **looks)
        if "text" in (trace.mode or ""):
            _write_beside(trace, axes)
    else:
        symbol = trace.marker.symbol or "circle"
        open_, colours = symbol.endswith("-open"), trace.marker.color
        axes.scatter(
            trace.x,
            trace.y,
            s=(trace.marker.size or 5) ** 2 * 0.6,
            **({"edgecolors": colours, "facecolors": "none"} if open_ else {"c": colours}),
            alpha=trace.marker.opacity,
            marker=MARKERS.get(symbol.removesuffix("-open"), "o"),
            label=trace.name if trace.showlegend is not False else None,
            linewidths=0.8 * (trace.marker.line.width or (symbol == "x")),
            zorder=3,
        )


def _write_beside(trace: Any, axes: Any) -> None:
    looks = {
        "ha": "right",
        "va": "center",
        "fontsize": 7,
        "bbox": {"fc": "white", "ec": "none", "alpha": 0.7, "pad": 1},
    }
    for x, y, text in zip(trace.x, trace.y, trace.text, strict=True):
        axes.annotate(text, (x, y), (-5, 0), textcoords="offset points", **looks)


def _label(figure: Any, name: str, axes: Any) -> None:
    suffix = name[1:]
    x, y = figure.layout[f"xaxis{suffix}"], figure.layout[f"yaxis{suffix}"]
    axes.set_xlabel(x.title.text or "", fontsize=9)
    axes.set_ylabel(y.title.text or "", fontsize=9)
    axes.tick_params(labelsize=8)
    if y.type == "log":
        axes.set_yscale("log")
    if y.range is not None:
        axes.set_ylim(*y.range)
    if x.range is not None:
        axes.set_xlim(*x.range)
    if x.tickvals is not None:
        axes.set_xticks(x.tickvals, x.ticktext)
    _space_ticks(axes)
    if x.tickangle:
        axes.tick_params("x", rotation=-x.tickangle)
        axes.set_xticks(axes.get_xticks(), axes.get_xticklabels(), ha="right", rotation_mode="anchor")
    if x.showticklabels is False:
        axes.set_xticks([])
        axes.set_yticks([])
    else:
        if x.showgrid is not False:
            axes.grid(alpha=0.25)
        if y.showticklabels is False:
            axes.set_yticks([])
        axes.spines[["top", "right"]].set_visible(False)
    titles = [note.text for note in figure.layout.annotations]
    position = int(suffix or 1) - 1
    if position < len(titles):
        axes.set_title(titles[position], fontsize=10, y=1.0)  # matplotlib looks for ticks in its way otherwise
    handles, _ = axes.get_legend_handles_labels()
    if len(handles) > 1:
        axes.legend(fontsize=7, frameon=False, loc="best")
