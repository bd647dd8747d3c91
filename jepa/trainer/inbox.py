"""The ear of a run: what other processes ask for through its folder is given to it, and answered there."""

from __future__ import annotations

import logging
import secrets
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jepa.trainer.control import Command, Evaluate, SaveCheckpoint, Ticket
from jepa.trainer.mailbox import DAMAGE, NAME, Mailbox

if TYPE_CHECKING:
    from jepa.trainer.trainer import JEPATrainer

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.2
ANSWER_SECONDS = 0.02  # while somebody waits


class Pending(NamedTuple):
    """A command that was given to the run, and where it is to be answered."""

    mailbox: Mailbox
    ticket: Ticket


class Inbox:
    """Looks for commands in the run's folder, from a thread of its own, while the run is live (rank 0).

    A thread, and not the training loop, since a file system over a network may let one wait.

    Args:
        trainer: Commands go to its `submit`, with the source `"remote"`.
    """

    def __init__(self, trainer: JEPATrainer) -> None:
        self._trainer = trainer
        self._mailbox: Mailbox | None = None
        self._session = ""
        self._pending: dict[str, Pending] = {}
        self._passed_over: set[str] = set()
        self._hindered = False
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Begin to listen. A folder that refuses is no reason not to train: that is said, and nobody is heard."""
        if self._trainer.run is None or self._trainer.rank > 0:
            return
        self._session = secrets.token_hex(8)
        self._mailbox, self._pending, self._passed_over = None, {}, set()
        try:
            self._move_to(self._trainer.run.path)
        except OSError as error:
            logger.warning("run %s cannot be steered from another process: %s", self._trainer.run.name, error)
            return
        self._closing.clear()
        self._thread = threading.Thread(target=self._listen, name="jepa-inbox", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """The run has ended: answer everything, and listen no more."""
        if self._thread is None:
            return
        self._closing.set()
        self._thread.join()
        self._thread = None
        self._look()
        if self._mailbox is not None:
            with suppress(OSError):
                self._mailbox.close(self._session)

    def _listen(self) -> None:
        while not self._closing.wait(ANSWER_SECONDS if self._pending and not self._hindered else LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        """What cannot be read or written now is tried again the next time."""
        try:
            run = self._trainer.run
            if run is not None and self._mailbox is not None and run.path != self._mailbox.run:
                self._move_to(run.path)
            self._take()
            self._answer()
            self._hindered = False
        except OSError as error:
            self._hindered = True
            logger.debug("commands from other processes cannot be read or answered now: %s", error)

    def _move_to(self, run: Path) -> None:
        """Listen in this run folder, and say in the one before that a fork went on here."""
        before, mailbox = self._mailbox, Mailbox(run)
        mailbox.open(self._session)
        self._mailbox = mailbox
        if before is not None:
            before.leave(self._session, run.name)

    def _take(self) -> None:
        assert self._mailbox is not None
        for name in self._mailbox.waiting():
            if name in self._pending or name in self._passed_over:
                continue
            if NAME.fullmatch(name) is None:
                self._pass_over(name, "its name is not that of a command")
                continue
            self._take_one(self._mailbox, name)

    def _take_one(self, mailbox: Mailbox, name: str) -> None:
        """Give a command to the run; what is none, or comes too late, is refused."""
        try:
            command, session = mailbox.read_command(name)
            if session != self._session:
                raise RuntimeError(
                    f"{command} came too late: the part of the run that it was meant for has ended; "
                    f"the run is {self._trainer.state} now"
                )
            ticket = self._trainer.submit(self._confined(command), "remote")
        except FileNotFoundError:
            return  # withdrawn
        except (*DAMAGE, RuntimeError) as error:
            try:
                mailbox.answer(name, _refusal(self._trainer.step, error))
            except (IsADirectoryError, PermissionError):
                self._pass_over(name, str(error))
            return
        self._pending[name] = Pending(mailbox, ticket)

    def _confined(self, command: Command) -> Command:
        """Another process may have a checkpoint written inside of the run's folder only, and over nothing."""
        if not isinstance(command, SaveCheckpoint) or command.path is None:
            return command
        trainer, folder = self._trainer, self._trainer.folder_for("write into").path.resolve()
        path, suffix = (folder / command.path).resolve(), trainer.checkpoint_suffix
        own = folder / "checkpoints"
        if not path.is_relative_to(folder) or path.is_relative_to(own) or path.suffix != suffix or path.exists():
            raise ValueError(
                f"from another process, a checkpoint is written to a new file *{suffix} inside of the run's folder, "
                f"but not into checkpoints/; got {str(command.path)!r}"
            )
        return replace(command, path=path)

    def _pass_over(self, name: str, why: str) -> None:
        self._passed_over.add(name)
        logger.warning(
            "%r among the commands to run %s is passed over: %s", name[:80], self._trainer.folder_for("steer").name, why
        )

    def _answer(self) -> None:
        for name, (mailbox, ticket) in list(self._pending.items()):
            if ticket.done:
                mailbox.answer(name, _answer_of(ticket))
                del self._pending[name]


def _answer_of(ticket: Ticket) -> dict[str, Any]:
    try:
        result = ticket.result(0)
    except Exception as error:
        return _refusal(ticket.step, error)
    measured = ticket.value if isinstance(ticket.command, Evaluate) else None
    return {"step": ticket.step, "result": dict(result), "value": measured}


def _refusal(step: int | None, error: BaseException) -> dict[str, Any]:
    return {"step": step, "error": type(error).__name__, "text": str(error)}
