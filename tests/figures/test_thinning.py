"""Thinned curves: bounded, sorted, made of real points, and never without a peak."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa.figures.thinning import MinMaxCurve, thin

Values = st.floats(-1e6, 1e6, allow_nan=False)
Curves = st.lists(st.tuples(st.integers(1, 10**6), Values), min_size=1, max_size=300)


def walk(gaps: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Points at growing steps, from gaps and values."""
    step, points = 0, []
    for gap, value in gaps:
        step += gap
        points.append((step, value))
    return points


def check(curve: tuple[list[int], list[float]], points: list[tuple[int, float]], limit: int) -> None:
    steps, values = curve
    assert len(steps) == len(values) <= limit
    assert all(first < second for first, second in itertools.pairwise(steps)), "sorted, no step twice"
    assert set(zip(steps, values, strict=True)) <= set(points), "a point that was never added"


@settings(max_examples=150, deadline=None)
@given(Curves, st.integers(4, 60))
def test_any_curve_stays_bounded_sorted_and_keeps_its_largest_and_smallest_value(
    gaps: list[tuple[int, float]], limit: int
) -> None:
    points = walk(gaps)
    curve = thin(points, limit)
    check(curve, points, limit)
    every = [value for _, value in points]
    assert max(curve[1]) == max(every)
    assert min(curve[1]) == min(every)


@settings(max_examples=100, deadline=None)
@given(st.lists(Values, min_size=1, max_size=600), st.integers(4, 60))
def test_every_window_of_steps_keeps_its_own_peaks(values: list[float], limit: int) -> None:
    points = list(enumerate(values))
    kept = dict(zip(*thin(points, limit), strict=True))
    width = 1
    while math.ceil(len(values) / width) > limit // 2:
        width *= 2
    for start in range(0, len(values), width):
        window = values[start : start + width]
        left = [kept[step] for step in range(start, start + width) if step in kept]
        assert max(left) == max(window)
        assert min(left) == min(window)


@given(Curves, st.integers(4, 60))
def test_a_curve_that_fits_is_kept_whole(gaps: list[tuple[int, float]], limit: int) -> None:
    points = walk(gaps)[: limit // 2]
    assert list(zip(*thin(points, limit), strict=True)) == points


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 400), st.lists(Values, min_size=1, max_size=80)), max_size=6), st.integers(4, 40)
)
def test_going_back_leaves_nothing_of_the_abandoned_steps(runs: list[tuple[int, list[float]]], limit: int) -> None:
    curve = MinMaxCurve(limit)
    points: list[tuple[int, float]] = []
    for start, values in runs:
        for step, value in enumerate(values, start=start):
            points = [point for point in points if point[0] < step]
            points.append((step, value))
            curve.add(step, value)
        check(curve.points(), points, limit)


def test_going_back_keeps_peaks_before_the_cut() -> None:
    curve = MinMaxCurve(8)
    for step in range(64):  # 16 steps a window
        curve.add(step, {5: 100.0, 18: -50.0, 20: 7.0, 40: 900.0}.get(step, 0.0))
    curve.add(24, 1.0)
    kept = dict(zip(*curve.points(), strict=True))
    assert kept[5] == 100
    assert kept[18] == -50
    assert kept[20] == 7
    assert 40 not in kept
    assert max(kept) <= 24


def test_the_same_step_again_replaces_its_point() -> None:
    curve = MinMaxCurve(10)
    for value in (1.0, 9.0, 3.0):
        curve.add(4, value)
    assert curve.points() == ([4], [3.0])


def test_a_value_that_is_no_number_hides_no_peak() -> None:
    curve = MinMaxCurve(4)
    values = [5.0, float("nan"), 1.0, -7.0, float("nan"), float("nan"), 2.0, 3.0]
    for step, value in enumerate(values):
        curve.add(step, value)
    assert max(curve.points()[1]) == 5
    assert min(curve.points()[1]) == -7
    assert MinMaxCurve(4).points() == ([], [])
    assert thin([(0, float("nan"))]) == ([], [])


def test_infinity_is_a_peak() -> None:
    assert max(thin(enumerate([1.0] * 50 + [float("inf")] + [1.0] * 50), 8)[1]) == float("inf")


def test_a_million_steps_need_no_more_memory_than_a_thousand() -> None:
    curve = MinMaxCurve(400)
    for step in range(0, 10**6, 7):
        curve.add(step, step % 997)
    assert 100 <= len(curve.points()[0]) <= 400
    assert len(curve._buckets) <= 200


def test_a_limit_below_four_is_refused() -> None:
    with pytest.raises(ValueError, match="limit must be at least 4, got 3"):
        MinMaxCurve(3)
