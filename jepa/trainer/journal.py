"""What a journal tells: which lines led to a state of the run, and the edits made on the way.

A run is a line of *segments*. Each begins with a journal line that has `continues`: the `tick` of the line before which
the state it went on from was taken (`None`: from nothing). So the lines that led to a state are those of its segment
up to it, those of the segment before up to where this one took over, and so on to the start; what was given up by a
crash or by going back to a checkpoint is not among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NamedTuple

from jepa.files import read_lines
from jepa.trainer.control import EditedByHand, Set

Line = Mapping[str, Any]

EDITS: dict[str, type[Set | EditedByHand]] = {kind.__name__: kind for kind in (Set, EditedByHand)}
EDITING = ("CommandApplied", "CommandRefused", "EditedByHand")


class Edit(NamedTuple):
    """What was changed before the step that follows `step` completed ones: a hyper-parameter, or weights by hand."""

    step: int
    command: Set | EditedByHand

    def __str__(self) -> str:
        command = self.command
        what = f"{command.name}={command.value:g}" if isinstance(command, Set) else "weights changed by hand"
        return f"{what} at step {self.step}"

    def as_data(self) -> dict[str, Any]:
        """As a journal keeps it."""
        return {"step": self.step, "command": self.command.as_data()}


class Plan(NamedTuple):
    """From `step` on, the schedules were laid over so many steps in all."""

    step: int
    total_steps: int


class Journal:
    """The lines of a journal, read.

    Args:
        lines: In the order in which they were written.
    """

    def __init__(self, lines: Sequence[Line] = ()) -> None:
        self.lines = [line for line in lines if isinstance(line.get("tick"), int) and _continues_sanely(line)]

    @classmethod
    def read(cls, path: Path) -> Journal:
        """Read a file; a torn line is skipped, a missing file is empty."""
        return cls(read_lines(path))

    @property
    def next_tick(self) -> int:
        """Number of the line that will be written next."""
        return max((line["tick"] for line in self.lines), default=-1) + 1

    @property
    def segments(self) -> int:
        """How often the run was begun, or gone on with from elsewhere."""
        return sum("continues" in line for line in self.lines)

    @property
    def identity(self) -> str | None:
        """What tells this run from any other, whatever its folder is called."""
        return next((line["run"] for line in self.lines if "run" in line), None)

    @property
    def origin(self) -> tuple[dict[str, Any], int] | None:
        """Of a run that branched off another one: that checkpoint's place there, and the place here that follows it."""
        return next(((dict(line["origin"]), line["tick"] + 1) for line in self.lines if "origin" in line), None)

    @property
    def broke_by_numbers(self) -> bool:
        """Whether the run ended last by a loss or weights that are not finite."""
        ends = [line for line in self.lines if line.get("event") in ("RunStarted", "RunEnded", "RunFailed")]
        return bool(ends) and str(ends[-1].get("error", "")).startswith("NonFiniteLossError")

    def tick_of(self, stamp: Mapping[str, Any] | None, identity: str | None = None) -> int | None:
        """Where in this journal the state of a checkpoint was taken, by its `journal` entry; `None` if elsewhere.

        Args:
            stamp: `run`, the identity of the run that wrote the checkpoint, and `tick`, its next line then.
            identity: Of this run, where the journal does not say so yet.
        """
        run, tick = (stamp or {}).get("run"), (stamp or {}).get("tick")
        if not run or not isinstance(tick, int):
            return None
        if run == (self.identity or identity):
            return tick
        origin = self.origin
        return origin[1] if origin is not None and origin[0] == {"run": run, "tick": tick} else None

    def spans(self, tick: int | None = None) -> list[tuple[int, int]]:
        """The ticks `first <= t < end` of the lines that led to the state before line `tick`, oldest span first."""
        end: int | None = self.next_tick if tick is None else tick
        spans: list[tuple[int, int]] = []
        while end is not None:
            start = next((line for line in reversed(self.lines) if line["tick"] < end and "continues" in line), None)
            if start is None:
                spans.append((0, end))  # the line that began it is damaged
                break
            spans.append((start["tick"], end))
            end = start["continues"] if start["continues"] is None else min(start["continues"], start["tick"])
        return spans[::-1]

    def led_to(self, tick: int | None = None) -> list[Line]:
        """The lines that led to the state before line `tick`; to the present one by default."""
        spans = self.spans(tick)
        return [line for line in self.lines if any(first <= line["tick"] < end for first, end in spans)]

    def leads_on_from(self, tick: int) -> bool:
        """Whether the state taken before line `tick` is one that the run went through on its way to the present."""
        return any(first < tick <= end for first, end in self.spans())

    def edits(self, tick: int | None = None) -> list[Edit]:
        """The edits that led to the state before line `tick`, in order."""
        edits: list[Edit] = []
        for line in self.led_to(tick):
            edits += read_edits(line.get("repeats"))
            if line.get("event") not in EDITING or line.get("source") == "journal":
                continue
            edit = _edit(line)
            if edit is None:
                continue
            if line["event"] != "CommandRefused":
                edits.append(edit)
            elif edit in edits:  # it was written down, but could not be done
                edits.remove(edit)
        return edits

    def plans(self, tick: int | None = None) -> list[Plan]:
        """Over how many steps the schedules were laid, and from which step on; one entry a change."""
        plans: list[Plan] = []
        for line in self.led_to(tick):
            told = line.get("plans") or ([[line["step"], line["total_steps"]]] if "total_steps" in line else [])
            for step, total in told:
                if not plans or plans[-1].total_steps != total:
                    plans.append(Plan(step, total))
        return plans


def _continues_sanely(line: Line) -> bool:
    return isinstance(line.get("continues"), int | None)


def read_edits(lines: Any) -> list[Edit]:
    """Edits from their data; what is none is left out."""
    found = [_edit(line) for line in lines if isinstance(line, Mapping)] if isinstance(lines, list | tuple) else []
    return [edit for edit in found if edit is not None]


def _edit(line: Line) -> Edit | None:
    command = line.get("command")
    if not isinstance(command, Mapping) or not isinstance(line.get("step"), int):
        return None
    kind = EDITS.get(str(command.get("type")))
    if kind is None:
        return None
    known = fields(kind)
    if not {field.name for field in known if field.default is MISSING} <= command.keys():
        return None
    return Edit(line["step"], kind(**{field.name: command[field.name] for field in known if field.name in command}))
