"""Back to a checkpoint, and off into a new run: both exact, both told by the journal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from jepa.data import MemoryLoader
from jepa.files import read_lines
from jepa.trainer import Callback, JEPATrainer, NonFiniteLossError, RunFolder, events, fork_run
from jepa.trainer.branching import folder_of_fork
from jepa.trainer.checkpoint import read_checkpoint
from jepa.trainer.control import Fork, Pause, Rewind, Set
from jepa.trainer.journal import Journal

MakeTrainer = Callable[..., JEPATrainer]


class At(Callback):
    """Asks for commands after certain steps, the first time that they are reached."""

    def __init__(self, **commands: Any) -> None:
        self.commands = {int(step[1:]): asked for step, asked in commands.items()}

    def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
        for command in self.commands.pop(event.step, ()):
            trainer.submit(command)


def same_weights(one: JEPATrainer, other: JEPATrainer) -> bool:
    mine, theirs = one.objective.state_dict(), other.objective.state_dict()
    return all(torch.equal(weight, theirs[name]) for name, weight in mine.items())


def test_a_rewound_run_trains_on_as_if_it_had_never_been_further(
    make_trainer: MakeTrainer, loader: MemoryLoader
) -> None:
    whole = make_trainer(run="whole")
    whole.train(loader, num_epochs=4)
    detour = At(_14=[Set("learning_rate", 0.3), Set("variance_weight", 0.0)], _21=[Rewind("step-00000012.pt")])
    rewound = make_trainer(run="rewound", callbacks=[detour])
    rewound.train(loader, num_epochs=4)
    assert rewound.step == 24
    assert same_weights(rewound, whole)
    assert rewound.history["loss"] == whole.history["loss"]
    assert rewound.run is not None
    lines = read_lines(rewound.run.journal_path)
    rewinds = [line for line in lines if line["event"] == "Rewound"]
    assert [(line["step"], line["segment"]) for line in rewinds] == [(12, 1)]
    assert not Journal(lines).edits(), "what was set on the way that was given up is not part of the run"
    records = read_lines(rewound.run.metrics_path)
    assert {record["segment"] for record in records} == {0, 1}, "what was recorded on that way is still there"


def test_a_run_can_go_back_to_its_start(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    whole = make_trainer(run="whole")
    whole.train(loader, num_epochs=2)
    back = make_trainer(run="back", callbacks=[At(_9=[Rewind("initial.pt")])])
    back.train(loader, num_epochs=2)
    assert same_weights(back, whole)
    assert [path.name for path in back.run.checkpoints.files] == ["step-00000006.pt", "step-00000012.pt"]  # type: ignore[union-attr]


def test_a_trainer_at_rest_goes_back_and_on(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    trainer = make_trainer(run="a")
    trainer.train(loader, num_epochs=3)
    end = {name: weight.clone() for name, weight in trainer.objective.state_dict().items()}
    trainer.rewind(6)
    assert (trainer.step, trainer.epoch) == (6, 1)
    trainer.train(loader, num_epochs=3)
    assert all(torch.equal(weight, end[name]) for name, weight in trainer.objective.state_dict().items())
    spans = Journal.read(trainer.run.journal_path).spans()  # type: ignore[union-attr]
    assert len(spans) == 2, "the second segment goes on from the middle of the first"


def test_a_killed_run_does_not_return_to_the_way_that_was_given_up(
    make_trainer: MakeTrainer, make_model: Callable[..., Any], loader: MemoryLoader
) -> None:
    class Die(Callback):
        def on_command_applied(self, trainer: JEPATrainer, event: events.CommandApplied) -> None:
            if event.command["type"] == "Rewind":
                raise KeyboardInterrupt

    first = make_trainer(run="a", callbacks=[At(_20=[Rewind("step-00000006.pt")]), Die()])
    with pytest.raises(KeyboardInterrupt):
        first.train(loader, num_epochs=4)
    assert first.run is not None
    folder = first.run.checkpoints
    for path in folder.path.glob("*.replaced"):
        path.replace(path.with_suffix(""))  # as if it had died before they were set aside
    assert folder.file(18).is_file()
    second = make_trainer(make_model(seed=1), run="a")
    with pytest.warns(UserWarning, match="planned for 24 steps, and now for 7"):
        second.train(loader, max_steps=7)
    assert second.step == 7


def test_a_forked_run_goes_on_in_its_own_folder_and_its_parent_can_be_continued(
    make_trainer: MakeTrainer, make_model: Callable[..., Any], loader: MemoryLoader
) -> None:
    whole = make_trainer(run="whole")
    whole.train(loader, num_epochs=4)
    trainer = make_trainer(run="parent", callbacks=[At(_14=[Fork("branch"), Set("learning_rate", 0.3, "hold")])])
    trainer.train(loader, num_epochs=4)
    assert trainer.run is not None
    assert trainer.run.name == "branch"
    assert not same_weights(trainer, whole)
    parent = RunFolder(trainer.run.path.parent / "parent")
    assert [path.name for path in parent.checkpoints.files][-1] == "step-00000014.pt"
    first, *rest = read_lines(trainer.run.journal_path)
    assert (first["event"], first["parent"], first["step"]) == ("Branched", "parent", 14)
    assert [edit.command.value for edit in Journal([first, *rest]).edits()] == [0.3]
    assert read_lines(parent.journal_path)[-1]["event"] == "Forked"
    assert trainer.run.checkpoints.initial.is_file()
    other = make_trainer(make_model(seed=1), run="parent")
    other.train(loader, num_epochs=4)
    assert same_weights(other, whole)


def test_a_fork_from_an_earlier_checkpoint_goes_back_to_it(
    make_trainer: MakeTrainer, make_model: Callable[..., Any], loader: MemoryLoader
) -> None:
    whole = make_trainer(run="whole")
    whole.train(loader, num_epochs=4)
    trainer = make_trainer(
        run="parent", callbacks=[At(_8=[Set("learning_rate", 0.3)], _14=[Fork("b", "step-00000006.pt")])]
    )
    trainer.train(loader, num_epochs=4)
    assert same_weights(trainer, whole)
    assert trainer.run is not None
    assert trainer.run.checkpoints.files[0].name == "step-00000012.pt"


def test_a_killed_fork_goes_on_from_where_it_branched_off(
    make_trainer: MakeTrainer, make_model: Callable[..., Any], loader: MemoryLoader, tmp_path: Path
) -> None:
    whole = make_trainer(run="whole")
    whole.train(loader, num_epochs=4)
    path = fork_run(tmp_path / "runs" / "whole", "branch", 12)
    assert path == tmp_path / "runs" / "branch"
    branch = make_trainer(make_model(seed=1), run="branch")
    branch.train(loader, num_epochs=4)
    assert same_weights(branch, whole)
    second = fork_run(path, "twig", "step-00000012.pt")
    twig = make_trainer(make_model(seed=2), run="twig")
    twig.train(loader, num_epochs=4)
    assert same_weights(twig, whole)
    assert read_checkpoint(second / "checkpoints" / "step-00000012.pt")["position"]["step"] == 12


def test_a_trainer_at_rest_forks(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    trainer = make_trainer(run="a")
    trainer.train(loader, num_epochs=2)
    path = trainer.fork("b", 6)
    assert trainer.run is not None
    assert (trainer.run.path, trainer.step) == (path, 6)
    trainer.train(loader, num_epochs=2)
    assert trainer.step == 12
    assert Journal.read(trainer.run.journal_path).spans()[0][0] == 0


@pytest.mark.parametrize("name", ["../away", "a/b", "", ".hidden", "taken"])
def test_a_fork_has_a_new_plain_name(name: str, tmp_path: Path) -> None:
    (tmp_path / "taken").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"plain name|already a run"):
        folder_of_fork(RunFolder(tmp_path / "parent"), name)


def test_impossible_wishes_are_refused_and_change_nothing(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    trainer = make_trainer(run="a", callbacks=[At(_3=[Pause()])])
    run = trainer.start(loader, num_epochs=2, wait=False)
    while run.state != "paused":
        pass
    for ask, match in (
        (lambda: run.rewind(5).result(), "no checkpoint 'step-00000005.pt'; it has initial.pt"),
        (lambda: trainer.submit(Rewind("../../x.pt")).result(), "no checkpoint"),
        (lambda: run.fork("a").result(), "already a run 'a'"),
        (lambda: run.fork("../x").result(), "plain name"),
    ):
        with pytest.raises(ValueError, match=match):
            ask()
    assert (run.state, trainer.step) == ("paused", 3)
    run.resume()
    run.wait(60)
    with pytest.raises(ValueError, match="nothing to rewind without a run folder"):
        make_trainer().rewind(3)


def test_a_fork_that_cannot_be_made_leaves_nothing(
    make_trainer: MakeTrainer, loader: MemoryLoader, tmp_path: Path
) -> None:
    trainer = make_trainer(run="a")
    trainer.train(loader, num_epochs=1)
    with pytest.raises(ValueError, match="no checkpoint"):
        fork_run(tmp_path / "runs" / "a", "b", 5)
    (tmp_path / "runs" / "empty").mkdir()
    with pytest.raises(ValueError, match="is not the folder of a run"):
        fork_run(tmp_path / "runs" / "empty", "b")
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["a", "empty"]


def test_an_edit_that_broke_the_run_is_not_made_again(
    make_trainer: MakeTrainer, make_model: Callable[..., Any], loader: MemoryLoader, slow_disk: None
) -> None:
    deadly = At(_8=[Set("learning_rate", 1000.0, "hold"), Set("weight_decay", 1000.0, "hold")])
    first = make_trainer(run="a", callbacks=[deadly], clip_grad_norm=None)
    with pytest.raises(NonFiniteLossError, match=r"last good checkpoint is .*step-0000000.\.pt"):
        first.train(loader, num_epochs=30)
    second = make_trainer(make_model(seed=1), run="a", clip_grad_norm=None)
    with pytest.warns(RuntimeWarning, match=r"not finite after learning_rate=1000 at step 8.*not set again"):
        second.train(loader, num_epochs=30)
    assert second.step == 180
