"""What a run in another process records, told as the events that it published when it did."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jepa.files import open_regular, parse_lines
from jepa.trainer import events
from jepa.trainer.events import Sink
from jepa.trainer.run import metrics_of
from jepa.trainer.status import LIVE

if TYPE_CHECKING:
    from jepa.trainer.remote import RemoteRun

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.2
Line = dict[str, Any]


class Tail:
    """The lines that are added to a file of JSON objects.

    Args:
        path: The file; it may not be there yet.
        from_start: Whether what is in it already counts as added.
    """

    def __init__(self, path: Path, *, from_start: bool = False) -> None:
        self._path = path
        self._offset = 0
        if not from_start:
            with suppress(FileNotFoundError):
                self._offset = path.stat().st_size

    def read(self) -> list[Line]:
        """The whole lines that were added since the last call; what is none is skipped."""
        with suppress(OSError, ValueError), open_regular(self._path) as file:
            file.seek(self._offset)
            added = file.read()
            whole = added[: added.rfind(b"\n") + 1]
            self._offset += len(whole)
            lines = parse_lines(whole.decode(errors="replace").split("\n"))
            return [line for line in lines if _is_placed(line)]
        return []


def _is_placed(line: Line) -> bool:
    return isinstance(line.get("step"), int) and isinstance(line.get("time"), int | float)


class Follower:
    """Tells a sink what a run records, from a thread of its own, until it is closed, the run ends or the sink fails.

    Args:
        run: Followed into its forks.
        sink: Gets the events.
    """

    def __init__(self, run: RemoteRun, sink: Sink) -> None:
        self._run, self.sink = run, sink
        status = run.status()
        self._state, self._epoch = status.state, status.epoch
        self._checkpoint: Path | None = None
        self._folder = run.path
        self._tails = self._open()
        self._closing = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self.start()

    def start(self) -> None:
        """Follow, or go on with it from where the run seemed to have ended."""
        with self._starting:
            if not self._closing.is_set() and (self._thread is None or not self._thread.is_alive()):
                name = f"jepa-follow-{self._folder.name}"
                self._thread = threading.Thread(target=self._follow, name=name, daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Tell what is there by now, and no more."""
        with self._starting:
            self._closing.set()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _open(self, *, from_start: bool = False) -> list[Tail]:
        names = ("journal.jsonl", "metrics/train.jsonl")
        return [Tail(self._folder / name, from_start=from_start) for name in names]

    def _follow(self) -> None:
        try:
            while not self._closing.wait(LOOK_SECONDS) and not self._has_ended():
                self._tell()
            self._tell()
        except Exception as error:  # the sink's, in a thread that has nobody to raise to
            self._closing.set()
            logger.warning("%r failed (%r) and gets no more events", self.sink, error)

    def _has_ended(self) -> bool:
        return self._state not in LIVE and self._run.ended

    def _tell(self) -> None:
        status = self._run.status()  # before the lines, so that the last of them are told before the end is
        lines = [line for tail in self._tails for line in tail.read()]
        for line in sorted(lines, key=lambda line: line["time"]):
            for event in self._events(line):
                self.sink(event)
        if status.state != self._state:
            self._state = status.state
            self.sink(events.StateChanged(status.step, self._epoch, status.state))
        folder = self._run.path
        if folder != self._folder:
            self._folder = folder
            self._tails = self._open(from_start=True)

    def _events(self, line: Line) -> Iterator[events.Event]:
        """What a line of the journal, or of the metrics, tells; a line may tell nothing."""
        step = line["step"]
        self._epoch = line["epoch"] if isinstance(line.get("epoch"), int) else self._epoch
        match line.get("event"):
            case None:
                yield from self._recorded(line)
            case "RunStarted":
                yield events.RunStarted(step, self._epoch, int(line.get("total_steps", 0)), self._folder)
            case "CommandApplied" | "CommandRefused" if isinstance(line.get("command"), dict):
                source, result = str(line.get("source")), line.get("result") or {}
                yield events.CommandApplied(step, self._epoch, line["command"], source, result, line.get("error"))
            case "CheckpointSaved":
                self._checkpoint = self._folder / str(line.get("path"))
                yield events.CheckpointSaved(step, self._epoch, self._checkpoint, float(line.get("seconds", 0.0)))
            case "EpochEnded":
                yield events.EpochEnded(step, self._epoch, line.get("metrics") or {})
            case "RunEnded":
                yield events.RunEnded(step, self._epoch, str(line.get("state")), self._checkpoint)
            case "RunFailed":
                yield events.RunFailed(step, self._epoch, RuntimeError(str(line.get("error"))), "")

    def _recorded(self, record: Line) -> Iterator[events.Event]:
        step, metrics = record["step"], metrics_of(record)
        if "loss" in metrics:
            told = float(record["time"]), int(record.get("segment", 0))
            yield events.MetricsLogged(step, self._epoch, metrics, *told)
        elif any(name.startswith("val_") for name in metrics):
            yield events.Evaluated(step, self._epoch, metrics)
