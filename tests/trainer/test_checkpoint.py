"""Checkpoint files: never partial, read without running any code, and the newest valid one is found."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from jepa.data import MemoryLoader
from jepa.trainer import CheckpointError, JEPATrainer
from jepa.trainer.checkpoint import (
    FORMAT,
    CheckpointFolder,
    check_fits,
    random_state,
    read_checkpoint,
    restore_random_state,
    write_checkpoint,
)

MakeTrainer = Callable[..., JEPATrainer]


def save(folder: CheckpointFolder, state: dict[str, Any], step: int, *, best: bool = False) -> Path:
    path = write_checkpoint(state, folder.file(step))
    folder.keep_only_wanted(path, step, best=best)
    return path


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    state = {"x": torch.arange(3.0), "nested": {"list": [1, 2.5, "three", None, True]}}
    path = write_checkpoint(state, tmp_path / "new" / "a.pt")
    read = read_checkpoint(path)
    assert read.pop("format") == FORMAT
    assert torch.equal(read.pop("x"), state["x"])  # type: ignore[arg-type]
    assert read == {"nested": state["nested"]}
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_checkpoint({"x": 1}, tmp_path / "a.pt")
    before = path.read_bytes()
    with pytest.raises(TypeError, match=r"plain values only, and x is a builtins.function"):
        write_checkpoint({"x": lambda: None}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*none.pt \(looked from "):
        read_checkpoint(tmp_path / "none.pt")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_named(share: float, tmp_path: Path) -> None:
    path = write_checkpoint({"x": torch.randn(1000)}, tmp_path / "a.pt")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"a.pt is truncated or damaged \(.* bytes\): .*; load an earlier"):
        read_checkpoint(path)


def test_a_flipped_bit_in_a_tensor_is_found(tmp_path: Path) -> None:
    path = write_checkpoint({"x": torch.zeros(1000)}, tmp_path / "a.pt")
    content = bytearray(path.read_bytes())
    content[content.index(bytes(2000)) + 1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checksum of '.*/data/0' is wrong; load an earlier checkpoint"):
        read_checkpoint(path)


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("container", ["zip", "pickle"])
def test_a_malicious_pickle_is_refused_and_never_run(container: str, tmp_path: Path) -> None:
    path, target = tmp_path / "evil.pt", tmp_path / "owned"
    if container == "zip":
        torch.save({"format": FORMAT, "x": Malicious(target)}, path)
    else:
        path.write_bytes(pickle.dumps({"format": FORMAT, "x": Malicious(target)}))
    with pytest.raises(CheckpointError, match=r"evil.pt is (not a checkpoint that can be loaded safely|truncated)"):
        read_checkpoint(path)
    assert not target.exists()
    torch.load(path, weights_only=False) if container == "zip" else pickle.loads(path.read_bytes())
    assert target.exists(), "the file really is malicious"


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="was not written by a trainer; for exported weights use from_pretrained"):
        read_checkpoint(tmp_path / "weights.pt")
    torch.save({"format": FORMAT + 1}, tmp_path / "future.pt")
    with pytest.raises(CheckpointError, match=f"has format {FORMAT + 1}, newer than {FORMAT}: update jepa-lab"):
        read_checkpoint(tmp_path / "future.pt")


def test_a_misfit_is_described_and_changes_nothing() -> None:
    module = nn.Linear(3, 2)
    before = module.weight.clone()
    with pytest.raises(
        CheckpointError,
        match=r"x.pt does not fit this model: missing bias; unexpected extra; "
        r"weight is \(2, 4\), the model has \(2, 3\)",
    ):
        check_fits(module, {"weight": torch.ones(2, 4), "extra": torch.ones(1)}, "x.pt")
    assert torch.equal(module.weight, before)
    check_fits(module, module.state_dict(), "x.pt")


def test_the_newest_few_and_the_best_stay(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints", keep=2)
    assert folder.files == []
    assert folder.newest_valid() is None
    for step in (1, 5, 20, 100):
        save(folder, {"step": step}, step, best=step == 5)
    assert [path.name for path in folder.files] == ["step-00000020.pt", "step-00000100.pt"]
    assert read_checkpoint(folder.best)["step"] == 5
    newest = folder.newest_valid()
    assert newest is not None
    assert (newest[0], newest[1]["step"]) == (folder.file(100), 100)


def test_saving_again_replaces_and_keeps_the_best_one_apart(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    save(folder, {"try": 1}, 7, best=True)
    save(folder, {"try": 2}, 7)
    assert read_checkpoint(folder.file(7))["try"] == 2
    assert read_checkpoint(folder.best)["try"] == 1


def test_later_steps_of_a_run_that_went_back_are_set_aside(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    for step in (10, 20, 30):
        save(folder, {"step": step}, step)
    assert save(folder, {"step": 11}, 11).is_file()
    assert folder.files == [folder.file(11)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000011.pt",
        "step-00000020.pt.replaced",
        "step-00000030.pt.replaced",
    ]


def test_what_was_just_written_stays_beside_later_steps(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    for step in (10, 20, 30):
        save(folder, {"step": step}, step)
    path = save(folder, {"step": 0}, 0)
    assert read_checkpoint(path)["step"] == 0
    assert folder.files == [folder.file(0), folder.file(20), folder.file(30)]


def test_one_checkpoint_in_so_many_steps_stays_for_good(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2, keep_every=100)
    for step in range(30, 400, 30):
        save(folder, {"step": step}, step)
    assert [int(file.stem[5:]) for file in folder.files] == [120, 210, 300, 360, 390]


def test_what_was_set_aside_does_not_pile_up(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    for start in range(5):
        for step in (10, 20 + start, 30 + start):
            save(folder, {"step": step}, step)
    assert len(list(tmp_path.glob("*.replaced"))) == 2


def test_a_checkpoint_is_found_by_step_or_name_inside_the_folder_only(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    path = save(folder, {"step": 7}, 7)
    outside = write_checkpoint({"step": 8}, tmp_path / "outside.pt")
    assert folder.find(7) == folder.find(path.name) == folder.find(path) == path
    (folder.path / "step-00000009.pt").symlink_to(outside)
    for wanted in (8, "step-00000008.pt", "../outside.pt", outside, "step-00000009.pt", "", ".", "checkpoints"):
        with pytest.raises(ValueError, match=r"has no checkpoint .*; it has step-00000007.pt"):
            folder.find(wanted)


def test_broken_checkpoints_are_skipped_with_a_warning_and_kept_aside(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for step in (1, 2, 3):
        save(folder, {"step": step}, step)
    broken = {}
    for step, size in ((2, 10), (3, 400)):
        broken[step] = folder.file(step).read_bytes()[:size]
        folder.file(step).write_bytes(broken[step])
    with pytest.warns(RuntimeWarning, match=r"truncated or damaged.*kept aside as step-0000000\d.pt.broken") as warned:
        newest = folder.newest_valid()
    assert len(warned) == 2
    assert newest is not None
    assert newest[1]["step"] == 1
    for step, content in broken.items():
        assert folder.file(step).with_suffix(".pt.broken").read_bytes() == content


def test_a_run_goes_on_from_the_last_good_checkpoint(
    make_trainer: MakeTrainer, make_model: Callable[..., Any], loader: MemoryLoader
) -> None:
    whole = make_trainer(run="whole")
    whole.train(loader, num_epochs=4)
    first = make_trainer(run="damaged")
    first.train(loader, num_epochs=4)
    path = first.run.checkpoints.file(24)  # type: ignore[union-attr]
    path.write_bytes(path.read_bytes()[:-100])
    second = make_trainer(make_model(seed=1), run="damaged")
    with pytest.warns(RuntimeWarning, match="step-00000024.pt is truncated or damaged"):
        second.train(loader, num_epochs=4)
    for name, weight in whole.objective.state_dict().items():
        assert torch.equal(weight, second.objective.state_dict()[name]), name


def test_random_generators_go_back(tmp_path: Path) -> None:
    def draw() -> tuple[Any, ...]:
        return (
            torch.rand(3).tolist(),
            random.random(),
            random.gauss(0, 1),
            np.random.rand(3).tolist(),
            np.random.randn(),
        )

    draw()
    path = write_checkpoint({"random": random_state()}, tmp_path / "r.pt")
    expected = draw(), draw()
    draw()
    restore_random_state(read_checkpoint(path)["random"])
    assert (draw(), draw()) == expected
