"""Callbacks: which methods are called, and early stopping."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jepa.data import MemoryLoader
from jepa.trainer import Callback, EarlyStopping, JEPATrainer, events
from jepa.trainer.callback import EVENT_METHODS

MakeTrainer = Callable[..., JEPATrainer]


def test_every_event_has_its_method() -> None:
    assert EVENT_METHODS["on_run_started"] is events.RunStarted
    assert EVENT_METHODS["on_metrics_logged"] is events.MetricsLogged
    kinds = {kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, events.Event)}
    assert set(EVENT_METHODS.values()) == kinds - {events.Event}
    assert all(name in (Callback.__doc__ or "") for name in EVENT_METHODS)


def test_a_method_that_no_event_calls_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"Typo.on_step_end would never be called; known: .*on_step_ended"):

        class Typo(Callback):
            def on_step_end(self, trainer: JEPATrainer, event: events.StepEnded) -> None: ...


def test_every_method_is_called_with_trainer_and_event(
    make_trainer: MakeTrainer, loader: MemoryLoader, make_gate: Callable[[int], Any]
) -> None:
    called: dict[str, Any] = {}

    def method(name: str) -> Any:
        return lambda self, trainer, event: called.setdefault(name, (trainer, event))

    everything = type("Everything", (Callback,), {name: method(name) for name in EVENT_METHODS})
    gate = make_gate(1)
    trainer = make_trainer(run="all", val_loader=loader, callbacks=[everything(), gate])
    run = trainer.start(loader, num_epochs=2, wait=False)
    assert gate.reached.wait(30)
    run.set("learning_rate", 0.1)
    gate.opened.set()
    run.wait(30)
    assert set(EVENT_METHODS) - set(called) == {"on_run_failed"}
    for name, (who, event) in called.items():
        assert who is trainer
        assert type(event) is EVENT_METHODS[name]


def test_callbacks_run_in_order_on_the_training_thread(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    order: list[str] = []

    class Named(Callback):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_epoch_ended(self, trainer: JEPATrainer, event: events.EpochEnded) -> None:
            order.append(self.name)

    make_trainer(callbacks=[Named("a"), Named("b")]).train(loader, num_epochs=2)
    assert order == ["a", "b", "a", "b"]


def test_the_state_of_callbacks_is_kept_in_checkpoints(
    make_trainer: MakeTrainer, make_model: Callable[..., Any], loader: MemoryLoader
) -> None:
    class Counter(Callback):
        count = 0

        def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
            self.count += 1

        def state_dict(self) -> dict[str, Any]:
            return {"count": self.count}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.count = state["count"]

    make_trainer(run="count", callbacks=[Counter()]).train(loader, num_epochs=1)
    counter = Counter()
    make_trainer(make_model(seed=1), run="count", callbacks=[counter]).train(loader, num_epochs=2)
    assert counter.count == 12


class Scripted(Callback):
    """Puts given numbers in the place of a metric."""

    def __init__(self, name: str, values: list[float]) -> None:
        self.name, self.values = name, values

    def on_epoch_ended(self, trainer: JEPATrainer, event: events.EpochEnded) -> None:
        """Replace the measured value."""
        if self.name in event.metrics:
            event.metrics[self.name] = self.values[event.epoch - 1]  # type: ignore[index]


CURVE = [0.9, 0.5, 0.6, 0.5, 0.4, 0.41, 0.42, 0.43, 0.1]


@pytest.mark.parametrize(("patience", "epoch"), [(1, 3), (2, 4), (3, 8)])
@pytest.mark.parametrize("metric", ["val_loss", "loss"])
def test_early_stopping_stops_at_the_right_epoch(
    patience: int, epoch: int, metric: str, make_trainer: MakeTrainer, loader: MemoryLoader
) -> None:
    options: dict[str, Any] = {"val_loader": loader} if metric == "val_loss" else {}
    trainer = make_trainer(callbacks=[Scripted(metric, CURVE)], early_stopping=patience, **options)
    trainer.train(loader, num_epochs=9)
    assert (trainer.epoch, trainer.step, trainer.state) == (epoch, 6 * epoch, "stopped")


def test_early_stopping_counts_on_after_a_resume(
    make_trainer: MakeTrainer, make_model: Callable[..., Any], loader: MemoryLoader
) -> None:
    options: dict[str, Any] = {"run": "early", "early_stopping": 3}
    first = make_trainer(callbacks=[Scripted("loss", CURVE)], **options)
    first.train(loader, num_epochs=6)
    assert (first.epoch, first.state) == (6, "finished")
    second = make_trainer(make_model(seed=1), callbacks=[Scripted("loss", CURVE)], **options)
    second.train(loader, num_epochs=9)
    assert (second.epoch, second.state) == (8, "stopped")


def test_a_run_that_was_stopped_early_stays_stopped(
    make_trainer: MakeTrainer, make_model: Any, loader: MemoryLoader
) -> None:
    curve = [0.1, *[0.2] * 9]
    trainer = make_trainer(run="a", callbacks=[Scripted("loss", curve)], early_stopping=2)
    trainer.train(loader, num_epochs=9)
    assert trainer.epoch == 3
    again = make_trainer(make_model(), run="a", early_stopping=2)
    again.train(loader, num_epochs=9)
    assert (again.epoch, again.step, again.state) == (3, trainer.step, "stopped")


def test_early_stopping_watches_validation_data_given_to_train(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    trainer = make_trainer(callbacks=[Scripted("val_loss", [0.1, *[0.2] * 8])], early_stopping=2)
    trainer.train(loader, num_epochs=9, val_loader=loader)
    assert (trainer.epoch, trainer.state) == (3, "stopped")


def test_epochs_without_an_evaluation_do_not_count(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    values = [9.9, 0.5, 9.9, 0.6, 9.9, 0.7, 9.9, 0.8, 9.9]
    trainer = make_trainer(callbacks=[Scripted("val_loss", values)], early_stopping=2, eval_every=2, val_loader=loader)
    trainer.train(loader, num_epochs=9)
    assert trainer.epoch == 6


def test_an_evaluation_asked_for_by_hand_does_not_count(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    class Curious(Callback):
        def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
            trainer.evaluate()

    trainer = make_trainer(
        callbacks=[Curious(), Scripted("val_loss", [0.5, 0.4, 0.3])], early_stopping=1, val_loader=loader
    )
    trainer.train(loader, num_epochs=3)
    assert trainer.state == "finished"


def test_early_stopping_starts_with_no_best_value() -> None:
    stopping = EarlyStopping(2)
    assert stopping.state_dict() == {"best": math.inf, "waited": 0}


def test_states_go_back_to_the_callbacks_they_came_from(
    make_trainer: MakeTrainer, make_model: Any, loader: MemoryLoader, tmp_path: Path
) -> None:
    class Count(Callback):
        def __init__(self) -> None:
            self.steps = 0

        def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
            self.steps += 1

        def state_dict(self) -> dict[str, Any]:
            return {"steps": self.steps}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.steps = state["steps"]

    class Other(Count):
        pass

    trainer = make_trainer(callbacks=[Count()])
    trainer.train(loader, num_epochs=1)
    trainer.save_checkpoint(tmp_path / "a.pt")
    other, count, second = Other(), Count(), Count()
    make_trainer(make_model(), callbacks=[other, count, second]).load_checkpoint(tmp_path / "a.pt")
    assert (other.steps, count.steps, second.steps) == (0, 6, 0)
