"""All that can be asked of a live run, in one panel made of small widgets that can be used alone, too."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ipywidgets import VBox

from jepa.trainer import control, events
from jepa_widgets.answers import Answers
from jepa_widgets.checkpoint_list import CheckpointList
from jepa_widgets.hyper_parameters import HyperParameters
from jepa_widgets.inspector import Inspector
from jepa_widgets.run_buttons import RunButtons
from jepa_widgets.status_line import StatusLine

if TYPE_CHECKING:
    from jepa.trainer import JEPATrainer


class ControlPanel(VBox):
    """Status, buttons, answers, hyper-parameters, checkpoints and the inspector. It does not keep the trainer alive.

    Args:
        trainer: Whose run this is.
    """

    def __init__(self, trainer: JEPATrainer) -> None:
        self._trainer = weakref.ref(trainer)
        self._retired = False
        self._inspection: Any = None  # that has not been shown yet
        self.status = StatusLine(trainer)
        self.buttons = RunButtons(trainer)
        self.answers = Answers()
        self.hyper_parameters = HyperParameters(trainer)
        self.checkpoints = CheckpointList(trainer)
        self.inspector = Inspector()
        self.parts = (self.buttons, self.hyper_parameters, self.checkpoints)
        self.on_change = self.flush
        self.buttons.on_answer = self._take_answer
        numbers = VBox([self.hyper_parameters, self.checkpoints])
        numbers.add_class("jepa-numbers")
        super().__init__([self.status, self.buttons, self.answers, numbers, self.inspector])
        self.add_class("jepa-control-panel")

    @property
    def on_change(self) -> Callable[[], None]:
        """Called when something was clicked that should be shown soon; `flush` by default."""
        return self.buttons.on_change

    @on_change.setter
    def on_change(self, function: Callable[[], None]) -> None:
        for part in self.parts:
            part.on_change = function

    @property
    def starting(self) -> bool:
        """Whether the Start button is at work."""
        return self.buttons.starting

    @property
    def waiting(self) -> bool:
        """Whether something was asked that has no answer yet."""
        return any(part.waiting for part in self.parts)

    def __call__(self, event: events.Event) -> None:
        """Take one event; `flush` shows it."""
        if not self._retired:
            self.answers(event)

    def flush(self) -> None:
        """Show the present state."""
        if self._retired or self._trainer() is None:
            return
        self.answers.flush()  # first: who sees a new state can read why
        self.status.flush()
        for part in self.parts:
            part.flush()
        self._show_inspection()  # last: to draw it takes longer than all else

    def retire(self, why: str) -> None:
        """Show the last state for good, say why in place of the last answer, and take no more clicks."""
        if self._retired:
            return
        self.flush()
        self._retired = True
        for part in self.parts:
            part.retire()
        self.answers.said = why
        self.answers.flush()

    def _take_answer(self, ticket: control.Ticket) -> None:
        if isinstance(ticket.command, control.Inspect):
            self._inspection = ticket.value

    def _show_inspection(self) -> None:
        if self._inspection is None:
            return
        inspection, self._inspection = self._inspection, None
        try:
            self.inspector.show(inspection)
        except Exception as error:
            self.buttons.error = f"the batch cannot be shown: {type(error).__name__}: {error}"
