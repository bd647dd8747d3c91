"""What a run says about itself: frozen records, published on the training thread in the order they happen.

Two kinds of listener exist. A *callback* acts (it may stop the run or change the model) and runs on the training
thread. A *sink* observes: any callable that takes one event. Sinks must return quickly and never touch the model. Those
given as `logger=` are called on a thread of their own, in order, so that a service that hangs does not hold the
training; one with a true attribute `immediate` is called on the training thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events.

    Attributes:
        step: Optimizer updates completed when the event happened.
        epoch: Passes over the data completed when the event happened.
    """

    step: int
    epoch: int


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    """Training begins or continues. `total_steps` is the planned end, counted from step 0."""

    total_steps: int
    run: Path | None


@dataclass(frozen=True, slots=True)
class EpochStarted(Event):
    """A pass over the data begins (or goes on in its middle, after a resume)."""


@dataclass(frozen=True, slots=True)
class StepEnded(Event):
    """One optimizer update is done. The tensors are 0-d and on the device: reading them waits for the device."""

    loss: Tensor
    terms: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class MetricsLogged(Event):
    """Numbers at the logging interval.

    Attributes:
        metrics: Name to float: `loss` (mean since the last record), its terms, `learning_rate`, `ema_momentum`,
            `grad_norm`, `steps_per_second`, and, as often as their budget allows, `embedding_std` and
            `effective_rank`. A name may be absent from a record.
        time: Seconds since the Unix epoch.
        segment: Number of times the run had been started or resumed before; steps may repeat across segments.
    """

    metrics: Mapping[str, float]
    time: float
    segment: int


@dataclass(frozen=True, slots=True)
class Evaluated(Event):
    """A pass over the validation data is done; `metrics` holds `val_loss` and the like."""

    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class CheckpointSaved(Event):
    """A checkpoint is complete on disk."""

    path: Path
    seconds: float


@dataclass(frozen=True, slots=True)
class CommandApplied(Event):
    """A command took effect (or was refused, then `error` says why) before step `step + 1`.

    Attributes:
        command: The command as data, e.g. `{"type": "Set", "name": "learning_rate", "value": 0.001}`.
        source: Who asked: `"handle"`, `"panel"`, `"signal"`, `"callback"`, `"remote"` (another process).
        result: What it did, JSON-serializable for the journal, e.g. `{"old": 0.01, "new": 0.001}`.
        error: Why it was refused, or `None`.
    """

    command: Mapping[str, Any]
    source: str
    result: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class StateChanged(Event):
    """The run's state is now `state`: one of `running`, `paused`, `stopping`, or an end state."""

    state: str


@dataclass(frozen=True, slots=True)
class EpochEnded(Event):
    """A pass over the data is done."""

    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RunEnded(Event):
    """Training ended as planned (`state="finished"`) or on request (`state="stopped"`)."""

    state: str
    checkpoint: Path | None


@dataclass(frozen=True, slots=True)
class RunFailed(Event):
    """Training ended by an exception; `traceback` is its formatted text."""

    error: BaseException
    traceback: str


Sink = Callable[[Event], None]


def as_sinks(logger: Any) -> list[Sink]:
    """None, one logger or several, as a list of sinks.

    Args:
        logger: A callable that takes events, or an object with `log(metrics, step=...)`, such as a wandb run, which
            then gets the metrics; or a list of these.

    Raises:
        TypeError: One of them is neither.
    """
    if logger is None:
        return []
    return [_as_sink(one) for one in (logger if isinstance(logger, list | tuple) else [logger])]


def _as_sink(logger: Any) -> Sink:
    sink: Sink = logger
    if callable(sink):
        return sink
    if not callable(getattr(logger, "log", None)):
        raise TypeError(
            f"a logger takes events (is callable) or has log(metrics, step=...); got {type(logger).__name__}"
        )

    return _MetricsOnly(logger)


class _MetricsOnly:
    """Gives the metrics of events to an object with `log(metrics, step=...)`."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self.immediate = getattr(logger, "immediate", False)

    def __repr__(self) -> str:
        return repr(self._logger)

    def __call__(self, event: Event) -> None:
        if isinstance(event, MetricsLogged | Evaluated):
            self._logger.log(dict(event.metrics), step=event.step)
