"""A background run shortens the turns that threads take at the interpreter, and leaves them as they were."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jepa.data import MemoryLoader
from jepa.trainer import JEPATrainer
from jepa.trainer.turns import TURN_SECONDS, ShortTurns

MakeTrainer = Callable[..., JEPATrainer]
USERS = 0.004
LONG = 10**6


@pytest.fixture(autouse=True)
def _users_interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(USERS)
    yield
    sys.setswitchinterval(before)


def interval() -> float:
    """In whole microseconds, as the interpreter counts it."""
    return round(sys.getswitchinterval(), 6)


def test_a_background_run_takes_short_turns_but_not_while_it_is_paused(
    make_trainer: MakeTrainer, loader: MemoryLoader, make_gate: Any, wait_until: Callable[..., None]
) -> None:
    gate = make_gate(1)
    run = make_trainer(callbacks=[gate]).start(loader, max_steps=LONG, wait=False)
    assert gate.reached.wait(30)
    assert interval() == TURN_SECONDS
    gate.opened.set()
    run.pause().result(30)
    assert interval() == USERS
    run.step().result(30)
    wait_until(lambda: run.state == "paused")
    assert interval() == USERS
    run.resume().result(30)
    assert interval() == TURN_SECONDS
    run.stop()
    run.wait(30)
    assert interval() == USERS


def test_a_run_that_is_stopped_in_its_pause_leaves_the_interval_alone(
    make_trainer: MakeTrainer, loader: MemoryLoader
) -> None:
    run = make_trainer().start(loader, max_steps=LONG, wait=False)
    run.pause().result(30)
    sys.setswitchinterval(0.002)
    run.stop()
    run.wait(30)
    assert interval() == 0.002


def test_a_failed_run_and_one_that_was_taken_over_give_the_interval_back(
    make_trainer: MakeTrainer, loader: MemoryLoader, make_gate: Any, make_model: Any
) -> None:
    run = make_trainer().start([(1, 2, 3)], num_epochs=1, wait=False)
    with pytest.raises(TypeError, match="takes batches"):
        run.wait(30)
    assert interval() == USERS
    model = make_model()
    make_trainer(model).start(loader, max_steps=LONG, wait=False)
    with pytest.warns(UserWarning, match="stopped the run that trained this model"):
        other = make_trainer(model)
    assert interval() == USERS
    for _ in range(2):
        other.start(loader, num_epochs=other.epoch + 1, wait=False).wait(30)
        assert interval() == USERS


def test_training_in_the_cell_itself_touches_nothing(
    make_trainer: MakeTrainer, loader: MemoryLoader, make_gate: Any
) -> None:
    seen = []
    gate = make_gate(10**6)
    gate.on_step_ended = lambda trainer, event: seen.append(sys.getswitchinterval())
    make_trainer(callbacks=[gate]).train(loader, num_epochs=1)
    assert seen == pytest.approx([USERS] * 6, abs=1e-6)


def test_what_was_changed_meanwhile_stays() -> None:
    turns = ShortTurns()
    turns.begin()
    sys.setswitchinterval(0.003)
    turns.end()
    assert interval() == 0.003


@pytest.mark.parametrize("users", [1009e-6, 49e-6])  # read and set again, each would be cut by a microsecond
def test_the_interval_comes_back_to_the_microsecond(users: float) -> None:
    sys.setswitchinterval(users)
    before = sys.getswitchinterval()
    turns = ShortTurns()
    for _ in range(3):
        turns.begin()
        assert interval() == TURN_SECONDS
        turns.end()
        assert sys.getswitchinterval() == before


def test_turns_that_are_shorter_already_stay() -> None:
    sys.setswitchinterval(TURN_SECONDS / 2)
    before = sys.getswitchinterval()
    turns = ShortTurns()
    turns.begin()
    assert sys.getswitchinterval() == before
    turns.end()
    assert sys.getswitchinterval() == before


def test_two_runs_end_in_any_order() -> None:
    first, second = ShortTurns(), ShortTurns()
    first.begin()
    second.begin()
    first.end()
    assert interval() == TURN_SECONDS
    second.pause()
    assert interval() == USERS
    second.resume()
    assert interval() == TURN_SECONDS
    second.end()
    second.end()
    second.resume()
    first.pause()
    assert interval() == USERS
