"""Between two steps: commands are taken and applied here, and a paused run waits here."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jepa.trainer.by_hand import HandEdits
from jepa.trainer.commands import CommandTable
from jepa.trainer.control import EditedByHand, Ticket
from jepa.trainer.journal import Edit
from jepa.trainer.ranks import CommandExchange, command_exchange

if TYPE_CHECKING:
    from jepa.trainer.trainer import JEPATrainer

POLL_SECONDS = 0.25


class Gate:
    """Decides whether the loop may take its next step (training thread only).

    Attributes:
        stopping: Whether the run has been asked to end.
        until: Step before which a replay holds on; `None` outside of replays. In one, the journal alone decides what
            changes the training.
        by_hand: What is changed in the model by a hand while the run is paused.
    """

    def __init__(self, trainer: JEPATrainer) -> None:
        self._trainer = trainer
        self._commands = CommandTable(trainer, self)
        self._exchange: CommandExchange | None = None
        self._paused = False
        self._allowed: int | None = None
        self._edits: deque[Edit] = deque()
        self.stopping = False
        self.until: int | None = None
        self.by_hand = HandEdits(trainer)

    def open(self) -> None:
        """A run begins or goes on: nothing is asked of it yet."""
        self._exchange = self._exchange or command_exchange(self._trainer.control)
        self.by_hand.forget()
        self._paused = self.stopping = False
        self._allowed = None

    @property
    def edits(self) -> list[Edit]:
        """Edits that are still to be made again."""
        return list(self._edits)

    def repeat(self, edits: Sequence[Edit]) -> None:
        """Make edits again when their steps come: those made after the checkpoint that a run goes on from."""
        self._edits = deque(sorted(edits, key=lambda edit: edit.step))

    def wait(self) -> bool:
        """Apply what was asked for, and hold while the run is paused; whether there is a next step."""
        assert self._exchange is not None
        while self._edits and self._edits[0].step <= self._trainer.step:
            self._make_again(self._edits[0])
            self._edits.popleft()
        if self.until is not None and self._trainer.step >= self.until:
            self.stop()
        if self._allowed == 0:
            self.pause()
        if self._exchange.pending():
            self._commands.apply(self._exchange.take())
        while self._paused and not self.stopping:
            self._commands.apply(self._exchange.wait(POLL_SECONDS))
        return not self.stopping

    def _make_again(self, edit: Edit) -> None:
        ticket = Ticket(edit.command, "journal")
        self._commands.apply([ticket])
        if isinstance(edit.command, EditedByHand):
            ticket.result(0)  # without these weights it would be another run

    def step_taken(self) -> None:
        """One step is done."""
        if self._allowed is not None:
            self._allowed -= 1

    def pause(self) -> None:
        """Hold before the next step."""
        if not self._paused:
            self.by_hand.watch()
        self._trainer.recorder.pause()
        self._paused, self._allowed = True, None
        self._trainer.turns.pause()
        self._trainer.set_state("paused")

    def watch_again(self) -> None:
        """The run itself has changed its weights; nothing, unless it is paused."""
        if self._paused:
            self.by_hand.watch()

    def resume(self, steps: int | None = None) -> None:
        """Go on, for `steps` updates or until the end."""
        self._trainer.recorder.resume()
        self.by_hand.forget()
        self._paused, self._allowed = False, steps
        self._trainer.turns.resume()
        self._trainer.set_state("running")

    def stop(self) -> None:
        """End before the next step."""
        self._trainer.recorder.resume()
        self.stopping = True
        self._trainer.set_state("stopping")

    def close(self, *, others_are_here: bool) -> None:
        """The run has ended. Where the other ranks have come here too, complete what was begun with them."""
        if self._exchange is not None:
            self._exchange.close(finish=others_are_here)
