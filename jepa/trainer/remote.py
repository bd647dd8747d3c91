"""A run that trains in another process, steered and watched through its folder: files only, no server."""

from __future__ import annotations

import json
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

from jepa.files import is_plain_name, read_lines
from jepa.trainer.control import Command, SaveCheckpoint, Ticket
from jepa.trainer.events import Sink
from jepa.trainer.follower import Follower
from jepa.trainer.history import History
from jepa.trainer.journal import Journal
from jepa.trainer.listing import DAMAGE, RunSummary, find_run, read_run
from jepa.trainer.mailbox import Mailbox, read_small
from jepa.trainer.numbers import Number, parse_numbers
from jepa.trainer.run import metrics_of, moment_of
from jepa.trainer.status import Status
from jepa.trainer.steering import SteeredRun

if TYPE_CHECKING:
    from jepa.trainer.trainer import View

LOOK_SECONDS = 0.05  # for an answer
ALIVE_SECONDS = 0.5  # between two looks whether the run goes on
SILENT_SECONDS = 2.0  # that a run may seem to have ended while it ends, or moves into a fork
ELSEWHERE = {
    "start": "the process that trains starts a run: there, or by python -m jepa.cli resume for one of the command line",
    "inspect": "batch and model stay in the process that trains; its own notebook can look at them",
}
GENERATIONS = 20  # of forks of forks whose records are read
LISTEN_SECONDS = 5.0  # that a run which begins, or moves into a fork, may take to listen
SHOWN: weakref.WeakSet[RemoteRun] = weakref.WeakSet()  # the handles that have a view


def attach(run: str | os.PathLike[str], runs_dir: str | os.PathLike[str] = "runs") -> RemoteRun:
    """A handle to a run that trains in another process, on this machine or on one that shares its file system.

    Args:
        run: Its name in the folder of the runs, or the path of its folder.
        runs_dir: The folder of the runs.

    Returns:
        The handle; the run may also have ended.

    Raises:
        FileNotFoundError: There is no such run; the message names the nearest.

    Example:
        Of a batch that trains on another machine::

            run = jepa.attach("runs/digits")
            run.pause().result()
            run.set("learning_rate", 3e-4).result()
            run.resume()
    """
    return RemoteRun(find_run(run, runs_dir))


