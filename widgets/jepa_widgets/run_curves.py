"""All curves of one run as a chart needs them: what counts, what was given up, and when each step was."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jepa.figures.thinning import Curve, Thinned
from jepa.trainer.run import metrics_of

OLD_POINTS = 40  # of a part that was given up by going back
OLD_PARTS = 2  # that are kept of each curve
CLOCK = 128


class Packed(NamedTuple):
    """A curve as bytes: steps (uint32) and values (float32) of points, then of the means of buckets."""

    points: int
    means: int
    data: bytes


def pack(thinned: Thinned) -> Packed:
    """A thinned curve, for the page."""
    columns = (thinned.steps, thinned.values, thinned.mean_steps, thinned.means)
    data = b"".join(column.astype(kind).tobytes() for column, kind in zip(columns, ("<u4", "<f4") * 2, strict=True))
    return Packed(len(thinned.steps), len(thinned.means), data)


class Clock:
    """Epoch and time of some steps, so many that any other can be told from its neighbours."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, int, float]] = []
        self._every, self._seen = 1, 0

    def add(self, step: int, epoch: int, time: float) -> None:
        """Note one; costs the same at any length."""
        while self._rows and self._rows[-1][0] >= step:
            self._rows.pop()
        self._seen += 1
        if self._seen % self._every and len(self._rows) > 1:
            self._rows[-1] = (step, epoch, time)  # the newest is always there
            return
        self._rows.append((step, epoch, time))
        if len(self._rows) > CLOCK:
            self._rows = self._rows[::2]
            self._every *= 2

    def cut(self, step: int) -> None:
        """Forget what is later than `step`."""
        self._rows = [row for row in self._rows if row[0] <= step]

    def packed(self, limit: int) -> tuple[int, float, bytes]:
        """How many, the time of the first, and steps (uint32), epochs and seconds since the first (float32)."""
        rows = self._rows[:: max(1, math.ceil(len(self._rows) / max(limit - 1, 1)))]
        if rows and rows[-1] != self._rows[-1]:
            rows = [*rows, self._rows[-1]]
        if not rows:
            return 0, 0.0, b""
        steps, epochs, times = (np.array(column) for column in zip(*rows, strict=True))
        data = steps.astype("<u4").tobytes() + epochs.astype("<f4").tobytes()
        return len(rows), times[0], data + (times - times[0]).astype("<f4").tobytes()


class RunCurves:
    """Curves by name of metric, in the order in which the metrics came.

    Args:
        only: Names of the metrics that are kept; all by default.

    Attributes:
        colour: Number of the run's colour.
    """

    def __init__(self, only: Collection[str] | None = None) -> None:
        self.colour = 0
        self._only = only
        self.curves: dict[str, Curve] = {}
        self.old: dict[str, deque[Packed]] = {}
        self.clock = Clock()
        self._packed: dict[str, tuple[int, int, Packed]] = {}

    def add(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Add a record; a step that was there before puts what came after it aside, as an older part."""
        for name, value in metrics.items():
            if not self._keeps(name):
                continue
            if isinstance(value, int | float) and math.isfinite(value):  # nothing else has a place on an axis
                curve = self.curves.get(name)
                if curve is None:
                    curve = self.curves[name] = Curve()
                elif curve.last is not None and step < curve.last:
                    self._give_up(name, step)
                curve.add(step, value)

    def _keeps(self, name: str) -> bool:
        return self._only is None or name in self._only

    @property
    def last(self) -> int:
        """The newest step, 0 if there is none."""
        return max((curve.last or 0 for curve in self.curves.values()), default=0)

    def go_back(self, step: int) -> None:
        """Put what is later than `step` aside, as an older part."""
        for name in self.curves:
            self._give_up(name, step + 1)
        self.clock.cut(step)

    def _give_up(self, name: str, step: int) -> None:
        curve = self.curves[name]
        if curve.last is None or curve.last < step:
            return
        old = curve.thinned(OLD_POINTS, first=step)
        if len(old.steps) > 1:
            nothing = old.means[:0]
            part = pack(old._replace(mean_steps=nothing, means=nothing))
            self.old.setdefault(name, deque(maxlen=OLD_PARTS)).append(part)
        curve.cut(step)
        self._packed.pop(name, None)

    def add_records(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add lines of a run's metrics file, or what a `History` holds as records."""
        for record in records:
            step = int(record["step"])
            if "time" in record:
                self.clock.add(step, int(record.get("epoch", 0)), float(record["time"]))
            self.add(step, metrics_of(record))

    def load(self, history: Any) -> None:
        """Replace the curves by those of a history; what is later than its end stays as an older part."""
        names = [name for name in history if self._keeps(name)]
        end = max((history.steps(name)[-1] for name in names if history[name]), default=0)
        self.go_back(end)
        self.curves, self._packed = {}, {}
        if moments := history.moments(CLOCK):
            self.clock = Clock()
            for moment in moments:
                self.clock.add(*moment)
        for name in names:
            steps, values = history.steps(name), history[name]
            count = min(len(steps), len(values))  # a run that trains in another thread may add a point in between
            column = np.asarray(values[:count], np.float64)
            kept = np.isfinite(column)
            self.curves[name] = curve = Curve()
            curve.extend(np.asarray(steps[:count], np.int64)[kept], column[kept])

    def packed(self, name: str, limit: int, *, stale: bool = False) -> Packed:
        """The whole curve in at most `limit` points; with `stale`, an earlier answer will do."""
        known = self._packed.get(name)
        if known is not None and known[1] == limit and (stale or known[0] == len(self.curves[name])):
            return known[2]
        answer = pack(self.curves[name].thinned(limit))
        self._packed[name] = (len(self.curves[name]), limit, answer)
        return answer
