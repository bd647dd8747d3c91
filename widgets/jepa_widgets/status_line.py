"""Where a run is, in one line."""

from __future__ import annotations

from html import escape

from ipywidgets import HTML

from jepa.trainer.status import Status
from jepa.trainer.steering import Watched

COLOURS = {
    "running": "#009E73",
    "paused": "#E69F00",
    "stopping": "#E69F00",
    "finished": "#3B8FC7",
    "stopped": "#3B8FC7",
    "failed": "#D55E00",
    "interrupted": "#D55E00",
}


class StatusLine(HTML):
    """Name, state, step, epoch, speed and time left, and learning rate of a run. It does not keep a trainer alive.

    Args:
        run: A trainer, the handle of a run, or what `jepa.attach` gave for one that trains elsewhere.
    """

    def __init__(self, run: Watched) -> None:
        super().__init__()
        self._run = run.ref()
        self.flush()

    def flush(self, status: Status | None = None) -> None:
        """Show where the run is now, or this status."""
        if (run := self._run()) is not None:
            self.value = _status_line(status or run.status(), run.name)


def _status_line(status: Status, name: str) -> str:
    items = [
        f'<span class="jepa-run-name">{escape(name)}</span>',
        f'<b class="jepa-state" style="--jepa-state-colour:{COLOURS.get(status.state, "inherit")}">{status.state}</b>',
        f'step <b class="jepa-step-count">{status.step}</b> of {status.total_steps}',
        f"epoch {status.epoch}",
    ]
    if status.state == "running" and status.steps_per_second:
        items.append(f"{status.steps_per_second:.3g} steps/s")
    if status.state == "running" and status.seconds_left is not None:
        items.append(f"about {_duration(status.seconds_left)} left")
    items.append(f'learning rate <span class="jepa-rate">{status.learning_rate:.3g}</span>')
    if status.state == "interrupted":
        items.append("its process is gone; it can go on from its last checkpoint, see python -m jepa.cli runs")
    return '<div class="jepa-line">' + "".join(f"<span>{item}</span>" for item in items) + "</div>"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
