"""A curve of any length in a bounded number of points that keep every peak."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple


class _Bucket(NamedTuple):
    low_step: int
    low: float
    high_step: int
    high: float

    def points(self) -> list[tuple[int, float]]:
        return sorted({(self.low_step, self.low), (self.high_step, self.high)})


class MinMaxCurve:
    """Keeps the smallest and the largest value of equally many steps each; adding a point costs the same at any length.

    When there are too many buckets, neighbours are merged, so the curve stays bounded for ever.

    Args:
        limit: Largest number of points, at least 4.
    """

    def __init__(self, limit: int = 400) -> None:
        if limit < 4:
            raise ValueError(f"limit must be at least 4, got {limit}")
        self._capacity = limit // 2
        self._width = 1
        self._buckets: dict[int, _Bucket] = {}
        self._last = -1

    def add(self, step: int, value: float) -> None:
        """Add a point; a step that was there before (after going back to a checkpoint) cuts the curve there.

        NaN is no point: nothing is larger or smaller, so it would hide the peaks beside it.
        """
        if step <= self._last:
            self._cut(step)
        self._last = step
        if math.isnan(value):
            return
        key = step // self._width
        old = self._buckets.get(key)
        if old is None:
            self._buckets[key] = _Bucket(step, value, step, value)
            while len(self._buckets) > self._capacity:
                self._merge()
        else:
            low = (old.low_step, old.low) if old.low <= value else (step, value)
            high = (old.high_step, old.high) if old.high >= value else (step, value)
            self._buckets[key] = _Bucket(*low, *high)

    def _cut(self, step: int) -> None:
        """Forget all points from `step` on."""
        kept: dict[int, _Bucket] = {}
        for key, bucket in self._buckets.items():
            before = [point for point in bucket.points() if point[0] < step]
            if before:
                low, high = min(before, key=_value), max(before, key=_value)
                kept[key] = _Bucket(*low, *high)
        self._buckets = kept

    def _merge(self) -> None:
        self._width *= 2
        merged: dict[int, _Bucket] = {}
        for key, bucket in self._buckets.items():
            other = merged.get(key // 2)
            if other is None:
                merged[key // 2] = bucket
                continue
            low = other[:2] if other.low <= bucket.low else bucket[:2]
            high = other[2:] if other.high >= bucket.high else bucket[2:]
            merged[key // 2] = _Bucket(*low, *high)
        self._buckets = merged

    def points(self) -> tuple[list[int], list[float]]:
        """Steps and values, in order."""
        points = [point for bucket in self._buckets.values() for point in bucket.points()]
        return [step for step, _ in points], [value for _, value in points]


def _value(point: tuple[int, float]) -> float:
    return point[1]


def thin(points: Iterable[tuple[int, float]], limit: int = 2000) -> tuple[list[int], list[float]]:
    """Steps and values of a curve, in at most `limit` points."""
    curve = MinMaxCurve(limit)
    for step, value in points:
        curve.add(step, value)
    return curve.points()
