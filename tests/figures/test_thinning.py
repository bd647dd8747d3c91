"""Thinned curves: bounded, sorted, made of real points, and never without a peak, whatever range is asked for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa.figures.thinning import FANOUT, Curve, Thinned, thin

Values = st.floats(-1e6, 1e6, allow_nan=False)
Points = st.lists(st.tuples(st.integers(1, 50), Values), min_size=1, max_size=700)


def walk(gaps: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Points at growing steps, from gaps and values."""
    step, points = 0, []
    for gap, value in gaps:
        step += gap
        points.append((step, value))
    return points


def directly(points: list[tuple[int, float]], limit: int, first: float, last: float) -> tuple[list, list]:
    """Points and (middle, mean) of a range, from the definition."""
    steps = [step for step, _ in points]
    inside = [place for place, step in enumerate(steps) if first <= step <= last]
    before = sum(step < first for step in steps)
    start, stop = (inside[0], inside[-1] + 1) if inside else (before, before)
    start, stop = max(start - 1, 0), min(stop + 1, len(points))
    if stop - start <= limit:
        return points[start:stop], []
    width = 2
    while len(range(start // width, (stop - 1) // width + 1)) > (limit - 2) // 2:
        width *= 2
    buckets = [
        points[number * width : (number + 1) * width] for number in range(start // width, (stop - 1) // width + 1)
    ]
    kept = {buckets[0][0], buckets[-1][-1]}
    for bucket in buckets:
        kept |= {min(bucket, key=lambda point: point[1]), max(bucket, key=lambda point: point[1])}
    means = [((bucket[0][0] + bucket[-1][0]) / 2, np.mean([value for _, value in bucket])) for bucket in buckets]
    return sorted(kept), means


def filled(points: list[tuple[int, float]]) -> Curve:
    curve = Curve()
    for step, value in points:
        curve.add(step, value)
    return curve


def check(answer: Thinned, points: list[tuple[int, float]], limit: int, first: float, last: float) -> None:
    kept, means = directly(points, limit, first, last)
    assert list(zip(answer.steps.tolist(), answer.values.tolist(), strict=True)) == kept
    assert len(kept) <= limit
    assert answer.mean_steps.tolist() == [step for step, _ in means]
    assert answer.means.tolist() == pytest.approx([mean for _, mean in means], rel=1e-9, abs=1e-6)


@settings(max_examples=150)
@given(Points, st.integers(4, 60), st.data())
def test_any_range_is_answered_as_a_direct_computation_would(
    gaps: list[tuple[int, float]], limit: int, data: st.DataObject
) -> None:
    points = walk(gaps)
    curve = filled(points)
    check(curve.thinned(limit), points, limit, -math.inf, math.inf)
    first = data.draw(st.integers(-5, points[-1][0] + 5))
    last = data.draw(st.integers(first, points[-1][0] + 5))
    check(curve.thinned(limit, first, last), points, limit, first, last)


@pytest.mark.parametrize("length", [FANOUT**2 - 1, FANOUT**2, FANOUT**3, FANOUT**3 + FANOUT**2 + 3, 2 * FANOUT**3 - 1])
def test_long_curves_are_answered_from_every_level(length: int) -> None:
    points = [(3 * step, float(value)) for step, value in enumerate(np.random.default_rng(0).normal(size=length))]
    curve = filled(points)
    for limit in (4, 10, 100, 1000):
        check(curve.thinned(limit), points, limit, -math.inf, math.inf)
        check(curve.thinned(limit, length, 2.5 * length), points, limit, length, 2.5 * length)


@settings(max_examples=60)
@given(Points, st.integers(0, 700))
def test_many_points_at_once_are_the_same_as_one_by_one(gaps: list[tuple[int, float]], split: int) -> None:
    points = walk(gaps)
    curve = filled(points[:split])
    rest = points[split:]
    curve.extend([step for step, _ in rest], [value for _, value in rest])
    check(curve.thinned(20), points, 20, -math.inf, math.inf)
    assert len(curve) == len(points)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 400), st.lists(Values, min_size=1, max_size=80)), max_size=6))
def test_going_back_leaves_nothing_of_the_abandoned_steps(runs: list[tuple[int, list[float]]]) -> None:
    curve = Curve()
    points: list[tuple[int, float]] = []
    for start, values in runs:
        for step, value in enumerate(values, start=start):
            points = [point for point in points if point[0] < step]
            points.append((step, value))
            curve.add(step, value)
        check(curve.thinned(12), points, 12, -math.inf, math.inf)


def test_points_that_are_given_again_replace_the_old_ones() -> None:
    curve = filled([(step, float(step)) for step in range(40)])
    curve.extend([38, 39, 39], [1.0, 2.0, 3.0])
    assert curve.thinned(100, first=37).values.tolist() == [36.0, 37.0, 1.0, 3.0]


def test_a_value_that_is_no_number_hides_no_peak() -> None:
    nan = math.nan
    values = [5.0, nan, 1.0, -7.0, nan, nan, 2.0, 3.0]
    steps, kept = thin(enumerate(values), 4)
    assert (max(kept), min(kept)) == (5, -7)
    assert steps == [0, 3, 7]
    curve = filled(list(enumerate(values)))
    assert curve.thinned(4).values.tolist() == kept
    assert thin([(0, nan)]) == thin([]) == ([], [])


def test_infinity_is_a_peak() -> None:
    assert max(thin(enumerate([1.0] * 50 + [math.inf] + [1.0] * 50), 8)[1]) == math.inf


def test_a_point_takes_less_than_eighteen_bytes() -> None:
    curve = Curve()
    assert curve.last is None
    curve.extend(np.arange(100_000), np.zeros(100_000))
    curve.thinned(10)
    assert 16 < curve.nbytes / len(curve) < 18
    assert curve.last == 99_999


def test_a_limit_below_four_and_columns_of_two_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="limit must be at least 4, got 3"):
        Curve().thinned(3)
    with pytest.raises(ValueError, match="every point needs a step and a value, got 2 and 1"):
        Curve().extend([1, 2], [1.0])
