"""A model changed by hand while its run is paused: found, kept, and made again."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jepa
from jepa.data import MemoryLoader
from jepa.files import read_lines
from jepa.trainer import Callback, JEPATrainer, RunHandle, by_hand, events
from jepa.trainer.branching import link_edits
from jepa.trainer.by_hand import fingerprints, weighed_sum
from jepa.trainer.checkpoint import read_checkpoint
from jepa.trainer.control import EditedByHand, SaveCheckpoint
from jepa.trainer.journal import Edit

Make = Callable[..., Any]
LAST = 18  # steps


class Die(Callback):
    """Ends the run at a step and keeps nothing, as a kill does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
        if event.step == self.step:
            trainer.saver.saved_step = trainer.step
            raise KeyboardInterrupt


def paused(trainer: JEPATrainer, loader: MemoryLoader, gate: Any, step: int = 4) -> RunHandle:
    """A run that is paused after so many steps; the callback `gate` holds it there."""
    run = trainer.start(loader, max_steps=LAST, wait=False)
    assert gate.reached.wait(30)
    ticket = run.pause()
    gate.opened.set()
    ticket.result(30)
    assert trainer.step == step
    return run


@torch.no_grad()
def halve(run: RunHandle) -> Tensor:
    """Change two tensors, and tell what became of the first."""
    first, second = list(run.model.encoder.parameters())[:2]
    first.mul_(0.5)
    second.add_(1.0)
    return first.clone()


def lines(trainer: JEPATrainer, event: str) -> list[Any]:
    assert trainer.run is not None
    return [line for line in read_lines(trainer.run.journal_path) if line["event"] == event]


def same(one: JEPATrainer, other: JEPATrainer) -> bool:
    theirs = other.objective.state_dict()
    return all(torch.equal(weight, theirs[name]) for name, weight in one.objective.state_dict().items())


def test_the_model_is_given_only_while_nothing_changes_it(
    make_trainer: Make, make_gate: Make, loader: MemoryLoader
) -> None:
    gate = make_gate(4)
    trainer = make_trainer(callbacks=[gate])
    run = trainer.start(loader, max_steps=LAST, wait=False)
    assert gate.reached.wait(30)
    with pytest.raises(RuntimeError, match=r"running at step 4.*run\.pause\(\)\.result\(\).*run\.inspect\(\)"):
        _ = run.model
    ticket = run.pause()
    gate.opened.set()
    ticket.result(30)
    assert run.model is trainer.model
    run.resume()
    run.wait(30)
    assert run.model is trainer.model


def test_a_change_is_written_down_and_a_replay_makes_it_again(
    make_trainer: Make, make_gate: Make, loader: MemoryLoader, tmp_path: Path
) -> None:
    gate = make_gate(4)
    trainer = make_trainer(run="a", callbacks=[gate])
    heard: list[events.Event] = []
    trainer.subscribe(heard.append)
    run = paused(trainer, loader, gate)
    names = [f"model.encoder.{name}" for name, _ in list(run.model.encoder.named_parameters())[:2]]
    halve(run)
    run.resume().result(30)
    run.wait(30)
    (line,) = lines(trainer, "EditedByHand")
    assert (line["step"], line["tensors"], line["count"]) == (4, names, 2)
    told = [event for event in heard if isinstance(event, events.CommandApplied) and event.source == "hand"]
    assert [event.result for event in told] == [{"tensors": names, "count": 2}]
    again = jepa.replay(tmp_path / "runs" / "a", loader=loader, device="cpu")
    assert (again.step, again.equal) == (LAST, True)
    third = jepa.replay(again.run, loader=loader, device="cpu")  # type: ignore[arg-type]
    assert third.equal, "a replay holds all that it needs to be replayed itself"


def test_nothing_is_written_down_where_nothing_was_changed(
    make_trainer: Make, make_gate: Make, make_model: Make, loader: MemoryLoader
) -> None:
    gate = make_gate(4)
    whole, trainer = make_trainer(run="whole"), make_trainer(make_model(), run="a", callbacks=[gate])
    whole.train(loader, max_steps=LAST)
    run = paused(trainer, loader, gate)
    run.model.eval()
    randomness = torch.get_rng_state()
    torch.randn(3)
    run.model.encoder(torch.randn(5, 4)).sum().backward()  # gradients that the next step must not see
    for ticket in (run.set("weight_decay", 0.05), run.checkpoint(), run.step(2)):
        ticket.result(30)
    assert torch.equal(torch.get_rng_state(), randomness)
    run.resume()
    run.wait(30)
    assert not lines(trainer, "EditedByHand")
    assert trainer.objective.training
    assert same(trainer, whole)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_killed_run_takes_the_change_up_again(
    when: str, make_trainer: Make, make_gate: Make, make_model: Make, loader: MemoryLoader, tmp_path: Path
) -> None:
    def steer(name: str, *callbacks: Callback) -> RunHandle:
        gate = make_gate(4)
        run = paused(
            make_trainer(make_model(), run=name, checkpoint_every=9, callbacks=[gate, *callbacks]), loader, gate
        )
        if when == "before":
            run.checkpoint().result(30)  # of the state before the change, at the same step
        halve(run)
        if when == "after":
            run.checkpoint().result(30)
        run.resume().result(30)
        return run

    whole = steer("whole")
    whole.wait(30)
    with pytest.raises(KeyboardInterrupt):
        steer("a", Die(9)).wait(30)
    second = make_trainer(make_model(seed=1), run="a", checkpoint_every=9)
    second.train(loader, max_steps=LAST)
    assert same(second, whole.trainer)
    assert len(lines(second, "EditedByHand")) == 1
    assert len(lines(second, "RunStarted")[1]["repeats"]) == (when == "before")
    assert jepa.replay(tmp_path / "runs" / "a", loader=loader, device="cpu").equal


