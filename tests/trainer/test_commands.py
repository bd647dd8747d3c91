"""What commands do to a trainer, applied directly on its training thread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jepa.data import MemoryLoader
from jepa.trainer import Callback, JEPATrainer, events
from jepa.trainer.commands import CommandTable
from jepa.trainer.control import Command, Inspect, Pause, Resume, SaveCheckpoint, Set, Stop, Ticket

MakeTrainer = Callable[..., JEPATrainer]


def apply(trainer: JEPATrainer, *commands: Command) -> list[Ticket]:
    tickets = [Ticket(command, "panel") for command in commands]
    CommandTable(trainer, trainer.gate).apply(tickets)
    trainer.saver.settle()
    return tickets


def test_commands_apply_in_order_and_are_acknowledged(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    trainer = make_trainer()
    trainer.train(loader, num_epochs=1)
    applied: list[events.CommandApplied] = []
    trainer.subscribe(lambda event: applied.append(event) if isinstance(event, events.CommandApplied) else None)
    tickets = apply(trainer, Pause(), Set("clip_grad_norm", 0.5), Resume(), Inspect())
    assert all(ticket.done and ticket.step == 6 for ticket in tickets)
    assert tickets[1].result() == {
        "name": "clip_grad_norm",
        "old": 1.0,
        "new": 0.5,
        "mode": "scale",
        "course": "rescaled x 0.5",
    }
    assert tickets[3].value.step == 6
    assert trainer.rates.clip(6) == 0.5
    assert [event.command["type"] for event in applied] == ["Pause", "Set", "Resume", "Inspect"]
    assert [event.source for event in applied] == ["panel"] * 4
    assert applied[1].result == tickets[1].result()


def test_a_refused_command_changes_nothing_and_the_next_ones_apply(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer()
    (tmp_path / "file").write_text("in the way")
    bad, worse, look, unknown, good = apply(
        trainer,
        Set("learning_rate", -1.0),
        SaveCheckpoint(tmp_path / "file" / "x.pt"),
        Inspect(),
        Command(),
        Set("learning_rate", 0.5, "hold"),
    )
    with pytest.raises(ValueError, match=r"learning_rate must lie in \[0, 1000\], got -1"):
        bad.result()
    with pytest.raises(OSError, match="file"):
        worse.result()
    with pytest.raises(ValueError, match="nothing to inspect before the first step"):
        look.result()
    with pytest.raises(TypeError, match="Command is not a command that can be applied"):
        unknown.result()
    assert good.result()["new"] == 0.5
    assert trainer.rates.learning_rate(0) == 0.5


def test_an_error_that_ends_the_run_answers_everybody(make_trainer: MakeTrainer) -> None:
    class Refuse(Callback):
        def on_state_changed(self, trainer: JEPATrainer, event: events.StateChanged) -> None:
            raise LookupError("broken")

    trainer = make_trainer(callbacks=[Refuse()])
    tickets = [Ticket(command, "handle") for command in (Pause(), Stop(), Inspect())]
    with pytest.raises(LookupError, match="broken"):
        CommandTable(trainer, trainer.gate).apply(tickets)
    for ticket in tickets:
        with pytest.raises(LookupError, match="broken"):
            ticket.result(0)
