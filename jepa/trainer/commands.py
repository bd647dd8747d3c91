"""What each command does. A command is checked, written to the journal, applied, and acknowledged, in this order.

One that is refused, or fails when it is applied, gets a line `CommandRefused` as its last word in the journal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jepa.trainer import control, events
from jepa.trainer.branching import branch_off, folder_of_fork, go_back
from jepa.trainer.by_hand import edited_file, take_weights
from jepa.trainer.checkpoint import CheckpointError
from jepa.trainer.control import Command, Ticket
from jepa.trainer.inspection import inspect
from jepa.trainer.ranks import on_rank_zero
from jepa.trainer.saver import Asked

if TYPE_CHECKING:
    from jepa.trainer.gate import Gate
    from jepa.trainer.trainer import JEPATrainer

Effect = Callable[[], Any]
Prepared = tuple[dict[str, Any], Effect]


class CommandTable:
    """Applies commands to one trainer, on its training thread."""

    def __init__(self, trainer: JEPATrainer, gate: Gate) -> None:
        self._trainer = trainer
        self._gate = gate
        self._prepare: dict[type[Command], Callable[[Any], Prepared]] = {
            control.Pause: lambda command: ({}, gate.pause),
            control.Resume: lambda command: ({}, gate.resume),
            control.Step: lambda command: ({}, lambda: gate.resume(command.n)),
            control.Stop: lambda command: ({}, gate.stop),
            control.Set: self._set,
            control.EditedByHand: self._take_weights,
            control.SaveCheckpoint: self._save,
            control.Rewind: self._rewind,
            control.Fork: self._fork,
            control.Evaluate: self._evaluate,
            control.Inspect: self._inspect,
            control.Glance: self._inspect,
        }

    def apply(self, tickets: Iterable[Ticket]) -> None:
        """Apply commands in the order they were asked for; one that is refused changes nothing."""
        waiting = list(tickets)
        while waiting:
            ticket = waiting.pop(0)
            try:
                self._apply_one(ticket)
            except BaseException as error:
                refused = (ValueError, OSError, TypeError, CheckpointError)
                if isinstance(error, refused) and not isinstance(ticket.command, control.Settle | control.Stop):
                    self._refuse(ticket, error)
                    continue
                for unanswered in (ticket, *waiting):  # it ends the run, and nobody may wait for an answer for ever
                    unanswered.refuse(self._trainer.step, error)
                raise

    def _apply_one(self, ticket: Ticket) -> None:
        trainer, command = self._trainer, ticket.command
        if isinstance(command, control.Settle):
            if trainer.saver.is_pending(command.number):
                trainer.saver.settle()
            return
        if type(command) not in self._prepare:
            raise TypeError(f"{type(command).__name__} is not a command that can be applied")
        result, effect = self._prepare[type(command)](command)
        self._settle_by_hand(command)
        data, source, counts = command.as_data(), ticket.source, self._counts(ticket)
        told = "CommandApplied" if counts else "CommandIgnored"
        on_rank_zero(lambda: self._write_down(command, told, command=data, source=source, result=result))
        value = effect() if counts else None
        if isinstance(command, control.Set | control.Rewind | control.Evaluate):
            trainer.write_status()  # a run that is paused says nothing by itself
        if isinstance(command, control.Rewind | control.Fork):
            self._gate.watch_again()
        step, epoch = trainer.step, trainer.epoch

        def applied(ticket: Ticket) -> None:
            try:
                if counts and not isinstance(command, control.Glance):
                    trainer.publish(events.CommandApplied(step, epoch, data, source, result))
            finally:
                ticket.complete(step, result, value)

        if isinstance(command, control.SaveCheckpoint):
            trainer.saver.when_written(Asked(ticket, applied, self._refuse))
        else:
            applied(ticket)

    def _settle_by_hand(self, command: Command) -> None:
        """What a hand changed is found before anything uses the weights, or leaves the pause."""
        if isinstance(command, control.Stop):
            self._gate.by_hand.settle_to_stop()
        elif not isinstance(command, control.Pause | control.Set | control.Inspect | control.Rewind):
            self._gate.by_hand.settle()

    def _write_down(self, asked: Command, event: str, **fields: Any) -> None:
        """Write a line; where the disk refuses, it is written later, unless the command changes the training."""
        if isinstance(asked, control.Glance):
            return
        try:
            self._trainer.journal(event, **fields)
        except OSError as error:
            if not isinstance(asked, control.Set | control.Rewind | control.Fork):
                return
            what = f"refused, because it could not be written down: {error.strerror}"
            raise OSError(error.errno, what, error.filename) from error

    def _counts(self, ticket: Ticket) -> bool:
        """In a replay only the journal changes the training; what the replayed code asks for has been asked before."""
        harmless = (control.SaveCheckpoint, control.Evaluate, control.Inspect)
        outside = ticket.source in ("journal", "signal", "exit")
        return self._gate.until is None or outside or isinstance(ticket.command, harmless)

    def _refuse(self, ticket: Ticket, error: Exception) -> None:
        trainer, data = self._trainer, ticket.command.as_data()
        if not isinstance(ticket.command, control.Glance):
            with suppress(OSError):  # the disk may be what it was refused for
                trainer.journal("CommandRefused", command=data, source=ticket.source, error=str(error))
            trainer.publish(events.CommandApplied(trainer.step, trainer.epoch, data, ticket.source, error=str(error)))
        ticket.refuse(trainer.step, error)

    def _inspect(self, command: control.Inspect) -> Prepared:
        return {}, lambda: inspect(self._trainer, command.parts)

    def _set(self, command: control.Set) -> Prepared:
        rates, step = self._trainer.rates, self._trainer.step
        result = rates.check(step, command.name, command.value, command.mode)
        return result, lambda: rates.edit(step, command.name, result["new"], result["mode"])

    def _take_weights(self, command: control.EditedByHand) -> Prepared:
        trainer = self._trainer
        path = Path(command.checkpoint) if trainer.run is None else edited_file(trainer.run.checkpoints.path, command)
        return {"path": str(path)}, lambda: take_weights(trainer, path)

    def _save(self, command: control.SaveCheckpoint) -> Prepared:
        trainer = self._trainer
        path = trainer.checkpoint_path(command.path)
        return {"path": str(path)}, lambda: trainer.saver.save(command.path)

    def _rewind(self, command: control.Rewind) -> Prepared:
        trainer = self._trainer
        path = self._find(command.checkpoint)
        return {"path": str(path)}, lambda: go_back(trainer, path)

    def _fork(self, command: control.Fork) -> Prepared:
        trainer = self._trainer
        folder = trainer.folder_for("fork")
        path = on_rank_zero(lambda: folder_of_fork(folder, command.name))  # rank 0 is the one that will make it
        origin = None if command.checkpoint is None else self._find(command.checkpoint).name
        return {"path": str(path)}, lambda: branch_off(trainer, command.name, origin)

    def _find(self, checkpoint: str | int) -> Path:
        """A checkpoint of the run; one that is being written is there when this returns."""
        trainer = self._trainer
        folder = trainer.folder_for("go back to")
        trainer.saver.settle()
        return on_rank_zero(lambda: folder.checkpoints.find(checkpoint))

    def _evaluate(self, command: control.Evaluate) -> Prepared:
        trainer = self._trainer
        if trainer.val_loader is None:
            raise ValueError("there is no validation data: pass val_loader= to create_trainer or train")
        return {}, trainer.evaluate
