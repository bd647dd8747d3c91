"""What happened to a run, as a table that can be filtered."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jepa.figures.table import table_figure
from jepa.files import read_lines

Line = Mapping[str, Any]
COLUMNS = ("step", "time", "event", "source", "what")
SAID_ELSEWHERE = {*COLUMNS, "tick", "segment", "run", "origin", "repeats", "plans", "continues"}


def journal_lines(
    run: str | os.PathLike[str] | Iterable[Line],
    *,
    events: Sequence[str] | None = None,
    source: str | None = None,
    steps: tuple[int, int] | None = None,
) -> list[Line]:
    """Lines of a run's journal, in order.

    Args:
        run: The run's folder, or lines.
        events: Only these, such as `("CommandApplied", "CommandRefused")`.
        source: Only what was asked for by it: `"panel"`, `"handle"`, ...
        steps: Only from the first to the second of these steps, both included.

    Raises:
        FileNotFoundError: The folder is not one of a run.
        ValueError: No line of the journal has such an event or source (the message names those there are), or the
            steps are in the wrong order.
    """
    lines = [line for line in _read(run) if "event" in line and "step" in line]
    _check("event", events or (), lines)
    _check("source", () if source is None else (source,), lines)
    if steps is not None and steps[0] > steps[1]:
        raise ValueError(f"steps must be (first, last) with first <= last, got {steps}")
    low, high = steps or (float("-inf"), float("inf"))
    return [
        line
        for line in lines
        if (events is None or line["event"] in events)
        and (source is None or line.get("source") == source)
        and low <= line["step"] <= high
    ]


def journal_figure(
    run: str | os.PathLike[str] | Iterable[Line],
    *,
    events: Sequence[str] | None = None,
    source: str | None = None,
    steps: tuple[int, int] | None = None,
    title: str | None = None,
    most: int = 15,
) -> Any:
    """The journal of a run as a table, the newest line on top. Arguments as of `journal_lines`.

    Args:
        run: The run's folder, or lines.
        events: Only these.
        source: Only what was asked for by it.
        steps: Only from the first to the second of these steps.
        title: Above the table.
        most: Rows to show at once; the rest is scrolled to.

    Example:
        ::

            journal_figure("runs/monday", events=("CommandApplied",), source="panel", steps=(100, 200))
    """
    lines = journal_lines(run, events=events, source=source, steps=steps)
    rows = [(line["step"], _clock(line.get("time")), line["event"], line.get("source"), _told(line)) for line in lines]
    widths = (0.6, 1.4, 1.4, 0.8, 5)
    return table_figure(COLUMNS, rows[::-1], title=title, widths=widths, wide=COLUMNS[1:], most=most)


def _read(run: str | os.PathLike[str] | Iterable[Line]) -> list[Line]:
    if not isinstance(run, str | os.PathLike):
        return list(run)
    path = Path(run) / "journal.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"{os.fspath(run)} is not the folder of a run: it has no journal.jsonl")
    return list(read_lines(path))


def _check(name: str, wanted: Sequence[str], lines: Sequence[Line]) -> None:
    known = sorted({str(line[name]) for line in lines if line.get(name) is not None})
    if isinstance(wanted, str):
        raise ValueError(f"{name}s must be several names, such as ({wanted!r},), got {wanted!r}")
    for one in wanted:
        if one not in known:
            raise ValueError(f"no line of the journal has the {name} {one!r}; there are {', '.join(known) or 'none'}")


def _clock(time: Any) -> str:
    return datetime.fromtimestamp(time).strftime("%m-%d %H:%M:%S") if isinstance(time, int | float) else str(time or "")


def _told(line: Line) -> str:
    """What a line says besides, in words as short as they can be."""
    command = line.get("command")
    if isinstance(command, Mapping):
        inner = " ".join(_short(value) for key, value in command.items() if value is not None)
        return f"{inner}: {line['error']}" if line.get("error") else inner
    said = {key: value for key, value in line.items() if key not in SAID_ELSEWHERE and value not in (None, [], {})}
    if "path" in said:
        said["path"] = Path(said["path"]).name
    return ", ".join(f"{key.replace('_', ' ')} {_short(value)}" for key, value in said.items())


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_short(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(_short, value))
    return value if isinstance(value, str) else json.dumps(value)
