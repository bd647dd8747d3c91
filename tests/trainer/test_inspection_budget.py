"""How often a front end may look at a run of its own accord."""

from __future__ import annotations

import pytest

from jepa.trainer.inspection_budget import InspectionBudget


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def budget(clock: Clock) -> InspectionBudget:
    budget = InspectionBudget(0.02, clock=clock)
    budget.trains(True)
    return budget


def test_refreshes_as_often_as_allowed_take_their_share_and_no_more(clock: Clock, budget: InspectionBudget) -> None:
    began, spent, last = clock.now, 0.0, 0.0
    for tick in range(100_000):
        clock.now += 0.01
        if budget.may_refresh():
            seconds = 0.1 + 0.05 * (tick % 7)
            clock.now += seconds
            spent += seconds
            budget.took(seconds)
            last = seconds
    share = (spent - last) / (clock.now - began)
    assert 0.019 < share < 0.02


def test_what_was_not_used_is_not_saved_up(clock: Clock, budget: InspectionBudget) -> None:
    clock.now += 3600
    assert budget.may_refresh()
    budget.took(0.1)
    assert not budget.may_refresh()
    assert budget.seconds_left == pytest.approx(4.9)


def test_a_pause_does_not_count_as_training(clock: Clock, budget: InspectionBudget) -> None:
    budget.took(0.1)
    clock.now += 2
    budget.trains(False)
    clock.now += 1000
    assert budget.seconds_left == pytest.approx(2.9)
    budget.took(0.1)  # holds up nothing
    budget.trains(True)
    clock.now += 2.8
    assert not budget.may_refresh()
    clock.now += 0.2
    assert budget.may_refresh()


def test_saying_twice_that_it_trains_changes_nothing(clock: Clock, budget: InspectionBudget) -> None:
    budget.took(0.1)
    for _ in range(10):
        clock.now += 0.1
        budget.trains(True)
    assert budget.seconds_left == pytest.approx(3.9)


@pytest.mark.parametrize("share", [0, 1, -0.1, 2.0, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"share must lie between 0 and 1, such as 0\.02 for 2 %, got"):
        InspectionBudget(share)
