"""A run done again by a machine: equal weights, whatever was done to the first one by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch

import jepa
from jepa import JEPA, Encoder, JEPATrainer, Predictor, create_trainer
from jepa.batch import run_notebook
from jepa.cli.__main__ import main
from jepa.data import MemoryLoader
from jepa.trainer import Callback, CheckpointError, RunHandle, events
from jepa.trainer.control import Fork, Pause, Resume, Rewind, Set, Step, Stop
from jepa.trainer.journal import Journal
from jepa.trainer.live import LIVE_TRAINERS

SILENT: dict[str, Any] = {"live_plot": False, "control_panel": False, "progress": False, "device": "cpu"}
Make = Callable[..., JEPATrainer]


@pytest.fixture
def loader() -> MemoryLoader:
    states = torch.randn(48, 4, generator=torch.Generator().manual_seed(7))
    return MemoryLoader(states, states.roll(1, 0), batch_size=8)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    def build(run: Any = "run", **options: Any) -> JEPATrainer:
        model = JEPA(Encoder(8, 4, depth=1), Predictor(8, depth=1))
        return create_trainer(model, run=run, runs_dir=tmp_path, **{**SILENT, **options})

    yield build
    for trainer in list(LIVE_TRAINERS):
        RunHandle(trainer).stop()
        assert trainer.ended.wait(30)


class At(Callback):
    def __init__(self, commands: dict[int, list[Any]]) -> None:
        self.commands = commands

    def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
        for command in self.commands.pop(event.step, ()):
            trainer.submit(command)


HANDS = {
    4: [Pause(), Step(2), Resume()],
    7: [Set("learning_rate", 3e-4), Set("ema_momentum", 0.9, "hold")],
    11: [Set("variance_weight", 0.5), Set("weight_decay", 0.2, "schedule")],
    12: [Set("ema_momentum", 0.95, "schedule")],
    20: [Set("learning_rate", 5e-3, "hold")],
    22: [Rewind("step-00000012.pt")],
}


def test_a_run_steered_by_hand_is_repeated_by_a_machine(make: Make, loader: MemoryLoader, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = make(
        callbacks=[
            At({step: list(asked) for step, asked in HANDS.items()} | {14: [Set("covariance_weight", 0.3, "schedule")]})
        ]
    )
    first.train(loader, num_epochs=5)
    torch.manual_seed(2)
    again = jepa.replay(tmp_path / "run", loader=loader, device="cpu")
    assert (again.step, again.difference, again.equal) == (30, 0.0, True)
    assert again.trainer.history["loss"] == first.history["loss"]
    assert again.trainer.run is not None
    assert again.trainer.run.path.parent == tmp_path
    torch.manual_seed(3)
    plain = make("plain")
    plain.train(loader, num_epochs=5)
    assert not torch.equal(plain.model.encode(torch.ones(1, 4)), first.model.encode(torch.ones(1, 4)))


def test_a_run_that_was_stopped_killed_and_planned_anew_is_repeated(
    make: Make, loader: MemoryLoader, tmp_path: Path
) -> None:
    class Die(Callback):
        def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
            if event.step == 16:
                trainer.saver.saved_step = trainer.step  # nothing is rescued, as after a kill
                raise KeyboardInterrupt

    first = make(callbacks=[At({8: [Set("learning_rate", 2e-5, "schedule")], 9: [Stop()]})])
    first.train(loader, num_epochs=2)
    assert first.step == 9
    second = make(
        callbacks=[At({13: [Set("ema_momentum", 0.8, "schedule")], 15: [Set("variance_weight", 0.2)]}), Die()]
    )
    with pytest.raises(KeyboardInterrupt):
        second.train(loader, num_epochs=4)
    third = make()
    third.train(loader, num_epochs=4)
    again = jepa.replay(tmp_path / "run", loader=loader, device="cpu")
    assert again.equal
    assert again.step == 24


def test_a_fork_is_repeated_without_its_parent(make: Make, loader: MemoryLoader, tmp_path: Path) -> None:
    import shutil

    commands = {3: [Set("learning_rate", 2e-3)], 8: [Fork("branch")], 10: [Set("ema_momentum", 0.5, "hold")]}
    make(callbacks=[At(commands)]).train(loader, num_epochs=3)
    shutil.rmtree(tmp_path / "run")
    again = jepa.replay(tmp_path / "branch", loader=loader, device="cpu", name="again")
    assert (again.equal, again.step) == (True, 18)
    with pytest.raises(ValueError, match="already a run 'again'"):
        jepa.replay(tmp_path / "branch", loader=loader, device="cpu", name="again")


def test_in_a_replay_only_the_journal_steers(make: Make, loader: MemoryLoader, tmp_path: Path) -> None:
    make(callbacks=[At({5: [Set("learning_rate", 2e-3)]})]).train(loader, num_epochs=2)
    steered = make(
        "other", callbacks=[At({2: [Set("learning_rate", 0.5)], 3: [Stop(), Pause()], 7: [Rewind("initial.pt")]})]
    )
    again = jepa.replay(tmp_path / "run", loader=loader, trainer=steered)
    assert (again.equal, again.step) == (True, 12)
    steered.train(loader, num_epochs=3)
    assert steered.step == 18, "afterwards it is a trainer like any other"


def test_a_scheduler_of_ones_own_needs_the_trainer(make: Make, loader: MemoryLoader, tmp_path: Path) -> None:
    def own(run: str) -> JEPATrainer:
        base = make(run)
        model = base.model
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
        return JEPATrainer(model, optimizer, scheduler, run=base.run, config=base.config)

    own("run").train(loader, num_epochs=2)
    with pytest.raises(ValueError, match=r"has an optimizer or a scheduler of its own \(SGD\): pass trainer="):
        jepa.replay(tmp_path / "run", loader=loader)
    assert jepa.replay(tmp_path / "run", loader=loader, trainer=own("again")).equal


def test_modules_of_ones_own_need_the_model(loader: MemoryLoader, tmp_path: Path) -> None:
    def model() -> JEPA:
        return JEPA(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.2)), torch.nn.Linear(8, 8))

    create_trainer(model(), run=tmp_path / "run", **SILENT).train(loader, num_epochs=2)
    with pytest.raises(ValueError, match="model="):
        jepa.replay(tmp_path / "run", loader=loader, device="cpu")
    assert jepa.replay(tmp_path / "run", model(), loader, device="cpu").equal
    with pytest.raises(CheckpointError, match="does not fit"):
        jepa.replay(tmp_path / "run", JEPA(torch.nn.Linear(4, 9), torch.nn.Linear(9, 9)), loader, device="cpu")


def test_what_a_replay_lacks_is_named(make: Make, loader: MemoryLoader, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not the folder of a run"):
        jepa.replay(tmp_path / "none", loader=loader)
    trainer = make()
    trainer.train(loader, num_epochs=1)
    with pytest.raises(ValueError, match="pass loader="):
        jepa.replay(tmp_path / "run", device="cpu")
    with pytest.raises(ValueError, match=r"other data: it had .*'global_batch_size': 8.*'global_batch_size': 4"):
        jepa.replay(tmp_path / "run", loader=MemoryLoader(*loader.arrays, batch_size=4), device="cpu")
    assert trainer.run is not None
    trainer.run.checkpoints.initial.unlink()
    with pytest.raises(ValueError, match=r"needs checkpoints/initial.pt"):
        jepa.replay(tmp_path / "run", loader=loader)


@pytest.mark.slow
def test_a_run_from_a_configuration_needs_nothing_but_its_folder(tmp_path: Path) -> None:
    config = tmp_path / "train.yaml"
    assert main(["generate-config", "--output", str(config)]) == 0
    options = ["--name", "a", "--runs-dir", str(tmp_path), "--device", "cpu", "data.num_steps=600", "num_epochs=2"]
    assert main(["train", "--config", str(config), *options]) == 0
    again = jepa.replay(tmp_path / "a", device="cpu")
    assert again.equal
    assert again.step > 10
    assert again.run is not None
    assert (again.run / "experiment.yaml").is_file()


NOTEBOOK = """
import torch
from jepa import JEPA, Encoder, Predictor, create_trainer
from jepa.data import MemoryLoader

