"""What can be asked of a run that goes on, wherever it trains."""

from __future__ import annotations

import asyncio
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Protocol

from jepa.objectives.base import HyperParameter
from jepa.trainer.checkpoint.folder import CheckpointFolder
from jepa.trainer.control import (
    Command,
    Evaluate,
    Fork,
    Mode,
    Pause,
    Resume,
    Rewind,
    SaveCheckpoint,
    Set,
    Step,
    Stop,
    Ticket,
)
from jepa.trainer.events import Sink
from jepa.trainer.history import History
from jepa.trainer.numbers import Number
from jepa.trainer.status import Status

POLL_SECONDS = 0.02


class Watched(Protocol):
    """What widgets are made for: a trainer, the handle of its run, or that of a run which trains elsewhere."""

    def ref(self) -> Callable[[], SteeredRun | None]:
        """What gives the run for as long as there is one; it keeps no model alive."""
        ...


class SteeredRun(ABC):
    """Commands to a run, its state, and ways to wait for it.

    Every command returns a `Ticket` at once; `ticket.result()` waits until the command took effect. `await run`
    (in a notebook cell) or `run.wait()` (anywhere) waits for the end; interrupting the wait leaves the training alone.
    """

    is_remote = False  # whether it trains in another process, and only files tell of it
    _poll_seconds = POLL_SECONDS
    _last: Ticket | None = None

    @property
    @abstractmethod
    def name(self) -> str:
        """What the run is called."""

    @property
    @abstractmethod
    def path(self) -> Path | None:
        """The run folder, if there is one."""

    @property
    @abstractmethod
    def history(self) -> History:
        """Everything recorded so far."""

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether nothing trains any more."""

    @abstractmethod
    def status(self) -> Status:
        """Where the run is: state, step, speed, time left, last error."""

    @abstractmethod
    def submit(self, command: Command) -> Ticket:
        """Ask for a command."""

    @abstractmethod
    def raise_failure(self) -> None:
        """Raise what ended the run, if it failed."""

    @abstractmethod
    def numbers(self) -> dict[str, Number]:
        """What may be changed, by name: range, present value, how it goes on, and how it may."""

    @abstractmethod
    def unavailable(self) -> dict[str, str]:
        """Verbs that mean nothing for this run, such as `evaluate`, and why."""

    @abstractmethod
    def restart(self) -> SteeredRun:
        """Go on with training, after it has ended."""

    @abstractmethod
    def subscribe(self, sink: Sink) -> None:
        """Send events to `sink` from now on."""

    @abstractmethod
    def unsubscribe(self, sink: Sink) -> None:
        """Send no more events to `sink`."""

    @abstractmethod
    def ref(self) -> Callable[[], SteeredRun | None]:
        """What gives this run for as long as there is one; it keeps no model alive."""

    def __repr__(self) -> str:
        status = self.status()
        return f"<run {self.name}: {status.state}, step {status.step} of {status.total_steps}>"

    def hyper_parameters(self) -> dict[str, tuple[HyperParameter, float]]:
        """What may be changed while training: name to range (with unit) and present value."""
        return {name: (number.spec, number.value) for name, number in self.numbers().items()}

    def courses(self) -> dict[str, str]:
        """How each of them goes on: `as planned`, `rescaled x 0.5`, `held`, `cosine to 1e-05 at step 400`."""
        return {name: number.course for name, number in self.numbers().items()}

    def checkpoint_files(self) -> list[str]:
        """Names of the checkpoints to go back to: the best, the others from the newest on, where the run began."""
        return [] if self.path is None else CheckpointFolder(self.path / "checkpoints").names

    @property
    def state(self) -> str:
        """`running`, `paused`, `stopping`, `finished`, `stopped` or `failed`."""
        return self.status().state

    def pause(self) -> Ticket:
        """Hold before the next step; the model may be read and changed until `resume`."""
        return self._ask(Pause())

    def resume(self) -> Ticket:
        """Go on after a pause."""
        return self._ask(Resume())

    def step(self, n: int = 1) -> Ticket:
        """Do `n` steps and pause again."""
        return self._ask(Step(n))

    def stop(self) -> Ticket:
        """End before the next step, with a checkpoint; `trainer.start` or `train` goes on from there."""
        return self._ask(Stop())

    def set(self, name: str, value: float, mode: Mode = "scale") -> Ticket:
        """Change a hyper-parameter from the next step on; see `hyper_parameters()` for names and ranges."""
        return self._ask(Set(name, value, mode))

    def checkpoint(self, path: str | os.PathLike[str] | None = None) -> Ticket:
        """Write a checkpoint now, into the run folder or to `path`."""
        return self._ask(SaveCheckpoint(None if path is None else Path(path).absolute()))

    def rewind(self, checkpoint: str | int) -> Ticket:
        """Go back to a checkpoint of this run, by its step or file name, and on from there; see `trainer.rewind`."""
        return self._ask(Rewind(checkpoint))

    def fork(self, name: str, checkpoint: str | int | None = None) -> Ticket:
        """Go on in a new run folder beside this one, from a checkpoint or from here; see `trainer.fork`."""
        return self._ask(Fork(name, checkpoint))

    def evaluate(self) -> Ticket:
        """Run the validation data now."""
        return self._ask(Evaluate())

    def _ask(self, command: Command) -> Ticket:
        self.raise_failure()
        self._last = self.submit(command)
        return self._last

    @property
    def result(self) -> History:
        """The history; raises what ended the run if it failed."""
        self.raise_failure()
        return self.history

    def wait(self, timeout: float | None = None) -> History:
        """Wait for the end of the run, for at most `timeout` seconds, and return its history.

        Raises:
            TimeoutError: The run is still going on.
            Exception: What ended the run, if it failed.
        """
        if not self._wait_for_end(timeout):
            raise TimeoutError(f"still {self.state} at step {self.status().step} after {timeout} s")
        return self.result

    def _wait_for_end(self, timeout: float | None) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.ended:
            if deadline is not None and time.monotonic() > deadline:
                return False
            time.sleep(self._poll_seconds)
        return True

    def __await__(self) -> Generator[Any, None, History]:
        return self._until_end().__await__()

    async def _until_end(self) -> History:
        try:
            while not self.ended:
                await asyncio.sleep(self._poll_seconds)
        except asyncio.CancelledError as error:
            error.add_note(
                "Only the wait was interrupted, the run goes on: `await run` waits again, `run.stop()` ends it."
            )
            raise
        return self.result

    async def until(self, *, step: int, timeout: float | None = None) -> int:
        """Wait in a cell until `step` updates are done, or the run has ended or is paused.

        Returns:
            The step the run is at.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.status().step < step and not self.ended and not self._holds():
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"still at step {self.status().step} of {step} after {timeout} s")
            await asyncio.sleep(self._poll_seconds)
        self.raise_failure()
        return self.status().step

    def _holds(self) -> bool:
        """Whether the run is paused, and nothing that this handle asked for is about to change that."""
        return self.state == "paused" and (self._last is None or self._last.done)
