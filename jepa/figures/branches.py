"""The ways that runs took: what counts, what was given up, and where somebody or something stepped in.

Everything is read off run folders, as lines of data: any process can draw it, while a run goes on or later.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from html import escape
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from jepa.figures.style import COLOURS, finish
from jepa.figures.thinning import thin
from jepa.files import is_plain_name, read_lines

HUES = COLOURS[:6]  # black and yellow are not seen on every background
BRANCHED, COMMAND, ENDED = "branched off", "command", "ended, went back"
MARKS = (
    (BRANCHED, "circle-open", 17),
    (COMMAND, "diamond", 9),
    (ENDED, "x", 10),
)  # kind, symbol, size; the last is on top
Line = Mapping[str, Any]
Point = tuple[int, float]


@dataclass(eq=False)
class Segment:
    """A run from where it was begun, or gone on with from elsewhere, to where it ended.

    Attributes:
        start: The journal's line.
        source: The segment that it goes on from, of the same run or of the run that it branched off.
        lines: What else the journal tells of it, in order.
        points: Step and value, as recorded.
        last: The last step that counts: -1 if all was given up.
    """

    start: Line
    source: Segment | None = None
    lines: list[Line] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    last: float = -1

    @property
    def join(self) -> list[Point]:
        """The last point before it, on the way that led to it; none where it begins from nothing."""
        way, limit = self.source, self.start["step"]
        while way is not None:
            before = [point for point in way.points if point[0] <= limit]
            if before:
                return before[-1:]
            way, limit = way.source, min(limit, way.start["step"])
        return []

    def value(self, step: int) -> float | None:
        """Of the curve, at any step."""
        curve = self.join + self.points
        if not curve:
            return None
        steps, values = zip(*curve, strict=True)
        return float(numpy.interp(step, steps, values))


class Mark(NamedTuple):
    """Something that happened on the way."""

    kind: str
    step: int
    value: float
    text: str


@dataclass
class Way:
    """One run.

    Attributes:
        path: Its folder.
        segments: In the order in which they were begun.
        known: Names of all its metrics.
    """

    path: Path
    segments: list[Segment]
    known: set[str]

    @property
    def counted(self) -> list[Point]:
        """The curve of what led to the present, from the step where the run began or branched off."""
        counting = [segment for segment in self.segments if segment.last >= 0]
        points = [point for segment in counting for point in segment.points if point[0] <= segment.last]
        return (counting[0].join if counting else []) + points

    @property
    def given_up(self) -> list[list[Point]]:
        """The curves of what was given up by going back, or lost in a crash."""
        curves = []
        for segment in self.segments:
            kept = [point for point in segment.points if point[0] <= segment.last]
            lost = segment.points[len(kept) :]
            if lost:
                curves.append((kept[-1:] or segment.join) + lost)
        return curves


def branches_figure(
    *runs: str | os.PathLike[str], metric: str = "loss", title: str | None = None, points: int = 1000
) -> Any:
    """Where runs went back, branched off, were killed or were steered, drawn on the curve of one metric.

    The way that led to a run's present is a solid line, what was given up on it a thin pale one of the same colour. A
    fork begins on the line of its parent. Hovering a mark tells what was done there and who asked for it.

    Args:
        runs: Folders of runs. The runs that they branched off and those that branched off them, in the same folder, are
            drawn as well.
        metric: One that was recorded while training: `"loss"`, `"learning_rate"`, `"effective_rank"`, ...
        title: Above the figure.
        points: Largest number of points a curve; peaks are kept.

    Returns:
        A `plotly.graph_objects.Figure`.

    Raises:
        FileNotFoundError: A folder is not one of a run.
        ValueError: No run was passed, or none has this metric.

    Example:
        While it trains, or years later::

            branches_figure("runs/monday", metric="effective_rank")
    """
    import plotly.graph_objects as go

    ways = _read_family([Path(run).absolute() for run in runs], metric)
    figure, marks = go.Figure(), []
    for number, way in enumerate(ways):
        colour = HUES[number % len(HUES)]
        _add_curve(figure, way.counted, points, way.path.name, colour)
        for piece, curve in enumerate(way.given_up):
            _add_curve(figure, curve, points, f"{way.path.name}, given up", colour, pale=True, legend=piece == 0)
        marks += [(mark, colour) for segment in way.segments for mark in _marks(segment, way)]
    for kind, symbol, size in MARKS:
        _add_marks(figure, kind, symbol, size, [(mark, colour) for mark, colour in marks if mark.kind == kind])
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(title_text=metric.replace("_", " "))
    return finish(figure, title=title, height=440)


def _add_curve(
    figure: Any, curve: list[Point], points: int, name: str, colour: str, *, pale: bool = False, legend: bool = True
) -> None:
    if not curve:
        return
    steps, values = thin(curve[1:], points)
    figure.add_scatter(
        x=[curve[0][0], *steps],
        y=[curve[0][1], *values],
        mode="lines",
        name=name,
        line={"color": colour, "width": 1.4 if pale else 2.2},
        opacity=0.5 if pale else 1,
        legendgroup=name,
        showlegend=legend,
    )


def _add_marks(figure: Any, kind: str, symbol: str, size: int, marks: list[tuple[Mark, str]]) -> None:
    if not marks:
        return
    colours = [colour for _, colour in marks]
    line = {"width": 0 if kind == COMMAND else 2, "color": colours}
    figure.add_scatter(
        x=[mark.step for mark, _ in marks],
        y=[mark.value for mark, _ in marks],
        text=[mark.text for mark, _ in marks],
        mode="markers",
        name=kind,
        marker={"color": colours, "symbol": symbol, "size": size, "line": line},
        hovertemplate="%{text}<extra></extra>",
    )


def _marks(segment: Segment, way: Way) -> Iterator[Mark]:
    """What was done in a segment: one mark for all that was asked for before the same step."""
    run, start = way.path.name, segment.start
    told = [(BRANCHED, start["step"], f"off {start['parent']!r}")] if "parent" in start else []
    told += [(COMMAND, line["step"], _in_words(line)) for line in _applied(segment) if not _is_rewind(line)]
    ended = _end(segment, way)
    last = segment.points[-1][0] if segment.points else start["step"]
    told += [(ENDED, last, ended)] if ended else []
    for kind, step in dict.fromkeys((kind, step) for kind, step, _ in told):
        texts = [escape(text) for each, at, text in told if (each, at) == (kind, step)]
        value = segment.value(step)
        if value is not None:
            yield Mark(kind, step, value, "<br>".join([f"{escape(run)}, step {step}", *texts]))


def _applied(segment: Segment) -> list[Line]:
    """Its commands, without those that were written down and then could not be done."""
    refused = [(line["step"], line["command"]) for line in segment.lines if line["event"] == "CommandRefused"]
    lines = [line for line in segment.lines if line["event"] == "CommandApplied"]
    return [line for line in lines if (line["step"], line["command"]) not in refused]


def _is_rewind(line: Line) -> bool:
    return line["command"]["type"] == "Rewind"


def _in_words(line: Line) -> str:
    """A command that was applied, in a line."""
    command, result = line["command"], line.get("result") or {}
    if command["type"] == "Set":
        what = f"{command['name']}: {result['old']:.4g} -> {result['new']:.4g}"
    else:
        what = " ".join(str(value) for value in command.values() if value is not None)
    return f"{what} (asked for by {line.get('source')})"


def _end(segment: Segment, way: Way) -> str | None:
    """What ended a segment that another one followed in the same run; `None` where nothing was interrupted."""
    position = way.segments.index(segment)
    after = way.segments[position + 1].start if position + 1 < len(way.segments) else None
    final = segment.lines[-1] if segment.lines else segment.start
    if after is None or "parent" in segment.start or final["event"] == "Forked":
        return None
    rewinds = [line for line in _applied(segment) if _is_rewind(line)]
    if after["event"] == "Rewound" and rewinds:
        return f"{_in_words(rewinds[-1])}: back to step {after['step']}"
    hows = {"RunEnded": final.get("state"), "RunFailed": f"failed ({final.get('error')})"}
    return f"{hows.get(final['event'], 'killed')}, then on from step {after['step']}"


def _read_family(paths: list[Path], metric: str) -> list[Way]:
    """The runs, those that they branched off before them, and those that branched off them after them."""
    if not paths:
        raise ValueError("no run was passed; pass the folder of one, such as 'runs/monday'")
    for path in paths:
        if not (path / "journal.jsonl").is_file():
            raise FileNotFoundError(f"{path} is not the folder of a run: it has no journal.jsonl")
    ways: dict[Path, Way] = {}
    for path in paths:
        for member in [*reversed(list(_ancestors(path))), *_descendants(path)]:
            if member not in ways:
                ways[member] = read_way(member, metric, ways.get(_parent(member) or member))
    known = set[str]().union(*(way.known for way in ways.values()))
    if known and metric not in known:
        raise ValueError(f"no run here has recorded {metric!r}; there are {', '.join(sorted(known))}")
    return list(ways.values())


def _ancestors(path: Path) -> Iterator[Path]:
    seen = {path}
    while (parent := _parent(path)) is not None and parent not in seen:
        seen.add(parent)
        yield parent
        path = parent


def _descendants(path: Path) -> list[Path]:
    """A run and all that branched off it, each after the one that it comes from."""
    beside = {child: _parent(child) for child in sorted(path.parent.iterdir()) if not child.name.startswith(".")}
    family = [path]
    for member in family:
        family += [child for child, parent in beside.items() if parent == member and child not in family]
    return family


def _parent(path: Path) -> Path | None:
    """The run that a run branched off, if it is there: a folder beside it, never a place that a file names."""
    first: Any = None
    with suppress(OSError, ValueError), (path / "journal.jsonl").open(encoding="utf-8") as file:
        first = json.loads(file.readline())
    name = first.get("parent") if isinstance(first, dict) and first.get("event") == "Branched" else None
    if path.is_symlink() or not is_plain_name(name):
        return None
    parent = path.with_name(name)
    return parent if (parent / "journal.jsonl").is_file() and not parent.is_symlink() else None


def read_way(path: Path, metric: str, parent: Way | None = None) -> Way:
    """What a folder's journal and metrics tell."""
    segments: list[Segment] = []
    for line in read_lines(path / "journal.jsonl"):
        if not {"tick", "step", "event"} <= line.keys():
            continue
        if "continues" in line:
            segments.append(Segment(line, _source(line, segments, parent)))
        elif segments:
            segments[-1].lines.append(line)
    _count(segments)
    numbered = {segment.start.get("segment"): segment for segment in segments}
    known: set[str] = set()
    for record in read_lines(path / "metrics" / "train.jsonl"):
        segment = numbered.get(record.get("segment"))
        if segment is not None and isinstance(record.get(metric), int | float):
            segment.points.append((record["step"], record[metric]))
        known |= record.keys() - {"segment", "step", "epoch", "time"}
    return Way(path, segments, known)


def _source(start: Line, segments: list[Segment], parent: Way | None) -> Segment | None:
    """The segment in which the state was taken that another one goes on from."""
    if start["continues"] is not None:
        return _before(start["continues"], segments)
    if "parent" not in start or parent is None or not parent.segments:
        return None
    origin = start.get("origin") or {}
    own = origin.get("run") == parent.segments[0].start.get("run")  # or the parent had it from its own parent
    return _before(origin["tick"] if own else 1, parent.segments)


def _before(tick: int, segments: Iterable[Segment]) -> Segment | None:
    earlier = [segment for segment in segments if segment.start["tick"] < tick]
    return earlier[-1] if earlier else None


def _count(segments: list[Segment]) -> None:
    """Go back from the present, and mark how much of each segment led to it."""
    way, last = (segments[-1] if segments else None), inf
    while way is not None and way in segments:
        way.last = last
        last, way = way.start["step"], way.source
