"""Buttons and numbers of a live run. Handlers only queue commands; what they did is shown as soon as it is done."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from ipywidgets import HTML, Button, FloatText, HBox, Layout, VBox

from jepa.trainer import control, events
from jepa_widgets.inspector import Inspector

if TYPE_CHECKING:
    from jepa.trainer import JEPATrainer

COLOURS = {"running": "#009E73", "paused": "#E69F00", "stopping": "#E69F00", "failed": "#D55E00"}
LIVE = ("running", "paused", "stopping")


class ControlPanel(VBox):
    """Start, pause, resume, step, stop, checkpoint, inspect, and the learning rate.

    Args:
        trainer: Whose run this is.
    """

    def __init__(self, trainer: JEPATrainer) -> None:
        self._trainer = trainer
        self._said = "ready"
        self._trouble = ""
        self._inspection: control.Ticket | None = None
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
            "inspect": self._button("Inspect", "search", "Look at the last batch", self._inspect),
        }
        rate = trainer.status().learning_rate
        self._rate = FloatText(
            value=float(f"{rate:.3g}"),
            step=None,
            description="learning rate",
            tooltip="New learning rate; the rest of its schedule is rescaled",
            style={"description_width": "initial"},
            layout=Layout(width="190px"),
        )
        self._rate.add_class("jepa-learning-rate")
        self._apply = self._button("Apply", "check", "Use this learning rate from the next step on", self._set_rate)
        self.inspector = Inspector()
        row = HBox([*self._buttons.values(), self._rate, self._apply], layout=Layout(flex_flow="row wrap"))
        super().__init__([self._status, row, self._acknowledged, self._error, self.inspector])
        self.add_class("jepa-control-panel")
        self.flush()

    def _button(self, name: str, icon: str, tooltip: str, command: Any) -> Button:
        button = Button(description=name, icon=icon, tooltip=tooltip, layout=Layout(width="auto"))
        button.add_class(f"jepa-{name.lower()}")
        button.on_click(lambda _: self._submit(command))
        return button

    def _submit(self, command: Any) -> None:
        try:
            wish = command()
            if isinstance(wish, control.Command):
                self._trainer.submit(wish, source="panel")
        except Exception as error:  # shown where the user looks; a handler has nobody to raise to
            self._trouble = f"{type(error).__name__}: {error}"
            self.flush()

    def _start(self) -> None:
        self._trouble = ""
        self._trainer.restart()

    def _set_rate(self) -> control.Command:
        return control.Set("learning_rate", self._rate.value)

    def _inspect(self) -> None:
        self._inspection = self._trainer.submit(control.Inspect(), source="panel")

    def __call__(self, event: events.Event) -> None:
        """Take one event; `flush` shows it."""
        if isinstance(event, events.CommandApplied):
            self._said = _sentence(event)
        elif isinstance(event, events.CheckpointSaved):
            self._said = f"checkpoint of step {event.step}: {event.path.name}"
        elif isinstance(event, events.RunEnded):
            self._said = f"{event.state} at step {event.step}"
        elif isinstance(event, events.RunStarted):
            self._trouble = ""
        elif isinstance(event, events.RunFailed):
            self._trouble = event.traceback

    def flush(self) -> None:
        """Show the present state."""
        status = self._trainer.status()
        live = status.state in LIVE
        self._status.value = _status_line(status)
        self._acknowledged.value = f'<span class="jepa-acknowledged">{escape(self._said)}</span>'
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
        self._apply.disabled = not live
        if self._inspection is not None and self._inspection.done:
            self._show_inspection(self._inspection)

    def _show_inspection(self, ticket: control.Ticket) -> None:
        self._inspection = None
        try:
            ticket.result(0)
            self.inspector.show(ticket.value)
        except Exception as error:
            self._error.value = _trouble(f"{type(error).__name__}: {error}")


def _status_line(status: Any) -> str:
    left = "" if status.seconds_left is None else f" &nbsp; about {_duration(status.seconds_left)} left"
    speed = f" &nbsp; {status.steps_per_second:.3g} steps/s" if status.steps_per_second else ""
    colour = COLOURS.get(status.state, "inherit")
    return (
        f'<span class="jepa-state" style="color:{colour};font-weight:600">{status.state}</span> &nbsp; '
        f'step <b class="jepa-step-count">{status.step}</b> of {status.total_steps} &nbsp; epoch {status.epoch}'
        f"{speed}{left} &nbsp; learning rate {status.learning_rate:.3g}"
    )


def _sentence(event: events.CommandApplied) -> str:
    name = event.command["type"]
    if event.error is not None:
        return f"{name} refused at step {event.step}: {event.error}"
    if name == "Set":
        result = event.result
        return (
            f"{result['name']} {result['old']:.4g} to {result['new']:.4g} ({result['mode']}) from step {event.step + 1}"
        )
    if name == "SaveCheckpoint":
        return f"checkpoint of step {event.step} written: {event.result['path']}"
    return f"{name} took effect after step {event.step}"


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
