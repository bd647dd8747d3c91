"""What each command does. A command is checked, written to the journal, applied, and acknowledged, in this order.

One that is refused, or fails when it is applied, gets a line `CommandRefused` as its last word in the journal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from jepa.trainer import control, events
from jepa.trainer.control import Command, Ticket
from jepa.trainer.inspection import inspect

if TYPE_CHECKING:
    from jepa.trainer.gate import Gate
    from jepa.trainer.trainer import JEPATrainer

Effect = Callable[[], Any]
Prepared = tuple[dict[str, Any], Effect]


class CommandTable:
    """Applies commands to one trainer, on its training thread."""

    def __init__(self, trainer: JEPATrainer, gate: Gate) -> None:
        self._trainer = trainer
        self._prepare: dict[type[Command], Callable[[Any], Prepared]] = {
            control.Pause: lambda command: ({}, gate.pause),
            control.Resume: lambda command: ({}, gate.resume),
            control.Step: lambda command: ({}, lambda: gate.resume(command.n)),
            control.Stop: lambda command: ({}, gate.stop),
            control.Set: self._set,
            control.SaveCheckpoint: self._save,
            control.Evaluate: self._evaluate,
            control.Inspect: lambda command: ({}, lambda: inspect(trainer)),
        }

    def apply(self, tickets: Iterable[Ticket]) -> None:
        """Apply commands in the order they were asked for; one that is refused changes nothing."""
        waiting = list(tickets)
        while waiting:
            ticket = waiting.pop(0)
            try:
                self._apply_one(ticket)
            except (ValueError, OSError, TypeError) as error:
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
        value = effect()
        trainer.publish(
            events.CommandApplied(trainer.step, trainer.epoch, ticket.command.as_data(), ticket.source, result)
        )
        ticket.complete(trainer.step, result, value)

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
        return {"path": str(path)}, lambda: trainer.save_checkpoint(command.path)

    def _evaluate(self, command: control.Evaluate) -> Prepared:
        trainer = self._trainer
        if trainer.val_loader is None:
            raise ValueError("there is no validation data: pass val_loader= to create_trainer or train")
        return {}, trainer.evaluate
