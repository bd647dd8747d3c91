"""The handle of a run that trains in the background: talk to it from any thread, cell or widget."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jepa.trainer.by_hand import model_at_rest
from jepa.trainer.control import INSPECTED_PARTS, Command, Inspect, Ticket
from jepa.trainer.events import Sink
from jepa.trainer.history import History
from jepa.trainer.numbers import Number
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

    Args:
        trainer: Whose run it is.
        source: Who asks, as the journal says.

    Example:
        A cell that changes the rate in the middle of a run::

            run = trainer.start(loader, num_epochs=20)
            await run.until(step=200)
            run.set("learning_rate", 3e-4)
            history = await run
    """

    def __init__(self, trainer: JEPATrainer, source: str = "handle") -> None:
        self._trainer, self._source = trainer, source

    @property
    def name(self) -> str:
        """The run folder's name."""
        return self._trainer.run.name if self._trainer.run else "no folder"

    @property
    def path(self) -> Path | None:
        """The run folder, if there is one; another one after a fork."""
        return self._trainer.run.path if self._trainer.run else None

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
        return self._trainer.submit(command, self._source)

    def inspect(self, parts: Sequence[str] = INSPECTED_PARTS) -> Ticket:
        """Copy the last batch, its views and embeddings to the CPU; an `Inspection` is the ticket's `value`.

        Args:
            parts: What else to look at: `"samples"`, `"model"`, `"attention"`; `()` is the cheapest.
        """
        return self._ask(Inspect(tuple(parts)))

    def raise_failure(self) -> None:
        """Raise what ended the run, if it failed."""
        self._trainer.raise_failure()

    def numbers(self) -> dict[str, Number]:
        """What may be changed, by name: range, present value, how it goes on, and how it may."""
        return self._trainer.numbers()

    def unavailable(self) -> dict[str, str]:
        """Verbs that mean nothing for this run, and why."""
        no_data = "there is no validation data: pass val_loader= to create_trainer"
        return {} if self._trainer.val_loader is not None else {"evaluate": no_data}

    def restart(self) -> RunHandle:
        """Go on in the background with the loader and the totals of the last `train` or `start`."""
        return self._trainer.restart()

    def subscribe(self, sink: Sink) -> None:
        """Send events to `sink` from now on."""
        self._trainer.subscribe(sink)

    def unsubscribe(self, sink: Sink) -> None:
        """Send no more events to `sink`."""
        self._trainer.unsubscribe(sink)

    def ref(self) -> Callable[[], RunHandle | None]:
        """What gives a handle to this run for as long as its trainer lives, without keeping it alive."""
        return weak_handle(self._trainer)

    def _wait_for_end(self, timeout: float | None) -> bool:
        return self._trainer.ended.wait(timeout)

    def show(self) -> None:
        """Show panel and chart (again), where there is a front end."""
        if self._trainer.view is None:
            raise RuntimeError("there is nothing to show: pass live_plot=True or control_panel=True to create_trainer")
        self._trainer.view.show()


def weak_handle(trainer: JEPATrainer) -> Callable[[], RunHandle | None]:
    """What gives a panel's handle to a run for as long as its trainer lives."""
    alive = weakref.ref(trainer)

    def handle() -> RunHandle | None:
        return None if (trainer := alive()) is None else RunHandle(trainer, "panel")

    return handle
