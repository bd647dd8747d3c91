"""Schedules against their formulas, and what an edit by hand does to them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa.objectives.base import HyperParameter
from jepa.trainer.control import Mode
from jepa.trainer.schedules import Adjustable, constant, cosine, linear, warmup_cosine

POSITIVE = st.floats(1e-6, 1e3)
MOMENTUM = HyperParameter(0.99, 0.0, 1.0)
RATE = HyperParameter(1.0, 0.0, 1e3)


def test_constant_is_the_same_at_every_step() -> None:
    assert [constant(0.3)(step) for step in (0, 1, 10**9)] == [0.3] * 3


def test_linear_goes_from_the_first_to_the_last_step_in_equal_parts() -> None:
    assert [linear(0.0, 1.0, 5)(step) for step in range(7)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_cosine_has_its_known_points() -> None:
    values = [cosine(3.0, 1.0, 5)(step) for step in range(6)]
    half = math.sqrt(0.5)
    assert values == pytest.approx([3.0, 2 + half, 2.0, 2 - half, 1.0, 1.0])


def test_warmup_rises_linearly_above_zero_and_then_follows_the_cosine() -> None:
    schedule = warmup_cosine(1.0, 0.1, 4, 13)
    assert [schedule(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    for step in range(4, 13):
        assert schedule(step) == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * (step - 4) / 8)))
    assert schedule(12) == pytest.approx(0.1)
    assert schedule(99) == pytest.approx(0.1)


@given(POSITIVE, st.floats(0, 1), st.integers(1, 200), st.floats(0, 1))
def test_warmup_cosine_never_leaves_its_range(peak: float, end: float, total: int, fraction: float) -> None:
    warmup = round(fraction * total)
    values = [warmup_cosine(peak, peak * end, warmup, total)(step) for step in range(total)]
    assert all(0 < value <= peak * (1 + 1e-12) for value in values) or end == 0
    assert max(values) <= peak * (1 + 1e-12)


def test_a_warm_up_may_begin_above_zero() -> None:
    schedule = warmup_cosine(1.0, 0.0, 3, 10, start=0.2)
    assert [schedule(step) for step in range(4)] == pytest.approx([0.4, 0.6, 0.8, 1.0])


@pytest.mark.parametrize("schedule", [linear(1.0, 0.5, 1), cosine(1.0, 0.5, 1), warmup_cosine(1.0, 0.5, 0, 1)])
def test_a_run_of_one_step_starts_at_the_start(schedule: object) -> None:
    assert schedule(0) == 1.0  # type: ignore[operator]


@given(POSITIVE, st.integers(0, 99), st.floats(1e-6, 1e3))
def test_scaling_passes_through_the_value_and_keeps_the_shape(start: float, step: int, value: float) -> None:
    schedule = cosine(start, start / 10, 100)
    adjustable = Adjustable(HyperParameter(1.0, 0.0, 1e12), schedule)
    adjustable.edit(step, value)
    assert adjustable(step) == pytest.approx(value)
    for later in range(step, 110, 7):
        assert adjustable(later) / value == pytest.approx(schedule(later) / schedule(step))


def test_holding_stays_until_the_next_edit() -> None:
    adjustable = Adjustable(RATE, linear(1.0, 0.0, 11))
    adjustable.edit(2, 0.3, "hold")
    assert [adjustable(step) for step in (2, 5, 10)] == [0.3] * 3
    adjustable.edit(5, 1.0, "scale")
    assert adjustable(5) == pytest.approx(1.0)
    assert adjustable(10) == 0.0


def test_scaling_a_momentum_scales_its_distance_to_one() -> None:
    adjustable = Adjustable(MOMENTUM, linear(0.9, 1.0, 11), anchor=1.0)
    adjustable.edit(0, 0.8)
    assert adjustable(0) == pytest.approx(0.8)
    assert adjustable(5) == pytest.approx(0.9)
    assert adjustable(10) == 1.0


def test_a_scaled_value_stays_in_the_declared_range() -> None:
    adjustable = Adjustable(HyperParameter(1.0, 0.5, 2.0), linear(1.0, 10.0, 11))
    adjustable.edit(0, 2.0)
    assert adjustable(10) == 2.0


def test_a_schedule_at_its_anchor_cannot_be_scaled() -> None:
    adjustable = Adjustable(MOMENTUM, linear(0.9, 1.0, 11), anchor=1.0)
    assert adjustable.scalable(0)
    assert not adjustable.scalable(10)


@pytest.mark.parametrize("mode", ["scale", "hold", "schedule"])
def test_an_edit_survives_its_state(mode: str) -> None:
    first, second = (Adjustable(RATE, cosine(1.0, 0.1, 50)) for _ in range(2))
    first.edit(7, 0.4, mode, 50)  # type: ignore[arg-type]
    second.load_state_dict(first.state_dict())
    assert [second(step) for step in range(50)] == [first(step) for step in range(50)]


def test_a_schedule_laid_by_hand_leads_from_the_present_value_to_the_given_one() -> None:
    adjustable = Adjustable(RATE, constant(0.8))
    adjustable.edit(10, 0.2, "schedule", 31)
    by_hand = cosine(0.8, 0.2, 21)
    assert [adjustable(step) for step in range(10, 40)] == [by_hand(step - 10) for step in range(10, 40)]
    assert (adjustable(10), adjustable(30)) == pytest.approx((0.8, 0.2))
    momentum = Adjustable(MOMENTUM, linear(0.9, 1.0, 101), anchor=1.0, shape=linear)
    momentum.edit(50, 0.99, "schedule", 101)
    assert [momentum(step) for step in (50, 75, 100)] == pytest.approx([0.95, 0.97, 0.99])


def test_an_adjustable_says_how_it_goes_on() -> None:
    adjustable = Adjustable(RATE, linear(1.0, 0.0, 11))
    said = [adjustable.course]
    edits: list[tuple[float, Mode]] = [(0.25, "scale"), (0.2, "hold"), (0.1, "schedule"), (0.05, "scale")]
    for value, mode in edits:
        adjustable.edit(5, value, mode, 11)
        said.append(adjustable.course)
    assert said == [
        "as planned",
        "rescaled x 0.5",
        "held",
        "cosine to 0.1 at step 11",
        "cosine to 0.1 at step 11, rescaled x 0.25",
    ]
    assert adjustable(10) == pytest.approx(0.025)
    momentum = Adjustable(MOMENTUM, linear(0.9, 1.0, 11), anchor=1.0)
    momentum.edit(0, 0.8)
    assert momentum.course == "distance to 1 rescaled x 2"


@pytest.mark.parametrize("rescaled", [False, True])
def test_a_schedule_laid_by_hand_is_stretched_to_another_end(rescaled: bool) -> None:
    adjustable = Adjustable(RATE, constant(0.8))
    adjustable.edit(0, 0.2, "schedule", 21)
    if rescaled:
        adjustable.edit(10, adjustable(10) / 2, "scale")
    before = adjustable(15)
    adjustable.stretch(15, 41)
    assert adjustable(15) == pytest.approx(before)
    assert adjustable(40) == pytest.approx(0.1 if rescaled else 0.2)
    assert adjustable.course == f"cosine to {0.1 if rescaled else 0.2:g} at step 41"
