"""Loggers in the background: they get everything in order, and one that hangs, lags or breaks does not hold the run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jepa.data import MemoryLoader
from jepa.loggers.console import ConsoleLogger
from jepa.loggers.jsonl import JSONLLogger
from jepa.loggers.progress import ProgressBar
from jepa.trainer import JEPATrainer, background, events
from jepa.trainer.background import BackgroundSink, in_background

MakeTrainer = Callable[..., JEPATrainer]


class Hanging:
    """A tracking service that stops answering at its call number `at`, until it is released."""

    def __init__(self, at: int = 1) -> None:
        self.at = at
        self.steps: list[int] = []
        self.calls = 0
        self.entered, self.released = threading.Event(), threading.Event()

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.calls += 1
        if self.calls == self.at:
            self.entered.set()
            assert self.released.wait(30)
        self.steps.append(step)


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    """Hangs at its second record; its thread ends with the test."""
    service = Hanging(at=2)
    yield service
    service.released.set()


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of a second."""
    monkeypatch.setattr(background, "PATIENCE", 0.1)


def started(step: int = 0) -> events.RunStarted:
    return events.RunStarted(step, 0, 200, None)


def logged(step: int) -> events.MetricsLogged:
    return events.MetricsLogged(step, 0, {"loss": 0.5}, 0.0, 0)


def ended(step: int = 200) -> events.RunEnded:
    return events.RunEnded(step, 2, "finished", None)


def threads_of_loggers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "jepa-logger"]


def test_a_logger_has_every_event_in_order_when_the_run_has_ended(make_trainer: MakeTrainer, loader: Any) -> None:
    seen: list[events.Event] = []
    slow: list[events.Event] = []
    caller: set[str] = set()

    def background_logger(event: events.Event) -> None:
        caller.add(threading.current_thread().name)
        time.sleep(0.001)
        slow.append(event)

    trainer = make_trainer(logger=background_logger, log_every=1)
    trainer.subscribe(seen.append)
    trainer.train(loader, num_epochs=2)
    assert slow == seen
    assert isinstance(slow[-1], events.RunEnded)
    trainer.train(loader, num_epochs=3)
    assert slow == seen
    assert slow[-1].step == 18
    assert caller == {"jepa-logger"}


def test_a_logger_that_hangs_does_not_hold_the_run_and_is_named(
    make_trainer: MakeTrainer, loader: MemoryLoader, hanging: Hanging, short_patience: None
) -> None:
    trainer = make_trainer(logger=[hanging], log_every=1)
    with pytest.warns(RuntimeWarning, match=r"Hanging object .* hangs: \d\d events wait for it"):
        trainer.train(loader, num_epochs=2)
    assert trainer.state == "finished"
    assert hanging.entered.is_set()
    assert hanging.steps == [1]


def test_a_logger_that_answers_again_gets_what_it_has_missed(
    make_trainer: MakeTrainer, loader: MemoryLoader, hanging: Hanging, short_patience: None, wait_until: Any
) -> None:
    trainer = make_trainer(logger=hanging, log_every=1)
    with pytest.warns(RuntimeWarning, match="hangs"):
        trainer.train(loader, num_epochs=1)
    hanging.released.set()
    wait_until(lambda: not threads_of_loggers())
    trainer.train(loader, num_epochs=2)
    assert hanging.steps == list(range(1, 13))


def test_training_waits_only_once_for_a_logger_that_does_not_move(hanging: Hanging) -> None:
    sink = BackgroundSink(lambda event: hanging.log({}, event.step), patience=0.3)
    took = []
    for event in (started(), logged(1), ended(), ended()):
        start = time.monotonic()
        if isinstance(event, events.RunEnded):
            with pytest.warns(RuntimeWarning, match=r"hangs: [23] events wait for it since 0.3 s"):
                sink(event)
        else:
            sink(event)
        took.append(time.monotonic() - start)
    assert took[2] >= 0.3
    assert took[3] < 0.2


def test_a_failed_run_waits_for_its_loggers_too(make_trainer: MakeTrainer, pairs: Any) -> None:
    seen: list[str] = []

    def slow(event: events.Event) -> None:
        time.sleep(0.005)
        seen.append(type(event).__name__)

    trainer = make_trainer(logger=slow)
    pairs[0][:] = float("nan")
    with pytest.raises(RuntimeError, match="the loss is nan"):
        trainer.train(MemoryLoader(*pairs, batch_size=8), num_epochs=1)
    assert seen[-1] == "RunFailed"


def test_when_too_many_events_wait_new_ones_are_dropped_but_not_the_end(hanging: Hanging) -> None:
    seen: list[events.Event] = []

    def sink(event: events.Event) -> None:
        hanging.log({}, event.step)
        seen.append(event)

    full = BackgroundSink(sink, capacity=3)
    full(started())
    full(logged(1))
    assert hanging.entered.wait(30)
    full(logged(2))
    full(logged(3))
    with pytest.warns(RuntimeWarning, match="slower than the run: 3 events wait for it, further ones are dropped"):
        full(logged(4))
    full(logged(5))  # said once
    hanging.released.set()
    with pytest.warns(RuntimeWarning, match="was slower than the run: 2 events were dropped"):
        full(ended())
    assert [event.step for event in seen] == [0, 1, 2, 3, 200]


def test_a_logger_that_raises_is_dropped_with_a_warning_on_the_training_thread(
    make_trainer: MakeTrainer, loader: MemoryLoader
) -> None:
    calls: list[events.Event] = []

    def broken(event: events.Event) -> None:
        calls.append(event)
        if isinstance(event, events.MetricsLogged):
            raise OSError("no space left")

    trainer = make_trainer(logger=broken)
    with pytest.warns(UserWarning, match=r"broken.* failed on MetricsLogged \(OSError\('no space left'\)\) and gets"):
        trainer.train(loader, num_epochs=1)
    told = len(calls)
    trainer.train(loader, num_epochs=2)
    assert len(calls) == told
    assert trainer.step == 12


def test_events_outside_of_a_run_have_arrived_when_the_call_returns(make_trainer: MakeTrainer, loader: Any) -> None:
    seen: list[events.Event] = []

    def slow(event: events.Event) -> None:
        time.sleep(0.05)
        seen.append(event)

    make_trainer(logger=slow, val_loader=loader).evaluate()
    assert [type(event) for event in seen] == [events.Evaluated]


def test_a_logger_can_be_unsubscribed_by_itself(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    seen: list[events.Event] = []
    trainer = make_trainer(logger=seen.append)
    trainer.unsubscribe(seen.append)
    trainer.train(loader, num_epochs=1)
    assert seen == []


def test_no_thread_outlives_a_run_and_none_is_started_for_our_own_sinks(
    make_trainer: MakeTrainer, loader: MemoryLoader, wait_until: Any, tmp_path: Any
) -> None:
    trainer = make_trainer(logger=print)
    assert not threads_of_loggers()
    trainer.train(loader, num_epochs=1)
    wait_until(lambda: not threads_of_loggers())
    for sink in (ConsoleLogger(), JSONLLogger(tmp_path / "a.jsonl"), ProgressBar()):
        assert in_background(sink) is sink


def test_an_object_may_ask_to_be_called_on_the_training_thread(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    class Tracker:
        immediate = True
        threads: set[threading.Thread] = set()

        def log(self, metrics: dict[str, float], step: int) -> None:
            self.threads.add(threading.current_thread())

    tracker = Tracker()
    make_trainer(logger=tracker).train(loader, num_epochs=1)
    assert tracker.threads == {threading.main_thread()}
