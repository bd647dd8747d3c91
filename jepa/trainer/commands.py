"""What each command does. A command is checked, written to the journal, applied, and acknowledged, in this order.

One that is refused, or fails when it is applied, gets a line `CommandRefused` as its last word in the journal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from jepa.trainer import control, events
from jepa.trainer.branching import branch_off, folder_of_fork, go_back
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
            control.SaveCheckpoint: self._save,
            control.Rewind: self._rewind,
            control.Fork: self._fork,
            control.Evaluate: self._evaluate,
            control.Inspect: lambda command: ({}, lambda: inspect(trainer)),
        }

    def apply(self, tickets: Iterable[Ticket]) -> None:
        """Apply commands in the order they were asked for; one that is refused changes nothing."""
        waiting = list(tickets)
        while waiting:
            ticket = waiting.pop(0)
            try:
                if isinstance(ticket.command, control.Settle):
                    self._settle(ticket)
                else:
                    self._apply_one(ticket)
            except (ValueError, OSError, TypeError, CheckpointError) as error:
                self._refuse(ticket, error)
            except BaseException as error:  # it ends the run, and nobody may wait for an answer for ever
                for unanswered in (ticket, *waiting):
                    unanswered.refuse(self._trainer.step, error)
                raise

    def _apply_one(self, ticket: Ticket) -> None:
        trainer = self._trainer
        if type(ticket.command) not in self._prepare:
            raise TypeError(f"{type(ticket.command).__name__} is not a command that can be applied")
        result, effect = self._prepare[type(ticket.command)](ticket.command)
        trainer.journal("CommandApplied", command=ticket.command.as_data(), source=ticket.source, result=result)
        value = effect() if self._counts(ticket) else None
        step, epoch = trainer.step, trainer.epoch

        def applied(ticket: Ticket) -> None:
            trainer.publish(events.CommandApplied(step, epoch, ticket.command.as_data(), ticket.source, result))
            ticket.complete(step, result, value)

        if isinstance(ticket.command, control.SaveCheckpoint):
            trainer.saver.when_written(Asked(ticket, applied, self._refuse))
        else:
            applied(ticket)

    def _counts(self, ticket: Ticket) -> bool:
        """In a replay only the journal changes the training; what the replayed code asks for has been asked before."""
        harmless = (control.SaveCheckpoint, control.Evaluate, control.Inspect)
        outside = ticket.source in ("journal", "signal", "exit")
        return self._gate.until is None or outside or isinstance(ticket.command, harmless)

    def _settle(self, ticket: Ticket) -> None:
        saver, command = self._trainer.saver, ticket.command
        assert isinstance(command, control.Settle)
        if saver.is_pending(command.number):
            saver.settle()

    def _refuse(self, ticket: Ticket, error: Exception) -> None:
        trainer, data = self._trainer, ticket.command.as_data()
        with suppress(OSError):  # the disk may be what it was refused for
            trainer.journal("CommandRefused", command=data, source=ticket.source, error=str(error))
        trainer.publish(events.CommandApplied(trainer.step, trainer.epoch, data, ticket.source, error=str(error)))
        ticket.refuse(trainer.step, error)

    def _set(self, command: control.Set) -> Prepared:
        rates, step = self._trainer.rates, self._trainer.step
        result = rates.check(step, command.name, command.value, command.mode)
        return result, lambda: rates.edit(step, command.name, result["new"], result["mode"])

    def _save(self, command: control.SaveCheckpoint) -> Prepared:
        trainer = self._trainer
        path = trainer.checkpoint_path(command.path)
        return {"path": str(path)}, lambda: trainer.saver.save(command.path)

    def _rewind(self, command: control.Rewind) -> Prepared:
        trainer = self._trainer
        path = trainer.folder_for("rewind").checkpoints.find(command.checkpoint)
        return {"path": str(path)}, lambda: go_back(trainer, path)

    def _fork(self, command: control.Fork) -> Prepared:
        trainer = self._trainer
        folder = trainer.folder_for("fork")
        path = on_rank_zero(lambda: folder_of_fork(folder, command.name))  # rank 0 is the one that will make it
        if command.checkpoint is not None:
            folder.checkpoints.find(command.checkpoint)
        return {"path": str(path)}, lambda: branch_off(trainer, command.name, command.checkpoint)

    def _evaluate(self, command: control.Evaluate) -> Prepared:
        trainer = self._trainer
        if trainer.val_loader is None:
            raise ValueError("there is no validation data: pass val_loader= to create_trainer or train")
        return {}, trainer.evaluate
