"""Which state a run goes on from, after anything that may have come in between."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import jepa
from jepa.data import MemoryLoader
from jepa.trainer import Callback, CheckpointError, JEPATrainer, NonFiniteLossError, events, fork_run
from jepa.trainer.checkpoint import read_checkpoint, write_checkpoint
from jepa.trainer.control import Rewind, SaveCheckpoint, Set, Stop
from jepa.trainer.journal import Journal

MakeTrainer = Callable[..., JEPATrainer]
MakeModel = Callable[..., Any]


class At(Callback):
    def __init__(self, commands: dict[int, list[Any]]) -> None:
        self.commands = dict(commands)

    def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
        for command in self.commands.pop(event.step, ()):
            if command == "kill":
                trainer.saver.saved_step = trainer.step  # nothing is rescued, as after a kill
                raise KeyboardInterrupt
            trainer.submit(command)


def same(one: JEPATrainer, other: JEPATrainer) -> bool:
    theirs = other.objective.state_dict()
    return all(torch.equal(weight, theirs[name]) for name, weight in one.objective.state_dict().items())


def replays(trainer: JEPATrainer, loader: MemoryLoader) -> bool:
    assert trainer.run is not None
    return jepa.replay(trainer.run.path, loader=loader, device="cpu").equal


def test_an_edit_outlives_a_second_interruption_before_it_was_made_again(
    make_trainer: MakeTrainer, make_model: MakeModel, loader: MemoryLoader
) -> None:
    whole = make_trainer(run="whole", callbacks=[At({9: [Set("learning_rate", 0.02, "hold")]})])
    whole.train(loader, num_epochs=3)
    first = make_trainer(run="a", callbacks=[At({9: [Set("learning_rate", 0.02, "hold")], 10: ["kill"]})])
    with pytest.raises(KeyboardInterrupt):
        first.train(loader, num_epochs=3)
    second = make_trainer(make_model(seed=1), run="a", callbacks=[At({7: [Stop()]})])
    second.train(loader, num_epochs=3)
    assert second.step == 7
    third = make_trainer(make_model(seed=2), run="a", callbacks=[At({11: [Rewind(7)]})])
    third.train(loader, num_epochs=3)
    assert same(third, whole)
    assert replays(third, loader)


def test_going_back_to_the_best_checkpoint_is_never_back_to_the_start(
    make_trainer: MakeTrainer, make_model: MakeModel, loader: MemoryLoader
) -> None:
    first = make_trainer(run="a", callbacks=[At({8: [Rewind("best.pt"), Stop()]})])
    first.train(loader, num_epochs=3)
    assert first.step == 6
    again = make_trainer(make_model(seed=1), run="a")
    again.train(loader, num_epochs=3)
    assert again.history.steps("loss")[0] == 1, "it went on from there"


@pytest.mark.parametrize("target", ["initial.pt", 6])
def test_a_trainer_at_rest_goes_back_and_on_from_there(
    target: Any, make_trainer: MakeTrainer, loader: MemoryLoader
) -> None:
    whole = make_trainer(run="whole")
    whole.train(loader, num_epochs=3)
    trainer = make_trainer(run="a", callbacks=[At({8: [Set("learning_rate", 0.02, "hold")]})])
    trainer.train(loader, num_epochs=3)
    trainer.rewind(target)
    trainer.train(loader, num_epochs=3)
    assert same(trainer, whole)
    assert replays(trainer, loader)
    best = read_checkpoint(trainer.run.checkpoints.best)  # type: ignore[union-attr]
    assert best["position"]["step"] <= 18


def test_one_can_go_back_after_the_loss_was_not_finite(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    trainer = make_trainer(run="a", clip_grad_norm=None, callbacks=[At({14: [Set("learning_rate", 1e3, "hold")]})])
    with pytest.raises(NonFiniteLossError):
        trainer.train(loader, num_epochs=30)
    with pytest.raises(RuntimeError, match="the weights are not finite"):
        trainer.save_checkpoint()
    trainer.rewind(6)
    trainer.train(loader, max_steps=180)
    assert trainer.step == 180
    assert not Journal.read(trainer.run.journal_path).edits()  # type: ignore[union-attr]


def test_a_callback_goes_back_after_the_step(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    class Back(Callback):
        done = False

        def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
            if event.step == 9 and not self.done:
                self.done = True
                trainer.rewind(6)

    whole = make_trainer(run="whole")
    whole.train(loader, num_epochs=3)
    trainer = make_trainer(run="a", callbacks=[Back()])
    trainer.train(loader, num_epochs=3)
    assert same(trainer, whole)


def test_a_checkpoint_that_is_being_written_can_be_gone_back_to(
    make_trainer: MakeTrainer, loader: MemoryLoader
) -> None:
    trainer = make_trainer(run="a", callbacks=[At({8: [SaveCheckpoint(), Rewind("step-00000008.pt")]})])
    refused: list[Any] = []
    trainer.subscribe(lambda event: refused.append(event) if getattr(event, "error", None) else None)
    trainer.train(loader, num_epochs=2)
    assert not refused
    assert len(Journal.read(trainer.run.journal_path).spans()) == 2  # type: ignore[union-attr]


def test_a_state_that_was_gone_back_to_is_saved_as_what_it_is(
    make_trainer: MakeTrainer, make_model: MakeModel, loader: MemoryLoader
) -> None:
    whole = make_trainer(run="whole")
    whole.train(loader, num_epochs=3)
    first = make_trainer(run="a", callbacks=[At({8: [Set("learning_rate", 0.02, "hold")]})])
    first.train(loader, num_epochs=3)
    first.rewind(6)
    first.save_checkpoint()
    second = make_trainer(make_model(seed=1), run="a")
    second.train(loader, num_epochs=3)
    assert replays(second, loader)


def test_two_trainers_of_one_run_each_go_on_from_their_own(
    make_trainer: MakeTrainer, make_model: MakeModel, loader: MemoryLoader
) -> None:
    one = make_trainer(run="a")
    one.train(loader, num_epochs=2)
    other = make_trainer(make_model(seed=1), run="a", callbacks=[At({15: [Set("learning_rate", 0.02, "hold")]})])
    other.train(loader, num_epochs=4)
    one.train(loader, num_epochs=3)
    assert replays(one, loader)


def test_a_replay_can_be_replayed(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    first = make_trainer(run="a", callbacks=[At({8: [Set("learning_rate", 0.02, "hold")]})])
    first.train(loader, num_epochs=3)
    assert first.run is not None
    again = jepa.replay(first.run.path, loader=loader, device="cpu")
    assert again.run is not None
    assert jepa.replay(again.run, loader=loader, device="cpu").equal


def test_a_fork_begins_from_what_counts(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    class Die(Callback):
        def on_command_applied(self, trainer: JEPATrainer, event: events.CommandApplied) -> None:
            if event.command["type"] == "Rewind":
                raise KeyboardInterrupt

    trainer = make_trainer(run="a", callbacks=[At({20: [Rewind(6)]}), Die()])
    with pytest.raises(KeyboardInterrupt):
        trainer.train(loader, num_epochs=4)
    assert trainer.run is not None
    for path in trainer.run.checkpoints.path.glob("*.replaced"):
        path.replace(path.with_suffix(""))  # as if it had been killed before they were set aside
    fork = fork_run(trainer.run.path, "b")
    assert [path.name for path in (fork / "checkpoints").glob("step-*")] == ["step-00000006.pt"]


def test_weights_that_took_nothing_up_do_not_become_those_of_a_run(
    make_trainer: MakeTrainer, make_model: MakeModel, loader: MemoryLoader, tmp_path: Path
) -> None:
    make_trainer(run="a").train(loader, num_epochs=1)
    fresh = make_trainer(make_model(seed=1), run="a")
    for wish in (fresh.save_checkpoint, lambda: fresh.fork("b")):
        with pytest.raises(RuntimeError, match="has been trained before, and this trainer has not taken it up"):
            wish()
    assert not (tmp_path / "runs" / "b").exists()
    assert fresh.save_checkpoint(tmp_path / "elsewhere.pt").is_file()
    fresh.rewind(6)
    fresh.fork("b")


def test_what_a_checkpoint_cannot_hold_is_named_before_training(
    make_trainer: MakeTrainer, loader: MemoryLoader
) -> None:
    class Keeps(Callback):
        kept: Any = None

        def state_dict(self) -> dict[str, Any]:
            return {"kept": self.kept}

    strange = Keeps()
    strange.kept = {1, 2}
    with pytest.raises(TypeError, match=r"callbacks/Keeps/kept is a builtins.set"):
        make_trainer(run="a", callbacks=[strange]).train(loader, num_epochs=1)
    number = Keeps()
    number.kept = [np.float64(0.5), np.int64(3), np.bool_(True)]
    trainer = make_trainer(run="b", callbacks=[number])
    trainer.train(loader, num_epochs=1)
    state = read_checkpoint(trainer.run.checkpoints.file(6))  # type: ignore[union-attr]
    assert state["callbacks"]["Keeps"] == {"kept": [0.5, 3, True]}


def test_a_file_that_lacks_something_changes_nothing(
    make_trainer: MakeTrainer, loader: MemoryLoader, tmp_path: Path
) -> None:
    trainer = make_trainer(run="a")
    trainer.train(loader, num_epochs=1)
    state = read_checkpoint(trainer.run.checkpoints.file(6))  # type: ignore[union-attr]
    state["objective_state"] = {name: weight + 1 for name, weight in state["objective_state"].items()}
    for lacking in ("history", "random", "objective"):
        rest = {key: value for key, value in state.items() if key not in (lacking, "format")}
        path = write_checkpoint(rest, tmp_path / "part.pt")
        before = {name: weight.clone() for name, weight in trainer.objective.state_dict().items()}
        with pytest.raises(CheckpointError, match=f"was not written by a trainer: it has no {lacking}"):
            trainer.load_checkpoint(path)
        assert all(torch.equal(weight, before[name]) for name, weight in trainer.objective.state_dict().items())


@pytest.mark.filterwarnings("ignore:no checkpoint could be written:RuntimeWarning")
def test_who_asked_for_a_checkpoint_is_answered_whatever_a_callback_does(
    make_trainer: MakeTrainer, loader: MemoryLoader
) -> None:
    class Break(Callback):
        def on_checkpoint_saved(self, trainer: JEPATrainer, event: events.CheckpointSaved) -> None:
            raise ValueError("in the callback")

    trainer = make_trainer(run="a", callbacks=[Break()])
    run = trainer.start(loader, max_steps=10**6, wait=False)
    ticket = run.checkpoint()
    assert "step-" in ticket.result(30)["path"]
    with pytest.raises(ValueError, match="in the callback"):
        run.wait(30)


EXIT = """
import sys, torch
from jepa import JEPA, create_trainer
from jepa.data import MemoryLoader
torch.set_num_threads(1)
model = JEPA(torch.nn.Sequential(torch.nn.Linear(4, 1100), torch.nn.Linear(1100, 1100)), torch.nn.Linear(1100, 1100))
states = torch.randn(64, 4)
options = {"live_plot": False, "control_panel": False, "progress": False, "device": "cpu"}
trainer = create_trainer(model, run=sys.argv[1], **options)
run = trainer.start(MemoryLoader(states, states, batch_size=8), max_steps=10**6, wait=False)
while trainer.step < 3:
    pass
