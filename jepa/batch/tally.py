"""How far many runs are, in lines to read."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from jepa.batch.launch import BatchResult
from jepa.batch.sweep import Point
from jepa.trainer.listing import in_words, read_run

SAY_SECONDS = 5.0


class Tally:
    """Counts what becomes of the runs of a sweep, and says it.

    Args:
        total: Runs in all.
        folder: Of the sweep.
        say: Gets the lines.

    Attributes:
        results: What came of each run, in the order in which they ended.
    """

    def __init__(self, total: int, folder: Path, say: Callable[[str], None]) -> None:
        self.total = total
        self.say = say
        self.results: list[BatchResult] = []
        self._folder = folder
        self._running: dict[str, float] = {}  # name to the share of it that was done when it was taken up
        self._done = 0.0  # runs' worth of work, by this command
        self._began = self._said_at = time.monotonic()
        self._said = ""

    def begun(self, point: Point) -> None:
        """A run begins, or goes on."""
        self._running[point.name] = self._share(point.name)

    def ended(self, point: Point, result: BatchResult) -> None:
        """A run has ended."""
        before = self._running.pop(point.name)
        self.results.append(result)
        if result.status != "skipped":
            self._done += 1.0 - before
            self.say(f"{point.name}: {result.status}" + (f" ({result.error})" if result.error else ""))

    def tell(self) -> None:
        """Say how far all are, if that is new and was not said a moment ago."""
        if time.monotonic() - self._said_at >= SAY_SECONDS and (line := self.line()) != self._said:
            self._said, self._said_at = line, time.monotonic()
            self.say(line)

    def line(self) -> str:
        """Runs that ended and that go on, and the time left."""
        running = dict(self._running)
        shares = {name: self._share(name) for name in running}
        states = Counter(result.status for result in self.results)
        ended = f"{len(self.results)} of {self.total} runs ended"
        kinds = [f"{count} {state}" for state, count in states.items() if state != "finished"]
        parts = [ended + (f" ({', '.join(kinds)})" if kinds else ""), f"{len(running)} running"]
        done = self._done + sum(max(shares[name] - before, 0.0) for name, before in running.items())
        left = self.total - len(self.results) - sum(shares.values())
        if done > 0.01:
            parts.append(f"about {in_words(left / done * (time.monotonic() - self._began))} left")
        return ", ".join(parts)

    def _share(self, name: str) -> float:
        """How much of a run is done, from 0 to 1."""
        run = read_run(self._folder / name)
        return min(run.step / run.total_steps, 1.0) if run.total_steps else 0.0
