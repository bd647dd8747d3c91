"""What the parts of the control panel have in common: they ask a run for something, and show what went wrong.

While a cell awaits, kernels answer no widget state of a page with the "idle" that ipywidgets waits for before it sends
the next one, so the value of a field would arrive once and never again. These parts send messages instead.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
from traitlets import Unicode

from jepa.trainer.control import Command, Glance, Ticket
from jepa.trainer.status import Status
from jepa.trainer.steering import SteeredRun, Watched

FOLDER = Path(__file__).parent
SCRIPT = (FOLDER / "run_part.js").read_text(encoding="utf-8")


class RunPart(anywidget.AnyWidget):
    """Base of the parts. It does not keep a trainer alive.

    Args:
        run: A trainer, the handle of a run, or what `jepa.attach` gave for one that trains elsewhere.

    Attributes:
        on_wish: Called when something is about to be asked for.
        on_change: Called when something was asked for; `flush` by default.
        on_answer: Called with each ticket that was answered.
    """

    _css = FOLDER / "widgets.css"
    error = Unicode(help="what went wrong with the last wish").tag(sync=True)

    def __init__(self, run: Watched) -> None:
        super().__init__()
        self._run = run.ref()
        self._retired = False
        self._asked: list[Ticket] = []
        self._taking = threading.Lock()
        self.on_wish: Callable[[], None] = lambda: None
        self.on_change: Callable[[], None] = self.flush
        self.on_answer: Callable[[Ticket], None] = lambda ticket: None
        self.on_msg(lambda _, content, __: self._receive(content))
        self.flush()

    @property
    def waiting(self) -> bool:
        """Whether something was asked that has no answer yet."""
        return bool(self._asked)

    def ask(self, command: Command) -> None:
        """Ask for something without a click; `on_answer` gets the ticket."""
        if not self._retired and (run := self._run()) is not None:
            self._asked.append(run.submit(command))

    def wish(self, content: dict[str, Any], run: SteeredRun) -> Command | None:
        """The command that a message of the page asks for, `None` where it is done at once."""
        raise NotImplementedError

    def refresh(self, run: SteeredRun, status: Status) -> None:
        """Show what the run is like now."""
        raise NotImplementedError

    def disable(self) -> None:
        """Take no more clicks."""
        raise NotImplementedError

    def _receive(self, content: Any) -> None:
        run = self._run()
        if self._retired or run is None or not isinstance(content, dict):
            return  # a click that was on its way
        self.error = ""
        self.on_wish()
        try:
            command = self.wish(content, run)
            if command is not None:
                self.ask(command)
        except Exception as error:  # shown where the user looks; a handler has nobody to raise to
            self.error = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        self.on_change()

    def flush(self, status: Status | None = None) -> None:
        """Take the answers that came, and show what the run is like now.

        Args:
            status: Of this moment, where it has been asked for already.
        """
        run = self._run()
        if self._retired or run is None:
            return
        with self._taking:
            answered = [ticket for ticket in self._asked if ticket.done]
            for ticket in answered:
                self._asked.remove(ticket)
        for ticket in answered:
            self._take_answer(ticket)
        self.refresh(run, status or run.status())

    def _take_answer(self, ticket: Ticket) -> None:
        try:
            ticket.result(0)
        except Exception as error:
            if not isinstance(ticket.command, Glance):  # which no user asked for
                self.error = str(error)
        else:
            self.on_answer(ticket)

    def retire(self) -> None:
        """Show the last state for good, and take no more clicks."""
        self.flush()
        self._retired = True
        self._asked.clear()
        self.disable()
