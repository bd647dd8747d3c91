"""A quick picture of curves, for where one is drawn every few seconds beside a training run.

Whatever draws in Python holds the interpreter, which a training step in another thread waits for. Matplotlib takes
hundreds of milliseconds for such a figure; this takes tens, by leaving out what six panels of lines do not need.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

FINE = 2  # drawn so many times larger, and then reduced: lines get smooth edges
INK, GRID = "#2a3f5f", "#e5e8ef"
TEXT, HEADING = 10, 12  # pixels
LINE, DOT = 1.4, 2.5
TICKS = (70, 32)  # pixels between two along x and y, at least
SHADES = (1, 0.75, 0.5, 0.25)  # of each colour on white

Box = tuple[float, float, float, float]
Range = tuple[float, float]


def sketch(figure: Mapping[str, Any], width: int, height: int) -> bytes:
    """A PNG of lines in panels.

    Args:
        figure: The JSON of a plotly figure of scatter traces with linear axes, such as `history_figure` makes.
        width: In pixels.
        height: In pixels.
    """
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (width * FINE, height * FINE), "white")
    pen = ImageDraw.Draw(picture)
    layout = figure["layout"]
    title = layout.get("title", {}).get("text")
    if title:
        pen.text((12 * FINE, 10 * FINE), title, INK, _font(HEADING))
    panels: dict[str, list[Mapping[str, Any]]] = {}
    for trace in figure["data"]:
        panels.setdefault(trace.get("xaxis", "x")[1:], []).append(trace)
    for name, traces in panels.items():
        box = _box(layout, name, width, height)
        _draw_panel(pen, box, traces, _heading(layout, name), layout[f"xaxis{name}"].get("title", {}).get("text", ""))
    palette = _palette([INK, *dict.fromkeys(trace["line"]["color"] for trace in figure["data"])])
    small = io.BytesIO()
    picture.reduce(FINE).quantize(palette=palette, dither=Image.Dither.NONE).save(small, format="png")
    return small.getvalue()


def _palette(colours: Sequence[str]) -> Any:
    from PIL import Image, ImageColor

    shades = [255, 255, 255, *ImageColor.getrgb(GRID)]
    for colour in colours:
        for share in SHADES:
            shades += [round(255 + share * (part - 255)) for part in ImageColor.getrgb(colour)[:3]]
    palette = Image.new("P", (1, 1))
    palette.putpalette(shades)
    return palette


@lru_cache
def _font(size: int) -> Any:
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size * FINE)


def _box(layout: Mapping[str, Any], name: str, width: int, height: int) -> Box:
    """Left, top, right and bottom of a panel in pixels of the large picture."""
    margin = layout["margin"]
    x, y = layout[f"xaxis{name}"]["domain"], layout[f"yaxis{name}"]["domain"]
    wide, high = width - margin["l"] - margin["r"], height - margin["t"] - margin["b"]
    left, right = (margin["l"] + share * wide for share in x)
    bottom, top = (margin["t"] + (1 - share) * high for share in y)
    return left * FINE, top * FINE, right * FINE, bottom * FINE


def _heading(layout: Mapping[str, Any], name: str) -> str:
    return layout["annotations"][int(name or 1) - 1]["text"]


def _draw_panel(pen: Any, box: Box, traces: Sequence[Mapping[str, Any]], heading: str, below: str) -> None:
    left, top, right, bottom = box
    middle = (left + right) / 2
    span = [_range([value for trace in traces for value in trace[axis]], pad) for axis, pad in (("x", 0), ("y", 0.05))]
    for value, text in _ticks(span[0], (right - left) / FINE / TICKS[0]):
        x = _place(value, span[0], left, right)
        pen.line((x, top, x, bottom), GRID, FINE)
        pen.text((x, bottom + 4 * FINE), text, INK, _font(TEXT), anchor="ma")
    for value, text in _ticks(span[1], (bottom - top) / FINE / TICKS[1]):
        y = _place(value, span[1], bottom, top)
        pen.line((left, y, right, y), GRID, FINE)
        pen.text((left - 4 * FINE, y), text, INK, _font(TEXT), anchor="rm")
    pen.line((left, top, left, bottom, right, bottom), INK, FINE)
    pen.text((middle, bottom + 18 * FINE), below, INK, _font(TEXT), anchor="ma")
    for trace in traces:
        x = _place(np.asarray(trace["x"], float), span[0], left, right)
        y = _place(np.asarray(trace["y"], float), span[1], bottom, top)
        _draw_curve(pen, np.stack((x, y), 1), trace["line"]["color"])
    _draw_heading(pen, middle, top - 6 * FINE, heading, traces)


def _draw_curve(pen: Any, points: np.ndarray, colour: str) -> None:
    if len(points) < 3:
        for x, y in points.tolist():
            pen.ellipse((x - DOT * FINE, y - DOT * FINE, x + DOT * FINE, y + DOT * FINE), colour)
    pen.line(points.ravel().tolist(), colour, round(LINE * FINE))


def _draw_heading(pen: Any, x: float, y: float, heading: str, traces: Sequence[Mapping[str, Any]]) -> None:
    """What is shown, and, where there are several curves, the name of each in its colour."""
    words = [(heading, INK)]
    if len(traces) > 1:
        words += [(f"  {trace['name']}", trace["line"]["color"]) for trace in traces]
    x -= sum(pen.textlength(word, _font(HEADING)) for word, _ in words) / 2
    for word, colour in words:
        pen.text((x, y), word, colour, _font(HEADING), anchor="ls")
        x += pen.textlength(word, _font(HEADING))


def _range(values: Sequence[float], pad: float) -> Range:
    low, high = min(values), max(values)
    if low == high:
        return low - (abs(low) or 1) * 0.1, high + (abs(high) or 1) * 0.1
    return low - pad * (high - low), high + pad * (high - low)


def _place(value: Any, span: Range, begin: float, end: float) -> Any:
    return begin + (value - span[0]) / (span[1] - span[0]) * (end - begin)


def _ticks(span: Range, most: float) -> list[tuple[float, str]]:
    """Round numbers in a range, about `most` of them, and how they are written."""
    least = (span[1] - span[0]) / max(most, 1)
    power = math.floor(math.log10(least))
    factor = next(factor for factor in (1, 2, 5, 10) if factor * 10.0**power >= least)
    step, digits = factor * 10.0**power, max(-power - (factor == 10), 0)
    written = "g" if digits > 6 or span[1] >= 1e7 else f".{digits}f"
    places = range(math.ceil(span[0] / step), math.floor(span[1] / step) + 1)
    return [(place * step, f"{place * step:{written}}") for place in places]