def test_two_changes_in_one_pause_and_a_fork_are_repeated(
    make_trainer: Make, make_gate: Make, loader: MemoryLoader, tmp_path: Path
) -> None:
    import shutil

    gate = make_gate(4)
    trainer = make_trainer(run="a", callbacks=[gate])
    run = paused(trainer, loader, gate)
    halve(run)
    run.step(1).result(30)
    halve_again = run.pause()
    halve_again.result(30)
    halve(run)
    run.fork("branch").result(30)
    run.resume()
    run.wait(30)
    assert len(lines(trainer, "EditedByHand")) == 0, "they are of the parent"
    shutil.rmtree(tmp_path / "runs" / "a")
    assert jepa.replay(tmp_path / "runs" / "branch", loader=loader, device="cpu").equal


def test_going_back_is_no_change_by_hand(make_trainer: Make, make_gate: Make, loader: MemoryLoader) -> None:
    gate = make_gate(8)
    trainer = make_trainer(run="a", callbacks=[gate])
    run = paused(trainer, loader, gate, step=8)
    halve(run)
    run.rewind(6).result(30)
    run.resume()
    run.wait(30)
    assert not lines(trainer, "EditedByHand")


def test_a_stop_keeps_the_change_in_its_checkpoint(make_trainer: Make, make_gate: Make, loader: MemoryLoader) -> None:
    gate = make_gate(4)
    trainer = make_trainer(run="a", callbacks=[gate])
    run = paused(trainer, loader, gate)
    run.checkpoint().result(30)
    weight = halve(run)
    run.stop()
    run.wait(30)
    again = make_trainer(run="b")
    again.load_checkpoint(trainer.last_checkpoint)
    assert torch.equal(next(again.model.encoder.parameters()), weight)


def _added(model: Any) -> None:
    model.encoder.adapter = nn.Linear(2, 2)


def _replaced(model: Any) -> None:
    name, weight = next((n, p) for n, p in model.encoder.named_parameters() if "." in n)
    owner, _, last = name.rpartition(".")
    setattr(model.encoder.get_submodule(owner), last, nn.Parameter(weight.detach().clone()))


def _frozen(model: Any) -> None:
    next(model.encoder.parameters()).requires_grad_(False)


@pytest.mark.parametrize(
    ("change", "what"), [(_added, "adapter.* added"), (_replaced, "replaced by another"), (_frozen, "requires_grad")]
)
def test_a_model_that_was_rebuilt_does_not_go_on(
    change: Callable[[Any], None], what: str, make_trainer: Make, make_gate: Make, loader: MemoryLoader
) -> None:
    gate = make_gate(4)
    trainer = make_trainer(run="a", callbacks=[gate])
    run = paused(trainer, loader, gate)
    change(run.model)
    with pytest.raises(ValueError, match=rf"rebuilt while the run was paused: .*{what}.*in place"):
        run.resume().result(30)
    assert run.state == "paused"
    with pytest.raises(ValueError, match="rebuilt"):
        run.stop().result(30)
    assert trainer.ended.wait(30)
    assert not trainer.run.checkpoints.files, "nothing is kept of a model that the run does not have"


def test_a_change_that_is_undone_lets_the_run_go_on(make_trainer: Make, make_gate: Make, loader: MemoryLoader) -> None:
    gate = make_gate(4)
    run = paused(make_trainer(run="a", callbacks=[gate]), loader, gate)
    weight = next(run.model.encoder.parameters())
    weight.requires_grad_(False)
    with pytest.raises(ValueError, match="requires_grad"):
        run.resume().result(30)
    weight.requires_grad_(True)
    run.resume().result(30)
    run.wait(30)


