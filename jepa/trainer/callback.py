"""Callbacks act on a run from inside: methods named after events, called on the training thread between steps."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from jepa.trainer import events
from jepa.trainer.control import Stop

if TYPE_CHECKING:
    from jepa.trainer.trainer import JEPATrainer


def _method_name(event: type[events.Event]) -> str:
    return "on_" + re.sub(r"(?<!^)(?=[A-Z])", "_", event.__name__).lower()


EVENT_METHODS: dict[str, type[events.Event]] = {_method_name(event): event for event in events.Event.__subclasses__()}


class Callback:
    """Base of callbacks: define any of the `on_<event>(trainer, event)` methods.

    The methods are `on_run_started`, `on_epoch_started`, `on_step_ended`, `on_metrics_logged`, `on_evaluated`,
    `on_checkpoint_saved`, `on_command_applied`, `on_state_changed`, `on_epoch_ended`, `on_run_ended` and
    `on_run_failed`. They run on the training thread (on every rank), so they may read and change the model. What they
    raise ends the run with a checkpoint, unless the run was told `on_callback_error="continue"`: then it is a warning
    and a line of the journal, the first time that a method of a callback raises, and the run goes on (an interrupt and
    `SystemExit` always end it). To stop the run: `trainer.control.submit(Stop())`. What asks all ranks, such as
    `trainer.save_checkpoint` and `trainer.evaluate`, is called on every rank; only rank 0 writes.

    Raises:
        TypeError: When a subclass defines an `on_*` method that no event calls.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in vars(cls):
            if name.startswith("on_") and name not in EVENT_METHODS:
                raise TypeError(f"{cls.__name__}.{name} would never be called; known: {', '.join(EVENT_METHODS)}")

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint should keep of this callback."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""


class EarlyStopping(Callback):
    """Stop when a metric has not improved for a number of evaluations.

    Args:
        patience: Evaluations to wait for an improvement.
        monitor: Name of the metric, lower is better; the trainer's own by default.
    """

    def __init__(self, patience: int, monitor: str | None = None) -> None:
        self.patience = patience
        self.monitor = monitor
        self.best = math.inf
        self.waited = 0

    def on_run_started(self, trainer: JEPATrainer, event: events.RunStarted) -> None:
        """A run that was stopped early stays stopped when it is started again, unless there is more patience now."""
        if self.waited >= self.patience:
            trainer.control.submit(Stop(), source="callback")

    def _observe(self, trainer: JEPATrainer, value: float) -> None:
        improved = value < self.best
        self.best = min(value, self.best)
        self.waited = 0 if improved else self.waited + 1
        if self.waited >= self.patience:
            trainer.control.submit(Stop(), source="callback")

    def on_epoch_ended(self, trainer: JEPATrainer, event: events.EpochEnded) -> None:
        """Compare, if the epoch ended with an evaluation; one that was asked for in between does not count."""
        monitor = self.monitor or trainer.monitor
        if monitor in event.metrics:
            self._observe(trainer, event.metrics[monitor])

    def state_dict(self) -> dict[str, Any]:
        """Best value and how long ago it was."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting where the checkpoint was."""
        self.best, self.waited = state["best"], state["waited"]