torch.manual_seed(seed)
states = torch.randn(48, 4)
trainer = create_trainer(JEPA(Encoder(8, 4, depth=1), Predictor(8, depth=1)), device="cpu", progress=False)
run = trainer.start(MemoryLoader(states, states.roll(1, 0), batch_size=8), num_epochs=40, wait=False)
await run.until(step=20)
run.set("learning_rate", 2e-3)
run.set("ema_momentum", 0.7, "hold")
history = await run
"""


@pytest.mark.slow
def test_a_batch_run_steered_by_its_notebook_needs_nothing_but_its_folder(tmp_path: Path) -> None:
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    parameters = nbformat.v4.new_code_cell("seed = 0", metadata={"tags": ["parameters"]})
    notebook.cells = [parameters, nbformat.v4.new_code_cell(NOTEBOOK)]
    nbformat.write(notebook, tmp_path / "steered.ipynb")
    first = run_notebook(tmp_path / "steered.ipynb", {"seed": 3}, name="a", runs_dir=tmp_path)
    assert first.exit_code == 0, first.error
    (tmp_path / "steered.ipynb").unlink()
    edits = Journal.read(tmp_path / "a" / "journal.jsonl").edits()
    assert [edit.command.name for edit in edits] == ["learning_rate", "ema_momentum"]
    again = jepa.replay(tmp_path / "a")
    assert (again.equal, again.step) == (True, 240)
    assert again.trainer is None
    assert again.run is not None
    repeated = Journal.read(again.run / "journal.jsonl")
    assert [line["source"] for line in repeated.lines if line["event"] == "CommandApplied"].count("journal") == 2
