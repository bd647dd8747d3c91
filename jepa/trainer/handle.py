"""The handle of a run that trains in the background: talk to it from any thread, cell or widget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jepa.trainer.by_hand import model_at_rest
from jepa.trainer.control import INSPECTED_PARTS, Command, Inspect, Ticket
from jepa.trainer.history import History
from jepa.trainer.status import Status
from jepa.trainer.steering import SteeredRun

if TYPE_CHECKING:
    from jepa.models.jepa import JEPA
    from jepa.trainer.trainer import JEPATrainer


class RunHandle(SteeredRun):
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

    @property
    def name(self) -> str:
        """The run folder's name."""
        return self._trainer.run.name if self._trainer.run else "no folder"

    @property
    def trainer(self) -> JEPATrainer:
        """The trainer behind this run."""
        return self._trainer

    @property
    def model(self) -> JEPA:
        """The model, to be read, and changed in place, while the run is paused or over.

        What was changed is found when the run goes on, and written to its journal.

        Raises:
            RuntimeError: The run goes on, and its weights change with every step.
        """
        return model_at_rest(self._trainer, self._last)

    @property
    def history(self) -> History:
        """Everything recorded so far."""
        return self._trainer.history

    @property
    def ended(self) -> bool:
        """Whether nothing trains any more."""
        return self._trainer.ended.is_set()

    def status(self) -> Status:
        """Where the run is: state, step, speed, time left, last error."""
        return self._trainer.status()

    def submit(self, command: Command) -> Ticket:
        """Ask for a command."""
        return self._trainer.submit(command, source="handle")

    def inspect(self, parts: Sequence[str] = INSPECTED_PARTS) -> Ticket:
        """Copy the last batch, its views and embeddings to the CPU; an `Inspection` is the ticket's `value`.

        Args:
            parts: What else to look at: `"samples"`, `"model"`, `"attention"`; `()` is the cheapest.
        """
        return self._ask(Inspect(tuple(parts)))

    def raise_failure(self) -> None:
        """Raise what ended the run, if it failed."""
        self._trainer.raise_failure()

    def _wait_for_end(self, timeout: float | None) -> bool:
        return self._trainer.ended.wait(timeout)

    def show(self) -> None:
        """Show panel and chart (again), where there is a front end."""
        if self._trainer.view is None:
            raise RuntimeError("there is nothing to show: pass live_plot=True or control_panel=True to create_trainer")
        self._trainer.view.show()
