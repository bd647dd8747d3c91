"""Commands to a live run: plain data, queued from any thread, applied between steps on the training thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

INSPECTED_PARTS = ("samples", "model", "attention")

Mode = Literal["scale", "hold", "schedule"]


@dataclass(frozen=True, slots=True)
class Command:
    """Base of all commands."""

    def as_data(self) -> dict[str, Any]:
        """The command as a JSON-serializable mapping, as the journal keeps it."""
        fields = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}
        return {"type": type(self).__name__, **fields}


@dataclass(frozen=True, slots=True)
class Pause(Command):
    """Hold the run before its next step."""


@dataclass(frozen=True, slots=True)
class Resume(Command):
    """Go on after a pause."""


@dataclass(frozen=True, slots=True)
class Step(Command):
    """Do `n` steps and pause again."""

    n: int = 1

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n must be at least 1, got {self.n}")


@dataclass(frozen=True, slots=True)
class Stop(Command):
    """End the run before its next step, with a checkpoint; a later `train` or `start` goes on from there."""


@dataclass(frozen=True, slots=True)
class SaveCheckpoint(Command):
    """Write a checkpoint now: into the run folder, or to `path`."""

    path: Path | None = None


@dataclass(frozen=True, slots=True)
class Set(Command):
    """Change a hyper-parameter from the next step on.

    Args:
        name: One of `trainer.hyper_parameters()`.
        value: The new value, inside the range declared there.
        mode: For what is scheduled: `"scale"` keeps the shape of the rest of the schedule and rescales it so that
            it passes through `value` now; `"hold"` stays at `value` until the end; `"schedule"` lays a new schedule
            from the present value to `value` at the last step of the run (linear for the EMA momentum, a cosine for
            all else).
    """

    name: str
    value: float
    mode: Mode = "scale"


@dataclass(frozen=True, slots=True)
class Evaluate(Command):
    """Run the validation data through the model now."""


@dataclass(frozen=True, slots=True)
class Rewind(Command):
    """Go back to a checkpoint of this run and on from there; what was recorded after it stays in the files.

    Args:
        checkpoint: Its step, or its file name in the run's `checkpoints/`, such as `"initial.pt"`.
    """

    checkpoint: str | int


@dataclass(frozen=True, slots=True)
class Fork(Command):
    """Go on in a new run folder beside this one, which stays as it is.

    Args:
        name: Of the new run.
        checkpoint: Where it branches off, as in `Rewind`; here and now by default.
    """

    name: str
    checkpoint: str | int | None = None


@dataclass(frozen=True, slots=True)
class EditedByHand(Command):
    """Take the weights that a hand gave the model while the run was paused; only a journal asks for this.

    Args:
        checkpoint: The file that keeps them, in the run's `checkpoints/` unless it is a whole path.
    """

    checkpoint: str


@dataclass(frozen=True, slots=True)
class Settle(Command):
    """Say what became of a checkpoint that was written beside the training (the writer's own message).

    Args:
        number: Of the checkpoint, counted in this run.
    """

    number: int


@dataclass(frozen=True, slots=True)
class Inspect(Command):
    """Take a CPU copy of the last batch, its views and its embeddings (the ticket's `value`).

    Args:
        parts: What else to look at, of `INSPECTED_PARTS`; `()` takes one forward pass and nothing more.
    """

    parts: tuple[str, ...] = INSPECTED_PARTS

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in INSPECTED_PARTS]
        if unknown or isinstance(self.parts, str):
            raise ValueError(
                f"parts must be names of {', '.join(map(repr, INSPECTED_PARTS))}, such as ('samples',), "
                f"got {self.parts!r}"
            )


@dataclass(frozen=True, slots=True)
class Glance(Inspect):
    """An `Inspect` that a front end makes of its own accord: neither the journal nor any listener hears of it."""


class Ticket:
    """The promise that a submitted command will be answered; safe to wait on from any thread."""

    def __init__(self, command: Command, source: str) -> None:
        self.command = command
        self.source = source
        self.step: int | None = None
        self.value: Any = None
        self._result: Mapping[str, Any] = {}
        self._error: BaseException | None = None
        self._done = threading.Event()
        self._followers: list[Ticket] = []

    def __repr__(self) -> str:
        if not self.done:
            state = "asked for"
        else:
            state = f"took effect after step {self.step}" if self._error is None else f"refused: {self._error}"
        return f"<{self.command}: {state}>"

    @property
    def done(self) -> bool:
        """Whether the command was applied or refused."""
        return self._done.is_set()

    def complete(self, step: int, result: Mapping[str, Any] | None = None, value: Any = None) -> None:
        """Answer the command (training thread only). `value` stays in memory, `result` goes to the journal."""
        self.step, self._result, self.value = step, result or {}, value
        self._answer()

    def refuse(self, step: int | None, error: BaseException) -> None:
        """Answer the command with an error (training thread only)."""
        self.step, self._error = step, error
        self._answer()

    def answer_also(self, follower: Ticket) -> None:
        """Give `follower` the same answer, now or when there is one (training thread only)."""
        self._followers.append(follower)
        if self.done:
            self._answer()

    def _answer(self) -> None:
        self._done.set()
        for follower in self._followers:
            follower.step, follower.value = self.step, self.value
            follower._result, follower._error = self._result, self._error
            follower._answer()
        self._followers.clear()

    def result(self, timeout: float | None = None) -> Mapping[str, Any]:
        """Wait until the command took effect and return what it did.

        Args:
            timeout: Seconds to wait; `None` waits for ever.

        Raises:
            TimeoutError: The run did not reach its next step boundary in time.
            Exception: Whatever made the run refuse the command.
        """
        if not self._done.wait(timeout):
            raise TimeoutError(f"{self.command} was not applied within {timeout} s; the step in progress is longer")
        if self._error is not None:
            raise self._error
        return self._result


class Control:
    """The queue between those who ask and the training thread."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Ticket] = queue.SimpleQueue()

    def submit(self, command: Command, source: str = "handle") -> Ticket:
        """Queue `command` from any thread; it is applied before the next step."""
        ticket = Ticket(command, source)
        self._queue.put(ticket)
        return ticket

    @property
    def empty(self) -> bool:
        """Whether nothing waits; costs well under a microsecond, so the loop may ask at every step."""
        return self._queue.empty()

    def drain(self, timeout: float = 0.0) -> Iterator[Ticket]:
        """Yield what is queued, waiting up to `timeout` seconds for the first one (training thread only)."""
        try:
            yield self._queue.get(timeout=timeout) if timeout else self._queue.get_nowait()
            while True:
                yield self._queue.get_nowait()
        except queue.Empty:
            return
