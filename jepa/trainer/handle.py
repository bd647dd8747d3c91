"""The handle of a run that trains in the background: talk to it from any thread, cell or widget."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jepa.trainer.control import (
    Command,
    Evaluate,
    Fork,
    Inspect,
    Pause,
    Resume,
    Rewind,
    SaveCheckpoint,
    Set,
    Step,
    Stop,
    Ticket,
)
from jepa.trainer.history import History

if TYPE_CHECKING:
    from jepa.trainer.trainer import JEPATrainer, Status

POLL_SECONDS = 0.02


class RunHandle:
    """What `trainer.start` returns: commands to the run, its state, and ways to wait for it.

    Every command returns a `Ticket` at once; `ticket.result()` waits until the command took effect. `await run`
    (in a notebook cell) or `run.wait()` (anywhere) waits for the end; interrupting the wait leaves the training alone.
    Where the process ends, the run ends too, with a checkpoint.

    Example:
        A cell that changes the rate in the middle of a run::

            run = trainer.start(loader, num_epochs=20)
            await run.until(step=200)
            run.set("learning_rate", 3e-4)
            history = await run
    """

    def __init__(self, trainer: JEPATrainer) -> None:
        self._trainer = trainer
        self._last: Ticket | None = None

    def __repr__(self) -> str:
        status = self.status()
        name = self._trainer.run.name if self._trainer.run else "no folder"
        return f"<run {name}: {status.state}, step {status.step} of {status.total_steps}>"

    @property
    def trainer(self) -> JEPATrainer:
        """The trainer behind this run."""
        return self._trainer

    @property
    def state(self) -> str:
        """`running`, `paused`, `stopping`, `finished`, `stopped` or `failed`."""
        return self.status().state

    def status(self) -> Status:
        """Where the run is: state, step, speed, time left, last error."""
        return self._trainer.status()

    def pause(self) -> Ticket:
        """Hold before the next step; the model may be read and changed until `resume`."""
        return self._submit(Pause())

    def resume(self) -> Ticket:
        """Go on after a pause."""
        return self._submit(Resume())

    def step(self, n: int = 1) -> Ticket:
        """Do `n` steps and pause again."""
        return self._submit(Step(n))

    def stop(self) -> Ticket:
        """End before the next step, with a checkpoint; `trainer.start` or `train` goes on from there."""
        return self._submit(Stop())

    def set(self, name: str, value: float, mode: Literal["scale", "hold"] = "scale") -> Ticket:
        """Change a hyper-parameter from the next step on; see `trainer.hyper_parameters()` for names and ranges."""
        return self._submit(Set(name, value, mode))

    def checkpoint(self, path: str | os.PathLike[str] | None = None) -> Ticket:
        """Write a checkpoint now, into the run folder or to `path`."""
        return self._submit(SaveCheckpoint(None if path is None else Path(path).absolute()))

    def rewind(self, checkpoint: str | int) -> Ticket:
        """Go back to a checkpoint of this run, by its step or file name, and on from there; see `trainer.rewind`."""
        return self._submit(Rewind(checkpoint))

    def fork(self, name: str, checkpoint: str | int | None = None) -> Ticket:
        """Go on in a new run folder beside this one, from a checkpoint or from here; see `trainer.fork`."""
        return self._submit(Fork(name, checkpoint))

    def evaluate(self) -> Ticket:
        """Run the validation data now."""
        return self._submit(Evaluate())

    def inspect(self) -> Ticket:
        """Copy the last batch, its views and embeddings to the CPU; they are the ticket's `value`."""
        return self._submit(Inspect())

    def _submit(self, command: Command) -> Ticket:
        self._trainer.raise_failure()
        self._last = self._trainer.submit(command, source="handle")
        return self._last

    @property
    def result(self) -> History:
        """The history; raises what ended the run if it failed."""
        self._trainer.raise_failure()
        return self._trainer.history

    def wait(self, timeout: float | None = None) -> History:
        """Wait for the end of the run, for at most `timeout` seconds, and return its history.

        Raises:
            TimeoutError: The run is still going on.
            Exception: What ended the run, if it failed.
        """
        if not self._trainer.ended.wait(timeout):
            raise TimeoutError(f"still {self.state} at step {self.status().step} after {timeout} s")
        return self.result

    def __await__(self) -> Generator[Any, None, History]:
        return self._until_end().__await__()

    async def _until_end(self) -> History:
        try:
            while not self._trainer.ended.is_set():
                await asyncio.sleep(POLL_SECONDS)
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
        while self._trainer.step < step and not self._trainer.ended.is_set() and not self._holds():
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"still at step {self._trainer.step} of {step} after {timeout} s")
            await asyncio.sleep(POLL_SECONDS)
        self._trainer.raise_failure()
        return self._trainer.step

    def _holds(self) -> bool:
        """Whether the run is paused, and nothing that this handle asked for is about to change that."""
        return self.state == "paused" and (self._last is None or self._last.done)

    def show(self) -> None:
        """Show panel and chart (again), where there is a front end."""
        if self._trainer.view is None:
            raise RuntimeError("there is nothing to show: pass live_plot=True or control_panel=True to create_trainer")
        self._trainer.view.show()
