"""A curve of any length in a bounded number of points that keep every peak."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class _Bucket(NamedTuple):
    low_step: int
    low: float
    high_step: int
    high: float


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

    def add(self, step: int, value: float) -> None:
        """Add a point; a step before the last one (after going back to a checkpoint) cuts the curve there."""
        key = step // self._width
        last = next(reversed(self._buckets), None)
        if last is not None and key < last:
            self._buckets = {k: bucket for k, bucket in self._buckets.items() if k < key}
        old = self._buckets.get(key)
        if old is None:
            self._buckets[key] = _Bucket(step, value, step, value)
            if len(self._buckets) > self._capacity:
                self._merge()
        else:
            low = (old.low_step, old.low) if old.low <= value else (step, value)
            high = (old.high_step, old.high) if old.high >= value else (step, value)
            self._buckets[key] = _Bucket(*low, *high)

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
        steps: list[int] = []
        values: list[float] = []
        for low_step, low, high_step, high in self._buckets.values():
            pair = (
                [(low_step, low), (high_step, high)] if low_step < high_step else [(high_step, high), (low_step, low)]
            )
            for step, value in pair if low_step != high_step else pair[:1]:
                steps.append(step)
                values.append(value)
        return steps, values


def thin(points: Iterable[tuple[int, float]], limit: int = 2000) -> tuple[list[int], list[float]]:
    """Steps and values of a curve, in at most `limit` points."""
    curve = MinMaxCurve(limit)
    for step, value in points:
        curve.add(step, value)
    return curve.points()
