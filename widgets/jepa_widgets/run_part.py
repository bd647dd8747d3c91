"""What the parts of the control panel have in common: they ask a run for something, and show what went wrong.

While a cell awaits, kernels answer no widget state of a page with the "idle" that ipywidgets waits for before it sends
the next one, so the value of a field would arrive once and never again. These parts send messages instead.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
from traitlets import Unicode

from jepa.trainer.control import Command, Ticket

if TYPE_CHECKING:
    from jepa.trainer import JEPATrainer

FOLDER = Path(__file__).parent
SCRIPT = (FOLDER / "run_part.js").read_text(encoding="utf-8")


class RunPart(anywidget.AnyWidget):
    """Base of the parts. It does not keep the trainer alive.

    Args:
        trainer: Whose run it is.

    Attributes:
        on_change: Called when something was asked for; `flush` by default.
        on_answer: Called with each ticket that was answered.
    """

    _css = FOLDER / "widgets.css"
    error = Unicode(help="what went wrong with the last wish").tag(sync=True)

    def __init__(self, trainer: JEPATrainer) -> None:
        super().__init__()
        self._trainer = weakref.ref(trainer)
        self._retired = False
        self._asked: list[Ticket] = []
        self._taking = threading.Lock()
        self.on_change: Callable[[], None] = self.flush
        self.on_answer: Callable[[Ticket], None] = lambda ticket: None
        self.on_msg(lambda _, content, __: self._receive(content))
        self.flush()

    @property
    def waiting(self) -> bool:
        """Whether something was asked that has no answer yet."""
        return bool(self._asked)

    def wish(self, content: dict[str, Any], trainer: JEPATrainer) -> Command | None:
        """The command that a message of the page asks for, `None` where it is done at once."""
        raise NotImplementedError

    def refresh(self, trainer: JEPATrainer) -> None:
        """Show what the run is like now."""
        raise NotImplementedError

    def disable(self) -> None:
        """Take no more clicks."""
        raise NotImplementedError

    def _receive(self, content: Any) -> None:
        trainer = self._trainer()
        if self._retired or trainer is None or not isinstance(content, dict):
            return  # a click that was on its way
        self.error = ""
        try:
            command = self.wish(content, trainer)
            if command is not None:
                self._asked.append(trainer.submit(command, source="panel"))
        except Exception as error:  # shown where the user looks; a handler has nobody to raise to
            self.error = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        self.on_change()

    def flush(self) -> None:
        """Take the answers that came, and show what the run is like now."""
        trainer = self._trainer()
        if self._retired or trainer is None:
            return
        ended = trainer.ended.is_set()
        with self._taking:
            answered = [ticket for ticket in self._asked if ticket.done or ended]
            for ticket in answered:
                self._asked.remove(ticket)
        for ticket in answered:
            self._take_answer(ticket)
        self.refresh(trainer)

    def _take_answer(self, ticket: Ticket) -> None:
        try:
            ticket.result(0)
        except Exception as error:
            self.error = str(error)
        else:
            self.on_answer(ticket)

    def retire(self) -> None:
        """Show the last state for good, and take no more clicks."""
        self.flush()
        self._retired = True
        self._asked.clear()
        self.disable()