def test_a_full_disk_refuses_what_goes_on_and_lets_the_run_end(
    make_trainer: Make, make_gate: Make, loader: MemoryLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(state: Any, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    gate = make_gate(4)
    trainer = make_trainer(run="a", callbacks=[gate])
    run = paused(trainer, loader, gate)
    monkeypatch.setattr(by_hand, "write_checkpoint", full)
    weight = halve(run)
    with pytest.raises(OSError, match="No space left"):
        run.resume().result(30)
    assert run.state == "paused"
    assert torch.equal(next(run.model.encoder.parameters()), weight)
    with pytest.warns(RuntimeWarning, match="changed by hand at step 4 could not be kept"):
        run.stop().result(30)
    assert trainer.ended.wait(30)


def test_a_change_whose_file_is_gone_ends_the_run_that_needs_it(
    make_trainer: Make, make_gate: Make, make_model: Make, loader: MemoryLoader
) -> None:
    gate = make_gate(4)
    trainer = make_trainer(run="a", checkpoint_every=9, callbacks=[gate, Die(9)])
    run = paused(trainer, loader, gate)
    halve(run)
    run.resume()
    with pytest.raises(KeyboardInterrupt):
        run.wait(30)
    (file,) = trainer.run.checkpoints.path.glob("edited-*")
    file.rename(file.with_suffix(".away"))
    second = make_trainer(make_model(seed=1), run="a", checkpoint_every=9)
    with pytest.raises(FileNotFoundError, match=file.name):
        second.train(loader, max_steps=LAST)
    file.with_suffix(".away").rename(file)
    third = make_trainer(make_model(seed=2), run="a", checkpoint_every=9)
    third.train(loader, max_steps=LAST)
    assert jepa.replay(trainer.run.path, loader=loader, device="cpu").equal


@pytest.mark.parametrize("place", ["../../secret.pt", "/tmp/secret.pt", ".hidden.pt", ""])
def test_a_journal_that_names_weights_elsewhere_is_refused(
    make_trainer: Make, make_gate: Make, make_model: Make, loader: MemoryLoader, place: str
) -> None:
    gate = make_gate(4)
    trainer = make_trainer(run="a", checkpoint_every=9, callbacks=[gate, Die(9)])
    run = paused(trainer, loader, gate)
    halve(run)
    run.resume()
    with pytest.raises(KeyboardInterrupt):
        run.wait(30)
    (file,) = trainer.run.checkpoints.path.glob("edited-*")
    journal = trainer.run.journal_path
    journal.write_text(journal.read_text().replace(file.name, place))
    with pytest.raises(ValueError, match="under a plain name, got"):
        link_edits([Edit(4, EditedByHand(place))], trainer.run.checkpoints.path, trainer.run.path)
    with pytest.raises(ValueError, match="under a plain name, got"):
        make_trainer(make_model(seed=1), run="a", checkpoint_every=9).train(loader, max_steps=LAST)


def test_a_run_without_a_folder_goes_on_with_the_change(
    make_trainer: Make, make_gate: Make, loader: MemoryLoader
) -> None:
    gate = make_gate(4)
    trainer = make_trainer(callbacks=[gate])
    heard: list[Any] = []
    trainer.subscribe(lambda event: heard.append(event) if getattr(event, "source", "") == "hand" else None)
    run = paused(trainer, loader, gate)
    halve(run)
    run.resume()
    run.wait(30)
    assert [event.result["count"] for event in heard] == [2]


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "one bit": lambda x: x.index_put((torch.tensor([3]), torch.tensor([5])), torch.nextafter(x[3, 5], x[0, 0] + 9)),
    "sign of all": torch.neg,
    "rows swapped": lambda x: x.flip(0),
    "columns swapped": lambda x: x.flip(1),
    "constant": lambda x: torch.full_like(x, 2.0),
    "zero": torch.zeros_like,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("begin", [torch.randn, torch.ones])
def test_fingerprints_see_any_change(change: Any, dtype: torch.dtype, begin: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(by_hand, "CHUNK", 7)  # the weights of large models come in several chunks
    x = begin(6, 8, dtype=dtype)
    other = change(x)
    different = not torch.equal(x, other)
    assert (fingerprints({"x": x}) != fingerprints({"x": other})) is different
    assert (int(weighed_sum(x)) != int(weighed_sum(other))) is different


def test_fingerprints_take_any_tensor() -> None:
    kinds = [torch.tensor(3), torch.tensor(True), torch.empty(0), torch.ones(2, 3).T, torch.ones(2, dtype=torch.int8)]
    tensors = {str(number): tensor for number, tensor in enumerate(kinds)}
    assert fingerprints(tensors).keys() == tensors.keys()
    for tensor in kinds:
        assert weighed_sum(tensor).shape == ()


def test_a_checkpoint_asked_for_in_the_pause_holds_the_change(
    make_trainer: Make, make_gate: Make, loader: MemoryLoader, tmp_path: Path
) -> None:
    gate = make_gate(4)
    trainer = make_trainer(run="a", callbacks=[gate])
    run = paused(trainer, loader, gate)
    weight = halve(run)
    path = tmp_path / "changed.pt"
    trainer.submit(SaveCheckpoint(path)).result(30)
    kept = read_checkpoint(path)["objective_state"]
    name = next(name for name, _ in run.model.encoder.named_parameters())
    assert torch.equal(kept[f"model.encoder.{name}"], weight)
    assert len(lines(trainer, "EditedByHand")) == 1
