"""All that can be asked of a live run, in one panel made of small widgets that can be used alone, too."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ipywidgets import VBox

from jepa.trainer import control, events
from jepa.trainer.steering import SteeredRun, Watched
from jepa_widgets.answers import Answers
from jepa_widgets.checkpoint_list import CheckpointList
from jepa_widgets.hyper_parameters import HyperParameters
from jepa_widgets.inspector import Inspector
from jepa_widgets.renewal import Renewal, What
from jepa_widgets.run_buttons import RunButtons
from jepa_widgets.status_line import StatusLine


class ControlPanel(VBox):
    """Status, buttons, answers, hyper-parameters, checkpoints and the inspector. It does not keep a trainer alive.

    Args:
        run: A trainer, the handle of a run, or what `jepa.attach` gave for one that trains elsewhere.
    """

    def __init__(self, run: Watched) -> None:
        self._run = run.ref()
        self._retired = False
        self._inspection: Any = None  # that has not been shown yet
        self._has_drawn = False
        self.status = StatusLine(run)
        self.buttons = RunButtons(run)
        self.answers = Answers()
        self.hyper_parameters = HyperParameters(run)
        self.checkpoints = CheckpointList(run)
        self.parts = (self.buttons, self.hyper_parameters, self.checkpoints)
        self.on_change = self.flush
        for part in self.parts:
            part.on_wish = self._forget_errors
        self.renewal = Renewal()
        self.inspector = Inspector(self.renewal.choice)
        self.inspector.on_turn = lambda: self.on_change()
        self.buttons.on_answer = self._take_answer
        self.buttons.on_history = self._show_history
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
        run = self._run()
        if self._retired or run is None:
            return
        status = run.status()
        self.answers.flush()  # first: who sees a new state can read why
        self.status.flush(status)
        for part in self.parts:
            part.flush(status)
        self.renewal.note(status.state)
        self._show_inspection()  # last: to draw it takes longer than all else
        wanted = self._wanted
        if wanted is not None and not self.buttons.waiting and self.renewal.is_due(status, wanted):
            self._look_again(run, status.step, wanted)

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

    def _forget_errors(self) -> None:
        """What went wrong with an earlier wish is of no interest with the next one, whichever part is asked for it."""
        for part in self.parts:
            part.error = ""

    def _take_answer(self, ticket: control.Ticket) -> None:
        if isinstance(ticket.command, control.Inspect):
            self._inspection = ticket.value

    def _show_inspection(self) -> None:
        if self._inspection is None:
            return
        inspection, self._inspection = self._inspection, None
        begin = time.thread_time()  # of the interpreter, which the training needs as well
        try:
            self.inspector.show(inspection)
        except Exception as error:
            self.buttons.error = f"the batch cannot be shown: {type(error).__name__}: {error}"
        drawing = time.thread_time() - begin if self._has_drawn else 0.0  # the first one loads a library, once
        self._has_drawn = True
        self.renewal.took(inspection.step, inspection.seconds + drawing)

    @property
    def _wanted(self) -> What | None:
        """What the user looks at, if anything."""
        if not self.inspector.is_open:
            return None
        return "journal" if self.inspector.inspection is None or self.inspector.opened == "History" else "batch"

    def _look_again(self, run: SteeredRun, step: int, what: What) -> None:
        if what == "batch":
            self.buttons.ask(control.Glance())
            return
        begin = time.thread_time()
        self.inspector.history.show_folder(run.path)
        self.renewal.took(step, time.thread_time() - begin, what)

    def _show_history(self) -> None:
        if (run := self._run()) is not None:
            self.inspector.show_history(run.path)