class RemoteRun(SteeredRun):
    """What `jepa.attach` returns: the verbs of `RunHandle` for a run that trains elsewhere.

    Everything is read from the run's folder and written into its `control/`. The step told is at most a second old,
    unless the run is paused. A run that goes on in a fork is followed there.

    Args:
        folder: The run folder.
    """

    is_remote = True
    _poll_seconds = 0.2

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._mailbox = Mailbox(Path(folder).absolute())
        listening = self._mailbox.session()
        # What has moved away by now is another run: this handle is to the one of this folder.
        self._session: str | None = None if listening.get("moved_to") else listening.get("id")
        self._moving = threading.Lock()
        self._followers: list[Follower] = []
        self._view: View | None = None

    @property
    def path(self) -> Path:
        """The run folder; another one after a fork."""
        self._follow()
        return self._mailbox.run

    @property
    def name(self) -> str:
        """The run folder's name."""
        return self.path.name

    @property
    def history(self) -> History:
        """What the run has recorded in its folder, without what was given up by going back."""
        return read_history(self.path)

    @property
    def ended(self) -> bool:
        """Whether nothing trains any more: the run has ended, or its process is gone."""
        deadline = time.monotonic() + SILENT_SECONDS
        while True:
            summary = self._summary()
            if summary.is_live:
                return False
            # One that still listens is about to end, or to go on in a fork.
            if summary.state == "interrupted" or not self._follow() or time.monotonic() > deadline:
                return True
            time.sleep(LOOK_SECONDS)

    def status(self) -> Status:
        """Where the run is; its state is `interrupted` if its process is gone and has not said so."""
        summary = self._summary()
        if summary.is_live:
            for follower in list(self._followers):
                follower.start()
        told = _told(summary.path)
        numbers = {key: value for key, value in told.items() if isinstance(value, int | float) and abs(value) < 1e18}
        return Status(
            summary.state,
            summary.step,
            summary.total_steps,
            epoch=int(numbers.get("epoch", 0)),
            steps_per_second=float(numbers.get("steps_per_second", 0.0)),
            seconds_left=numbers.get("seconds_left") if summary.is_live else None,
            learning_rate=float(numbers.get("learning_rate", 0.0)),
            error=summary.error,
        )

    def numbers(self) -> dict[str, Number]:
        """What may be changed, as the run told last; nothing if that is not to be understood."""
        with suppress(ValueError):
            return parse_numbers(_told(self.path).get("hyper_parameters"))
        return {}

    def unavailable(self) -> dict[str, str]:
        """Verbs that mean nothing for this run, and why."""
        evaluates = _told(self.path).get("evaluates") is not False
        return ELSEWHERE if evaluates else {**ELSEWHERE, "evaluate": "the run has no validation data"}

    def restart(self) -> Never:
        """Raise a RuntimeError: this process has neither model nor data."""
        raise RuntimeError(f"run {self.name!r} cannot be started from here: {ELSEWHERE['start']}")

    def ref(self) -> Callable[[], RemoteRun]:
        """What gives this handle; it holds no model, so that whatever shows it may keep it."""
        return lambda: self

    def show(self) -> None:
        """Show panel and chart of this run in the present cell, as in its own notebook.

        A view of the same run that another handle of this process shows is closed: a cell may be run again.

        Raises:
            RuntimeError: This process is no notebook.
            ImportError: The widgets are not installed.
        """
        from jepa.trainer.create import view_of  # which knows widgets

        if self._view is None:
            self._view = view_of(self)
            for other in [one for one in SHOWN if one is not self and one.path == self.path]:
                other._close_view()
            SHOWN.add(self)
        self._view.show()

    def _close_view(self) -> None:
        SHOWN.discard(self)
        if self._view is not None:
            self._view.close()
            self._view = None

    def raise_failure(self) -> None:
        """Raise what ended the run, as a RuntimeError, if it failed."""
        summary = self._summary()
        if summary.state == "failed":
            raise RuntimeError(f"run {summary.name!r} failed at step {summary.step}: {summary.error}")

    def submit(self, command: Command) -> Ticket:
        """Write a command for the run; one that has ended refuses it at once.

        Raises:
            OSError: The run's folder cannot be written to.
            RuntimeError: The run trains, but does not listen.
        """
        deadline = time.monotonic() + LISTEN_SECONDS
        while True:
            session = self._follow()
            if session and self._summary().is_live:
                return RemoteTicket(command, self._mailbox, session)
            if self.ended:
                return RemoteTicket(command, self._mailbox)
            if time.monotonic() > deadline:
                raise RuntimeError(f"run {self.name!r} is {self.state}, but takes no commands from other processes")
            time.sleep(LOOK_SECONDS)

    def checkpoint(self, path: str | os.PathLike[str] | None = None) -> Ticket:
        """Write a checkpoint now: into the run's `checkpoints/`, or to `path`, a new file inside of the run's folder.

        Args:
            path: Seen from the run's folder.
        """
        return self._ask(SaveCheckpoint(None if path is None else Path(path)))

    def subscribe(self, sink: Sink) -> None:
        """Send what the run records from now on to `sink`, as events, from a thread of this process.

        There are `RunStarted`, `MetricsLogged`, `Evaluated`, `EpochEnded`, `CheckpointSaved`, `CommandApplied`,
        `StateChanged`, `RunEnded` and `RunFailed`; a second or so after they happened. The thread ends with the run;
        should that go on in the same folder, so does the thread, when the handle is next asked for the run's status.
        """
        self._followers.append(Follower(self, sink))

    def unsubscribe(self, sink: Sink) -> None:
        """Send no more events to `sink`."""
        for follower in [follower for follower in self._followers if follower.sink == sink]:
            self._followers.remove(follower)
            follower.close()

    def _summary(self) -> RunSummary:
        return read_run(self.path)

    def _follow(self) -> str | None:
        """Go where the run went on by a fork; returns the session that listens there."""
        with self._moving:  # folder and session change together, for the threads of cells, views and followers
            session = self._mailbox.session()
            moved_to = session.get("moved_to")
            if moved_to and session["id"] == self._session:
                found = moved(self._mailbox, moved_to)
                if found is not None:
                    self._mailbox = found
                    session = found.session()
            elif moved_to:
                return None  # it went on elsewhere before this handle knew it
            self._session = session.get("id") or self._session
            return session.get("id")


