"""A curve of any length, of which any range can be had in a bounded number of points that keep every peak."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

FANOUT = 16  # 17.6 bytes a point in all: 16 for the point itself, the rest for the summaries


class Thinned(NamedTuple):
    """A part of a curve.

    Attributes:
        steps: Of real points, in order.
        values: Of the same points.
        mean_steps: Middle of each bucket; empty where every point is kept.
        means: Mean of all values of each bucket; empty where every point is kept.
    """

    steps: np.ndarray
    values: np.ndarray
    mean_steps: np.ndarray
    means: np.ndarray


class _Level:
    """Places of the smallest and largest value, and the sum, of each piece of equally many points."""

    def __init__(self) -> None:
        self.low, self.high, self.total = array("q"), array("q"), array("d")

    def __len__(self) -> int:
        return len(self.total)

    def cut(self, length: int) -> None:
        del self.low[length:], self.high[length:], self.total[length:]


class Curve:
    """Points in the order of their steps, with summaries of 16, 256, 4096, ... neighbours.

    Adding a point costs the same at any length, a question costs what its answer is long. What the answer holds does
    not depend on when the points came.

    Example:
        >>> curve = Curve()
        >>> curve.extend(range(1000), [0.0] * 500 + [9.0] + [0.0] * 499)
        >>> float(curve.thinned(limit=20).values.max()), len(curve.thinned(limit=20, first=490, last=499).steps)
        (9.0, 12)
    """

    def __init__(self) -> None:
        self._steps, self._values = array("q"), array("d")
        self._levels: list[_Level] = []

    def __len__(self) -> int:
        return len(self._values)

    @property
    def last(self) -> int | None:
        """The newest step, `None` if there is no point."""
        return self._steps[-1] if self._steps else None

    @property
    def nbytes(self) -> int:
        """Memory that points and summaries take, in bytes."""
        columns = [self._steps, self._values]
        columns += [column for level in self._levels for column in (level.low, level.high, level.total)]
        return sum(column.itemsize * len(column) for column in columns)

    def add(self, step: int, value: float) -> None:
        """Add a point; a step that was there before (after going back to a checkpoint) cuts the curve there.

        NaN is no point: nothing is larger or smaller, so it would hide the peaks beside it.
        """
        if self._steps and step <= self._steps[-1]:
            self.cut(step)
        if math.isnan(value):
            return
        self._steps.append(step)
        self._values.append(value)

    def extend(self, steps: Sequence[int] | np.ndarray, values: Sequence[float] | np.ndarray) -> None:
        """Add many points at once, as `add` does."""
        new_steps, new_values = np.asarray(steps, np.int64), np.asarray(values, np.float64)
        if len(new_steps) != len(new_values):
            raise ValueError(f"every point needs a step and a value, got {len(new_steps)} and {len(new_values)}")
        first = -1 if self.last is None else self.last
        if len(new_steps) and (new_steps[0] <= first or np.any(np.diff(new_steps) <= 0)):
            for step, value in zip(new_steps.tolist(), new_values.tolist(), strict=True):
                self.add(step, value)
            return
        kept = ~np.isnan(new_values)
        self._steps.frombytes(new_steps[kept].tobytes())
        self._values.frombytes(new_values[kept].tobytes())

    def cut(self, step: int) -> None:
        """Forget all points from `step` on."""
        length = bisect_left(self._steps, step)
        del self._steps[length:], self._values[length:]
        for level in self._levels:
            length //= FANOUT
            level.cut(length)

    def thinned(self, limit: int = 2000, first: float = -math.inf, last: float = math.inf) -> Thinned:
        """The points from step `first` to step `last`, and one more on either side, which lines need to reach the edge.

        If they are more than `limit`, they are put in buckets of equally many neighbours, a power of two that does not
        depend on the range, and what is left is the smallest and the largest of each bucket, and the first and the last
        point of all. The outermost buckets are whole, and so may begin before the range and end after it.

        Args:
            limit: Largest number of points, at least 4.
            first: First step of the range.
            last: Last step of the range.

        Raises:
            ValueError: The limit is too small.
        """
        if limit < 4:
            raise ValueError(f"limit must be at least 4, got {limit}")
        start = max(bisect_left(self._steps, first) - 1, 0)
        stop = min(bisect_right(self._steps, last) + 1, len(self))
        if stop - start <= limit:
            steps, values = np.array(self._steps[start:stop]), np.array(self._values[start:stop])
            return Thinned(steps.astype(np.int64), values.astype(np.float64), np.empty(0), np.empty(0))
        self._summarise()
        width = 2
        while (stop - 1) // width - start // width + 1 > (limit - 2) // 2:
            width *= 2
        return self._in_buckets(start // width * width, min(-(-stop // width) * width, len(self)), width)

    def _in_buckets(self, start: int, stop: int, width: int) -> Thinned:
        steps, values = np.frombuffer(self._steps, np.int64), np.frombuffer(self._values)
        whole = (stop - start) // width
        low, high, total = self._whole_buckets(start, whole, width, values)
        kept = [low, high]
        end = start + whole * width
        if end < stop:
            tail_low, tail_high, tail = self._pieces(end, stop, values)
            total = np.concatenate((total, [tail.sum()]))
            kept += [tail_low[[values[tail_low].argmin()]], tail_high[[values[tail_high].argmax()]]]
        begins = np.arange(start, stop, width)
        ends = np.minimum(begins + width, stop)
        places = np.concatenate((*kept, (start, stop - 1)))
        places.sort()
        places = places[np.concatenate(((True,), places[1:] != places[:-1]))]
        middles = (steps[begins] + steps[ends - 1]) / 2
        return Thinned(steps[places], values[places], middles, total / (ends - begins))

    def _whole_buckets(self, start: int, count: int, width: int, values: np.ndarray) -> tuple[Any, Any, Any]:
        depth = (width.bit_length() - 1) // (FANOUT.bit_length() - 1) if count else 0
        size = FANOUT**depth
        low, high, total = self._at(depth, start // size, (start + count * width) // size)
        low, high, total = (column.reshape(count, width // size) for column in (low, high, total))
        rows = np.arange(count)
        return low[rows, values[low].argmin(1)], high[rows, values[high].argmax(1)], total.sum(1)

    def _pieces(self, start: int, stop: int, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The fewest pieces that make up a bucket that is still growing."""
        parts = []
        for depth in range(len(self._levels), -1, -1):
            size = FANOUT**depth
            first, end = -(-start // size), stop // size
            if first < end:
                parts.append(self._at(depth, first, end))
                start = end * size
        low, high, total = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return low, high, total

    def _at(self, depth: int, first: int, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if depth == 0:
            places = np.arange(first, end)
            return places, places, np.frombuffer(self._values)[first:end]
        level = self._levels[depth - 1]
        low, high = np.frombuffer(level.low, np.int64), np.frombuffer(level.high, np.int64)
        return low[first:end], high[first:end], np.frombuffer(level.total)[first:end]

    def _summarise(self) -> None:
        """Add the pieces that have become complete, level by level; done when asked, since many at once cost little."""
        values, depth, below = np.frombuffer(self._values), 0, len(self)
        while below >= FANOUT:
            if depth == len(self._levels):
                self._levels.append(_Level())
            level = self._levels[depth]
            done, complete = len(level), below // FANOUT
            if done == complete:
                return
            low, high, total = (part.reshape(-1, FANOUT) for part in self._at(depth, done * FANOUT, complete * FANOUT))
            rows = np.arange(complete - done)
            level.low.frombytes(low[rows, values[low].argmin(1)].tobytes())
            level.high.frombytes(high[rows, values[high].argmax(1)].tobytes())
            level.total.frombytes(total.sum(1).tobytes())
            depth, below = depth + 1, complete


def thin(points: Iterable[tuple[int, float]], limit: int = 2000) -> tuple[list[int], list[float]]:
    """Steps and values of a curve, in at most `limit` points that keep every peak."""
    curve = Curve()
    steps, values = tuple(zip(*points, strict=True)) or ((), ())
    curve.extend(steps, values)
    thinned = curve.thinned(limit)
    return thinned.steps.tolist(), thinned.values.tolist()
