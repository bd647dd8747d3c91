"""A progress bar in the terminal."""

from __future__ import annotations

import sys

from jepa.trainer import events


class ProgressBar:
    """A tqdm bar over the steps of a run, renewed when metrics are logged."""

    immediate = True

    def __init__(self) -> None:
        self._bar = None

    def __call__(self, event: events.Event) -> None:
        """Take one event."""
        if isinstance(event, events.RunStarted):
            from tqdm import tqdm

            self._bar = tqdm(total=event.total_steps, initial=event.step, unit="step", file=sys.stderr)
        elif self._bar is None:
            return
        elif isinstance(event, events.MetricsLogged):
            self._bar.set_postfix_str(f"loss {event.metrics['loss']:.4g}", refresh=False)
            self._bar.update(event.step - self._bar.n)
        elif isinstance(event, events.RunEnded | events.RunFailed):
            self._bar.update(event.step - self._bar.n)
            self._bar.close()
            self._bar = None
