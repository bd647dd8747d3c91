"""Buttons and numbers of a live run. Handlers only queue commands; what they did is shown as soon as it is done."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipywidgets import HTML, Button, HBox, Layout, VBox

from jepa.trainer import control, events
from jepa.trainer.status import LIVE
from jepa_widgets.inspector import Inspector
from jepa_widgets.rate_field import RateField

if TYPE_CHECKING:
    from jepa.trainer import JEPATrainer

COLOURS = {
    "running": "#009E73",
    "paused": "#E69F00",
    "stopping": "#E69F00",
    "finished": "#3B8FC7",
    "stopped": "#3B8FC7",
    "failed": "#D55E00",
}
MODES = {"scale": "the rest of its schedule rescaled", "hold": "held there"}


class ControlPanel(VBox):
    """Start, pause, resume, step, stop, checkpoint, inspect, and the learning rate. It does not keep the trainer alive.

    Args:
        trainer: Whose run this is.

    Attributes:
        on_change: Called when something was clicked that should be shown soon; `flush` by default.
        starting: Whether the Start button is at work.
    """

    def __init__(self, trainer: JEPATrainer) -> None:
        self._trainer = weakref.ref(trainer)
        self._retired = False
        self._said = "ready"
        self._kept = ""
        self._trouble = ""
        self._asked: list[control.Ticket] = []
        self.on_change: Callable[[], None] = self.flush
        self.starting = False
        self._status = HTML()
        self._acknowledged = HTML()
        self._error = HTML()
        self._buttons = {
            "start": self._button("Start", "play", "Start training, or go on after a stop", self._start),
            "pause": self._button("Pause", "pause", "Hold before the next step", lambda: control.Pause()),
            "resume": self._button("Resume", "forward", "Go on after a pause", lambda: control.Resume()),
            "step": self._button("Step", "step-forward", "Do one step and pause", lambda: control.Step(1)),
            "stop": self._button("Stop", "stop", "End with a checkpoint", lambda: control.Stop()),
            "checkpoint": self._button(
                "Checkpoint", "save", "Write a checkpoint now", lambda: control.SaveCheckpoint()
            ),
            "inspect": self._button("Inspect", "search", "Look at the last batch", lambda: control.Inspect()),
        }
        self._rate = RateField(lambda text: self._submit(lambda: _new_rate(text)))
        self.inspector = Inspector()
        row = HBox([*self._buttons.values(), self._rate], layout=Layout(flex_flow="row wrap"))
        super().__init__([self._status, row, self._acknowledged, self._error, self.inspector])
        self.add_class("jepa-control-panel")
        self.flush()

    def _button(self, name: str, icon: str, tooltip: str, command: Any) -> Button:
        button = Button(description=name, icon=icon, tooltip=tooltip, layout=Layout(width="auto"))
        button.add_class(f"jepa-{name.lower()}")
        button.on_click(lambda _: self._submit(command))
        return button

    def _submit(self, command: Callable[[], Any]) -> None:
        trainer = self._trainer()
        if self._retired or trainer is None:
            return  # a click that was on its way
        self._trouble = ""
        try:
            wish = command()
            if isinstance(wish, control.Command):
                self._asked.append(trainer.submit(wish, source="panel"))
        except Exception as error:  # shown where the user looks; a handler has nobody to raise to
            self._trouble = f"{type(error).__name__}: {error}"
        self.on_change()

    def _start(self) -> None:
        trainer = self._trainer()
        if trainer is None:
            return
        status = trainer.status()
        if 0 < status.total_steps <= status.step:
            raise ValueError(
                f"all {status.total_steps} steps are done; start(loader, num_epochs=...) with more goes on"
            )
        self.starting = True
        try:
            trainer.restart()
        finally:
            self.starting = False

    @property
    def waiting(self) -> bool:
        """Whether something was asked that has no answer yet."""
        return bool(self._asked)

    def __call__(self, event: events.Event) -> None:
        """Take one event; `flush` shows it."""
        if self._retired:
            return
        if isinstance(event, events.CommandApplied):
            self._said = _sentence(event)
        elif isinstance(event, events.CheckpointSaved):
            self._kept = f"last checkpoint: step {event.step}"
        elif isinstance(event, events.RunEnded):
            self._said = f"{event.state} at step {event.step}"
        elif isinstance(event, events.RunStarted):
            self._said = f"started at step {event.step}"
            self._trouble = ""
        elif isinstance(event, events.RunFailed):
            self._trouble = event.traceback

    def flush(self) -> None:
        """Show the present state."""
        trainer = self._trainer()
        if self._retired or trainer is None:
            return
        self._take_answers(trainer)
        status = trainer.status()
        live = status.state in LIVE
        self._status.value = _status_line(status)
        self._acknowledge()
        self._error.value = _trouble(self._trouble)
        enabled = {
            "start": not live,
            "pause": status.state == "running",
            "resume": status.state == "paused",
            "step": status.state == "paused",
            "stop": status.state in ("running", "paused"),
            "checkpoint": live,
            "inspect": live,
        }
        for name, button in self._buttons.items():
            button.disabled = not enabled[name]
        self._rate.enabled = live
        self._rate.rate = f"{status.learning_rate:.3g}"

    def retire(self, why: str) -> None:
        """Show the last state for good, say why in place of the last answer, and take no more clicks."""
        if self._retired:
            return
        self.flush()
        self._retired = True
        self._asked.clear()
        self._said = why
        self._acknowledge()
        for button in self._buttons.values():
            button.disabled = True
        self._rate.enabled = False

    def _acknowledge(self) -> None:
        self._acknowledged.value = (
            f'<div class="jepa-line"><span class="jepa-acknowledged">{escape(self._said)}</span>'
            f'<span class="jepa-last-checkpoint">{self._kept}</span></div>'
        )

    def _take_answers(self, trainer: JEPATrainer) -> None:
        ended = trainer.ended.is_set()
        for ticket in [ticket for ticket in self._asked if ticket.done or ended]:
            self._asked.remove(ticket)
            try:
                ticket.result(0)
            except RuntimeError as late:  # after the end of the run, of which no event tells
                self._said = str(late)
            except Exception:
                continue  # an event has told why
            else:
                if isinstance(ticket.command, control.Inspect):
                    self._show_inspection(ticket.value)

    def _show_inspection(self, inspection: Any) -> None:
        try:
            self.inspector.show(inspection)
        except Exception as error:
            self._trouble = f"the batch cannot be shown: {type(error).__name__}: {error}"


def _new_rate(text: str) -> control.Command:
    try:
        return control.Set("learning_rate", float(text))
    except ValueError:
        raise ValueError(f"the learning rate must be a number such as 3e-4, got {text!r}") from None


def _status_line(status: Any) -> str:
    items = [
        f'<b class="jepa-state" style="color:{COLOURS.get(status.state, "inherit")}">{status.state}</b>',
        f'step <b class="jepa-step-count">{status.step}</b> of {status.total_steps}',
        f"epoch {status.epoch}",
    ]
    if status.steps_per_second:
        items.append(f"{status.steps_per_second:.3g} steps/s")
    if status.seconds_left is not None:
        items.append(f"about {_duration(status.seconds_left)} left")
    items.append(f'learning rate <span class="jepa-rate">{status.learning_rate:.3g}</span>')
    return '<div class="jepa-line">' + "".join(f"<span>{item}</span>" for item in items) + "</div>"


def _sentence(event: events.CommandApplied) -> str:
    name = event.command["type"]
    if event.error is not None:
        return f"{name} refused at step {event.step}: {event.error}"
    if name == "Set":
        result = event.result
        what = str(result["name"]).replace("_", " ")
        return (
            f"{what} {result['old']:.4g} to {result['new']:.4g} from step {event.step + 1} on, {MODES[result['mode']]}"
        )
    if name == "SaveCheckpoint":
        return f"checkpoint of step {event.step} written: {_short(event.result['path'])}"
    return f"{name} took effect after step {event.step}"


def _short(path: str) -> str:
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path


def _trouble(text: str) -> str:
    if not text:
        return ""
    last = escape(text.strip().splitlines()[-1])
    body = f"<details><summary>{last}</summary><pre>{escape(text)}</pre></details>" if "\n" in text.strip() else last
    return f'<div class="jepa-error" role="alert" style="color:var(--jp-error-color1, #b00020)">{body}</div>'


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
