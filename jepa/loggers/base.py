"""What a logger is: a sink of events with a `close`."""

from __future__ import annotations

from collections.abc import Mapping

from jepa.trainer import events


class Logger:
    """Base of loggers: events in, `log(metrics, step)` for those that carry metrics, `close` at the end of a run.

    A run can go on after its end, so `log` opens again what `close` has closed. Nothing is written before there is
    something to log: a trainer that is only built leaves no file.

    Attributes:
        immediate: Whether events come on the training thread, as they happen; otherwise on a thread of the logger's
            own, which may wait for a service without holding the training.
    """

    immediate = False

    def __call__(self, event: events.Event) -> None:
        """Take one event."""
        if isinstance(event, events.MetricsLogged | events.Evaluated):
            self.log(event.metrics, event.step)
        elif isinstance(event, events.RunEnded | events.RunFailed):
            self.close()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write `metrics`, taken after `step` updates."""
        raise NotImplementedError

    def close(self) -> None:
        """Write what is left and let go of files."""
