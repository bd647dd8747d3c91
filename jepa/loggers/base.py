"""What a logger is: a sink of events with a `close`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jepa.trainer import events


class Logger:
    """Base of loggers: events in, `log(metrics, step)` for those that carry metrics."""

    def __call__(self, event: events.Event) -> None:
        """Take one event."""
        if isinstance(event, events.MetricsLogged | events.Evaluated):
            self.log(event.metrics, event.step)
        elif isinstance(event, events.RunEnded | events.RunFailed):
            self.flush()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write `metrics`, taken after `step` updates."""
        raise NotImplementedError

    def flush(self) -> None:
        """Make sure that everything is written."""

    def close(self) -> None:
        """Write what is left and let go of files."""


class LogAdapter(Logger):
    """Gives an object with a method `log(metrics, step=...)`, such as a wandb run, the metrics of the events."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Pass them on."""
        self._target.log(dict(metrics), step=step)
