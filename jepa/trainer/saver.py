"""How a trainer's checkpoints come about: taken between two steps, written beside the training, then announced.

::

    save -> the state is copied -> training goes on while a thread writes -> Settle (a command) -> settle -> announced

Where the disk refuses, training goes on: it is said, and the next checkpoint tries again.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from jepa import distributed
from jepa.trainer import events
from jepa.trainer.checkpoint import BackgroundWriter, Written, random_state, write_sharded, write_staged
from jepa.trainer.control import SaveCheckpoint, Settle, Ticket
from jepa.trainer.ranks import on_every_rank, on_rank_zero
from jepa.trainer.recorder import NonFiniteLossError
from jepa.trainer.snapshot import take_snapshot

if TYPE_CHECKING:
    from jepa.trainer.trainer import JEPATrainer

CHECKPOINT_SECONDS = 600.0
RETRY_SECONDS = 60.0


class Asked(NamedTuple):
    """Somebody waits for a checkpoint: their ticket, and what to call when the file is there, or cannot be."""

    ticket: Ticket
    applied: Callable[[Ticket], None]
    refuse: Callable[[Ticket, Exception], None]


class Saver:
    """The checkpoints of one trainer (training thread only).

    Attributes:
        last: The newest checkpoint that is complete, of those written or taken up.
        saved_step: The step that the run folder's newest checkpoint holds, or will hold.
        best: Best value so far of the metric that tells the best checkpoint.
    """

    def __init__(self, trainer: JEPATrainer) -> None:
        self._trainer = trainer
        self._writer = BackgroundWriter()
        self._number = 0  # of the checkpoint begun last; the same on every rank
        self._pending = False
        self._marks: tuple[float, int] | None = None  # of what is being written, if it is the best
        self._asked: Asked | None = None
        self._told = False  # that the disk refuses
        self._observed: tuple[float, int] | None = None  # value and step of an epoch's end that is not kept yet
        self._kept = float("inf")  # best value of which there is a file
        self._clock = time.monotonic()
        self.last: Path | None = None
        self.saved_step = -1
        self.best = float("inf")

    def begin(self) -> None:
        """Training begins or goes on."""
        self._clock = time.monotonic()

    def taken_up(self, path: Path | None, step: int) -> None:
        """The trainer has the state of a checkpoint."""
        self._kept, self._observed = self.best, None
        self.saved_step = step
        self.last = path or self.last

    def observe(self, value: float) -> None:
        """An epoch's value of the metric that tells the best checkpoint."""
        self.best = min(self.best, value)
        self._observed = (value, self._trainer.step)

    def ask_when_due(self) -> None:
        """Ask for a checkpoint when there was none for long; one clock decides, and all ranks hear of it."""
        if self._trainer.rank == 0 and time.monotonic() - self._clock > CHECKPOINT_SECONDS:
            self._clock = time.monotonic()
            self._trainer.control.submit(SaveCheckpoint(), source="clock")

    def save(self, path: Path | None = None, *, alone: bool = False, generator: torch.Tensor | None = None) -> Path:
        """Take the state of now, and have it written to `path` or into the run folder.

        Args:
            path: The file; in the run folder by default.
            alone: Ask nothing of the other ranks.
            generator: State of torch's own generator, in place of its present one.

        Returns:
            Where the file will be.
        """
        trainer = self._trainer
        self.settle(alone=alone)
        trainer.recorder.collect(alone=alone)  # never keep weights whose loss was not finite
        target = trainer.checkpoint_path(path)
        own = random_state() if generator is None else {**random_state(), "torch": generator}
        randomness = [own] if alone else distributed.gather_objects(own)
        self._number += not alone  # the same on every rank
        self._pending = True
        if trainer.sharded:
            self._write_together(target, randomness, in_folder=path is None)
        elif trainer.rank == 0:
            self._begin(target, randomness, in_folder=path is None, announced=not alone)
        if path is None:
            self.saved_step = trainer.step
        return target

    def when_written(self, asked: Asked) -> None:
        """Answer who asked for the checkpoint taken last when the file is there, or cannot be."""
        self._asked = asked

    def save_initial(self) -> None:
        """Keep the state that the run begins with: a replay, and a run killed before its first checkpoint, need it."""
        folder = self._trainer.run
        assert folder is not None
        self.save(folder.checkpoints.initial.with_suffix(self._trainer.checkpoint_suffix))

    def _begin(self, target: Path, randomness: list[dict[str, Any]], *, in_folder: bool, announced: bool) -> None:
        trainer, number, best = self._trainer, self._number, self._mark(in_folder=in_folder)
        step, folder = trainer.step, trainer.run
        weights = [name for name, _ in trainer.objective.named_parameters()]

        def write(state: dict[str, Any], wait: Callable[[], None]) -> None:
            wait()
            _check_weights(state["objective_state"], weights, step)
            write_staged(state, target)
            if in_folder and folder is not None:
                folder.checkpoints.keep_only_wanted(target, step, best=best)

        def then() -> None:
            if announced:
                trainer.control.submit(Settle(number), source="writer")

        self._open(in_folder=in_folder)
        self._writer.begin(take_snapshot(trainer, randomness), target, step, trainer.epoch, write, then)

    def _mark(self, *, in_folder: bool) -> bool:
        """Whether the checkpoint that is taken now is the best one."""
        if not in_folder:
            self._marks = None
            return False
        observed, self._observed = self._observed, None
        best = observed is not None and observed[1] == self._trainer.step and observed[0] < self._kept
        self._marks = observed if best else None
        return best

    def _open(self, *, in_folder: bool) -> None:
        trainer, folder = self._trainer, self._trainer.run
        if folder is not None and in_folder:
            trainer.lineage.open(folder, None)
        if folder is not None:
            folder.flush()  # the records up to here will not be made again

    def _write_together(self, target: Path, randomness: list[dict[str, Any]], *, in_folder: bool) -> None:
        """A sharded model: every rank writes its part, and training waits for all of them."""
        trainer, start, error = self._trainer, time.perf_counter(), None
        step, folder, best = trainer.step, trainer.run, self._mark(in_folder=in_folder)
        names = [name for name, _ in trainer.objective.named_parameters()]
        try:
            on_rank_zero(lambda: self._open(in_folder=in_folder))
            state = take_snapshot(trainer, randomness)
            on_every_rank(lambda: _check_weights(state["objective_state"], names, step))
            write_sharded(state, target)
            if in_folder and folder is not None:
                on_rank_zero(lambda: folder.checkpoints.keep_only_wanted(target, step, best=best))
        except Exception as failure:  # said by `settle`, as of any checkpoint
            error = failure
        self._writer.note(Written(target, step, trainer.epoch, time.perf_counter() - start, error))
        if trainer.rank == 0:
            trainer.control.submit(Settle(self._number), source="writer")

    def is_pending(self, number: int) -> bool:
        """Whether this is the checkpoint that is being written, or was and has not been announced."""
        return self._pending and self._number == number

    def settle(self, *, alone: bool = False, required: bool = False) -> None:
        """Wait for the checkpoint that is being written, if there is one, and say what became of it.

        Args:
            alone: Ask nothing of the other ranks.
            required: Raise what made it fail.

        Raises:
            NonFiniteLossError: The weights are not finite.
            OSError: It could not be written, and is `required`.
        """
        if not self._pending:
            return
        written = self._writer.result()  # an interrupt of this wait leaves it to the next call
        self._pending = False
        if not alone:
            written = distributed.broadcast_object(written)
        if written is not None:
            self._announce(written, required=required)

    def _announce(self, written: Written, *, required: bool) -> None:
        trainer, (asked, self._asked) = self._trainer, (self._asked, None)
        if written.error is not None:
            self._failed(written, asked, required=required)
            return
        self._told = False
        if self._marks is not None:
            self._kept = self._marks[0]
        try:
            if written.path.stem != "initial":
                self.last = written.path
                told = {"path": self._shown(written.path), "seconds": round(written.seconds, 3)}
                trainer.journal("CheckpointSaved", step=written.step, durable=False, **told)
                trainer.publish(events.CheckpointSaved(written.step, written.epoch, written.path, written.seconds))
        finally:
            if asked is not None:
                asked.applied(asked.ticket)

    def _shown(self, path: Path) -> str:
        return str(path) if self._trainer.run is None else self._trainer.run.relative(path)

    def _failed(self, written: Written, asked: Asked | None, *, required: bool) -> None:
        trainer, error = self._trainer, written.error
        assert error is not None
        if self.saved_step == written.step:
            self.saved_step = -1
        self._observed = self._observed or self._marks
        if isinstance(error, NonFiniteLossError):
            error = NonFiniteLossError(trainer.recorder.advice(str(error)))
        if asked is not None:
            asked.refuse(asked.ticket, error)
        if isinstance(error, NonFiniteLossError) or not isinstance(error, OSError):
            raise error
        kept = f"the last good one is {self.last}" if self.last else "there is no other one yet"
        if written.path.stem == "initial":
            kept = "without the state that it began with, this run cannot be replayed"
        sentence = f"no checkpoint could be written at step {written.step}: {error}; {kept}"
        self._clock = time.monotonic() - CHECKPOINT_SECONDS + RETRY_SECONDS
        trainer.journal("CheckpointFailed", step=written.step, durable=False, error=str(error))
        if required:
            raise OSError(
                error.errno,
                f"{sentence}. The weights are still in this process: make room and train on, or "
                "trainer.save_checkpoint(path) on another disk",
            ) from error
        told, self._told = self._told, True
        if not told and (asked is None or asked.ticket.source == "clock"):  # others have got their answer
            warnings.warn(
                f"{sentence}; training goes on, and each checkpoint tries again", RuntimeWarning, stacklevel=3
            )

    def close(self) -> None:
        """The run has ended: give the memory of the copies back."""
        self._writer.close()
        self._pending = False
        if self._asked is not None:
            error = RuntimeError("the run ended while the checkpoint was written")
            self._asked.ticket.refuse(self._trainer.step, error)
        self._asked = None


def _check_weights(state: dict[str, torch.Tensor], names: list[str], step: int) -> None:
    """Look for weights that a non-finite gradient has spoilt although the loss was finite.

    Raises:
        NonFiniteLossError: There are some.
    """
    for name in names:
        weight = distributed.own_part(state[name]) if name in state else None
        if weight is None or not weight.is_floating_point() or not weight.numel():
            continue
        low, high = torch.aminmax(weight)  # one pass, and NaN goes through; isfinite costs ten times as much
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise NonFiniteLossError(
                f"{name} holds NaN or infinite numbers at step {step}, although the loss was finite"
            )