"""


@pytest.mark.slow
def test_a_large_run_in_the_background_is_kept_when_its_process_ends(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", EXIT, tmp_path / "run"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    newest = sorted((tmp_path / "run" / "checkpoints").glob("step-*.pt"))[-1]
    assert newest.stat().st_size > 2**24
    state = read_checkpoint(newest)
    last = Journal.read(tmp_path / "run" / "journal.jsonl").lines[-1]
    assert (last["event"], last["state"], last["step"]) == ("RunEnded", "stopped", state["position"]["step"])


def test_the_best_is_marked_again_when_its_file_could_not_be_written(
    make_trainer: MakeTrainer, loader: MemoryLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([5.0, 1.0, 3.0, 4.0])
    trainer = make_trainer(run="a", keep_checkpoints=9)
    monkeypatch.setattr(trainer.recorder, "epoch_mean", lambda: next(values))

    class Block(Callback):
        """Something is in the way of the second checkpoint."""

        def on_epoch_started(self, trainer: JEPATrainer, event: events.EpochStarted) -> None:
            trainer.saver.settle()
            if event.step == 6:
                trainer.run.checkpoints.file(12).mkdir()  # type: ignore[union-attr]

    trainer.listeners = type(trainer.listeners)([Block()])
    with pytest.warns(RuntimeWarning, match="no checkpoint could be written at step 12"):
        trainer.train(loader, num_epochs=4)
    assert trainer.saver.best == 1.0
    assert read_checkpoint(trainer.run.checkpoints.best)["position"]["step"] == 18  # type: ignore[union-attr]


def test_what_was_given_up_can_be_gone_back_to(
    make_trainer: MakeTrainer, make_model: MakeModel, loader: MemoryLoader
) -> None:
    trainer = make_trainer(
        run="a", callbacks=[At({8: [Set("learning_rate", 0.02, "hold")], 14: [Rewind("initial.pt")]})]
    )
    trainer.train(loader, max_steps=24)
    first = make_trainer(
        run="b", callbacks=[At({8: [Set("learning_rate", 0.02, "hold")], 14: [Rewind(6), Rewind(12)]})]
    )
    first.train(loader, num_epochs=4)
    whole = make_trainer(make_model(), run="whole", callbacks=[At({8: [Set("learning_rate", 0.02, "hold")]})])
    whole.train(loader, num_epochs=4)
    assert same(first, whole)
    assert replays(first, loader)
    assert not same(first, trainer)


def test_the_last_record_is_there_when_a_finished_run_is_opened_again(
    make_trainer: MakeTrainer, make_model: MakeModel, loader: MemoryLoader
) -> None:
    trainer = make_trainer(run="a", log_every=5)
    trainer.train(loader, num_epochs=2)
    again = make_trainer(make_model(seed=1), run="a", log_every=5)
    with pytest.warns(UserWarning, match="nothing to do"):
        again.train(loader, num_epochs=2)
    assert again.history.steps("loss") == trainer.history.steps("loss") == [1, 5, 10, 12]


def test_a_smaller_total_is_said(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    trainer = make_trainer(run="a", callbacks=[At({3: [Stop()]})])
    trainer.train(loader, num_epochs=5)
    with pytest.warns(UserWarning, match="was planned for 30 steps, and now for 12"):
        trainer.train(loader, num_epochs=2)
