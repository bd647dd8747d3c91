"""One line an epoch, for terminals and log files."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TextIO

from jepa.loggers.base import Logger
from jepa.trainer import events


class ConsoleLogger(Logger):
    """Writes a readable line at the start, after each epoch and evaluation, at checkpoints asked for, and at the end.

    Args:
        stream: Where to; standard output by default.
    """

    immediate = True

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._total = 0

    def __call__(self, event: events.Event) -> None:
        """Take one event."""
        if isinstance(event, events.RunStarted):
            self._total = event.total_steps
            where = f", run folder {event.run}" if event.run else ""
            self._line(f"training from step {event.step} to {event.total_steps}{where}")
        elif isinstance(event, events.EpochEnded):
            self._line(f"{self._position(event)}  {_numbers(event.metrics)}")
        elif isinstance(event, events.CommandApplied):
            outcome = f"refused: {event.error}" if event.error else "applied"
            self._line(f"{self._position(event)}  {event.command['type']} {outcome}")
        elif isinstance(event, events.RunEnded):
            kept = f", checkpoint {event.checkpoint}" if event.checkpoint else ""
            self._line(f"{event.state} at step {event.step}{kept}")
        elif isinstance(event, events.RunFailed):
            self._line(f"failed at step {event.step}: {type(event.error).__name__}: {event.error}")

    def _position(self, event: events.Event) -> str:
        width = len(str(self._total))
        return f"epoch {event.epoch:>4}  step {event.step:>{width}}/{self._total}"

    def _line(self, text: str) -> None:
        print(text, file=self._stream or sys.stdout, flush=True)


def _numbers(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