class RemoteTicket(Ticket):
    """A command that lies in a run's folder, or that came too late.

    Args:
        command: What is asked for.
        mailbox: Of the run.
        session: That listens; `None` for a run that has ended.

    Raises:
        OSError: The run's folder cannot be written to.
    """

    def __init__(self, command: Command, mailbox: Mailbox, session: str | None = None) -> None:
        super().__init__(command, "remote")
        self._mailbox, self._session = mailbox, session
        self._name = mailbox.post(command, session) if session else ""
        self._looked = self._heard = time.monotonic()
        if session is None:
            self._come_too_late()

    @property
    def done(self) -> bool:
        """Whether the command was applied or refused, or never will be, since nothing trains any more."""
        if not self._done.is_set() and not self._fetch() and self._is_in_vain() and not self._fetch():
            self._mailbox.withdraw(self._name)
            self._come_too_late()
        return self._done.is_set()

    def result(self, timeout: float | None = None) -> Mapping[str, Any]:
        """Wait until the command took effect and return what it did.

        Args:
            timeout: Seconds to wait; `None` waits until there is an answer, or the run has ended.

        Raises:
            TimeoutError: The run did not answer in time; it may still do what was asked for.
            ValueError: The run refused the command.
            RuntimeError: So it did, or it has ended, or its process is gone.
        """
        deadline = inf if timeout is None else time.monotonic() + timeout
        while not self.done and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        if not self.done:
            raise TimeoutError(f"{self.command} was not answered within {timeout} s; the run may still apply it")
        return super().result(0)

    def _fetch(self) -> bool:
        answer = self._mailbox.read_answer(self._name)
        if answer is None:
            return False
        step = answer["step"] if isinstance(answer.get("step"), int) else None
        if "error" in answer:
            kind = ValueError if answer["error"] == "ValueError" else RuntimeError
            self.refuse(step, kind(str(answer.get("text"))))
        else:
            result = answer.get("result")
            self.complete(step or 0, result if isinstance(result, dict) else {}, answer.get("value"))
        self._mailbox.discard_answer(self._name)
        return True

    def _is_in_vain(self) -> bool:
        """Whether nobody has been there to answer for a while."""
        now = time.monotonic()
        if now - self._looked > ALIVE_SECONDS:
            self._looked = now
            self._heard = now if self._is_heard() else self._heard
        return now - self._heard > SILENT_SECONDS

    def _is_heard(self) -> bool:
        listening = self._mailbox.session()
        same = listening.get("id") == self._session and not listening.get("moved_to")
        return same and read_run(self._mailbox.run).is_live

    def _come_too_late(self) -> None:
        run = read_run(self._mailbox.run)
        self.refuse(run.step, RuntimeError(f"{self.command} came too late: {self._fate(run)}"))

    def _fate(self, run: RunSummary) -> str:
        listening = self._mailbox.session()
        if listening.get("moved_to"):
            return f"the run went on in {listening['moved_to']!r}; ask it there"
        if run.state == "interrupted":
            who = f"process {run.pid} on {run.host}" if run.pid else "its process"
            return f"{who} is gone, and had not answered; the run's journal tells what it still did"
        if run.is_live:
            return f"the part of the run that it was meant for has ended; the run is {run.state} now"
        return f"the run is {run.state}"


def moved(mailbox: Mailbox, name: str) -> Mailbox | None:
    """The mailbox of the folder beside this one, `None` if there is none of that name."""
    folder = mailbox.run.parent / name
    return Mailbox(folder) if is_plain_name(name) and folder.is_dir() and not folder.is_symlink() else None


def read_history(folder: Path) -> History:
    """What a run recorded, and before it branched off its parent; without what was given up or lost in a crash."""
    history = History()
    _read_way(history, folder, Journal.read(folder / "journal.jsonl"), None, inf)
    return history


def _read_way(
    history: History, folder: Path, journal: Journal, tick: int | None, end: float, generations: int = GENERATIONS
) -> None:
    """Add what was recorded up to step `end` on the way to the state before line `tick`."""
    starts = {line["tick"]: line for line in journal.lines if "continues" in line and _is_placed(line)}
    counting = [starts[first] for first, _ in journal.spans(tick) if first in starts]
    if counting and generations:
        _read_parent(history, folder, counting[0], end, generations - 1)
    ends = [line["step"] for line in counting[1:]] + [end]
    last = {line["segment"]: until for line, until in zip(counting, ends, strict=True)}
    for record in read_lines(folder / "metrics" / "train.jsonl"):
        if _is_placed(record) and record["step"] <= last.get(record["segment"], -1):
            history.append(record["step"], metrics_of(record), moment_of(record))


def _read_parent(history: History, folder: Path, start: Mapping[str, Any], end: float, generations: int) -> None:
    """Where a run begins as a fork: add what its parent, in the folder beside it, recorded until then."""
    origin = start.get("origin")
    parent = moved(Mailbox(folder), start["parent"]) if isinstance(start.get("parent"), str) else None
    if parent is None or not isinstance(origin, dict) or not isinstance(origin.get("tick"), int):
        return
    journal = Journal.read(parent.run / "journal.jsonl")
    if journal.identity == origin.get("run"):  # else another run has taken its name
        _read_way(history, parent.run, journal, origin["tick"], min(end, start["step"]), generations)


def _told(folder: Path) -> dict[str, Any]:
    """What a run's status file holds; empty if there is none that can be read."""
    with suppress(*DAMAGE):
        return dict(json.loads(read_small(folder / "status.json")))
    return {}


def _is_placed(line: Mapping[str, Any]) -> bool:
    return isinstance(line.get("step"), int) and isinstance(line.get("segment"), int)
