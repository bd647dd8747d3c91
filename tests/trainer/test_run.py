"""The run folder: created late, held against other writers, continued only with the same parameters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from jepa.data import MemoryLoader
from jepa.files import read_lines
from jepa.trainer import JEPATrainer, RunConflictError, RunFolder
from jepa.trainer.run import fresh_name

MakeTrainer = Callable[..., JEPATrainer]
CONFIG: dict[str, Any] = {"training": {"learning_rate": 0.001, "betas": (0.9, 0.95)}, "objective": {"name": "x"}}


def test_nothing_is_written_before_it_opens(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a" / "run")
    assert (folder.name, folder.is_open) == ("run", False)
    folder.journal("RunStarted", 0)
    folder.record(1, 0, {"loss": 1.0})
    assert not (tmp_path / "a").exists()


def test_names_are_fresh() -> None:
    names = {fresh_name() for _ in range(50)}
    assert len(names) > 45
    assert all(name[4] == name[7] == "-" and name[10] == "_" for name in names)


def test_the_journal_counts_ticks_and_segments_over_several_openings(tmp_path: Path) -> None:
    for segment in range(3):
        folder = RunFolder(tmp_path / "run")
        folder.open(CONFIG)
        assert folder.segment == segment
        folder.journal("RunStarted", 10 * segment, total_steps=30, continues=None)
        folder.record(10 * segment + 1, segment, {"loss": 0.5})
        folder.journal("RunEnded", 10 * segment + 9)
        folder.close()
        folder.journal("Ignored", 0)
    lines = read_lines(folder.journal_path)
    assert [(line["tick"], line["segment"], line["event"], line["step"]) for line in lines] == [
        (2 * n + k, n, event, 10 * n + 9 * k) for n in range(3) for k, event in enumerate(("RunStarted", "RunEnded"))
    ]
    records = read_lines(folder.metrics_path)
    assert [(line["segment"], line["step"], line["epoch"], line["loss"]) for line in records] == [
        (n, 10 * n + 1, n, 0.5) for n in range(3)
    ]


def test_ticks_go_on_after_a_torn_line(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.open(CONFIG)
    folder.journal("RunStarted", 0, continues=None)
    folder.close()
    with folder.journal_path.open("a") as file:
        file.write('{"tick": 1, "segm')
    folder.open(CONFIG)
    folder.journal("RunStarted", 5)
    folder.close()
    assert [(line["tick"], line["segment"], line["step"]) for line in read_lines(folder.journal_path)] == [
        (0, 0, 0),
        (1, 1, 5),
    ]


def test_other_parameters_are_shown_and_leave_the_folder_free(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.open(CONFIG)
    folder.close()
    assert yaml.safe_load((folder.path / "config.yaml").read_text())["training"]["betas"] == [0.9, 0.95]
    other = {"training": {"learning_rate": 0.1, "betas": [0.9, 0.95]}, "objective": {"name": "x", "extra": 1}}
    with pytest.raises(
        RunConflictError,
        match=r"run 'run' exists with other parameters \(training.learning_rate: was 0.001, now 0.1; "
        r"objective.extra: was None, now 1\); use the same ones to continue it, or choose another run= name",
    ):
        RunFolder(tmp_path / "run").open(other)
    with pytest.raises(RunConflictError, match="learning_rate"):
        folder.open(other)
    assert not folder.is_open
    second = RunFolder(tmp_path / "run")
    second.open(CONFIG)
    second.close()


def test_other_data_is_a_conflict_unless_the_run_goes_on_in_this_process(tmp_path: Path) -> None:
    data, other = ({"samples": 100, "global_batch_size": size} for size in (8, 16))
    first = RunFolder(tmp_path / "run")
    first.open(CONFIG)  # the data is not known yet
    first.close()
    first.open({**CONFIG, "data": data})
    first.close()
    with pytest.raises(RunConflictError, match=r"data.global_batch_size: was 8, now 16\)"):
        RunFolder(tmp_path / "run").open({**CONFIG, "data": other})
    first.open({**CONFIG, "data": other})
    first.close()
    second = RunFolder(tmp_path / "run")
    second.open({**CONFIG, "data": other})
    second.close()


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    first.open(CONFIG)
    first.open(CONFIG)
    with pytest.raises(RunConflictError, match="run 'run' is being written by another trainer; stop that one first"):
        second.open(CONFIG)
    first.close()
    second.open(CONFIG)
    second.close()


HOLDER = """
import sys
from jepa.trainer import RunFolder
folder = RunFolder(sys.argv[1])
folder.open({"a": 1})
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_a_folder_that_another_process_writes_is_an_error_until_it_ends(
    make_trainer: MakeTrainer, loader: MemoryLoader, tmp_path: Path
) -> None:
    trainer = make_trainer(run="held")
    trainer.train(loader, num_epochs=1)
    path = str(tmp_path / "runs" / "held")
    (tmp_path / "runs" / "held" / "config.yaml").rename(tmp_path / "config.yaml")
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLDER, path], **pipes) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunConflictError, match="run 'held' is being written by another trainer"):
            trainer.train(loader, num_epochs=2)
        assert trainer.state == "finished"
        holder.send_signal(signal.SIGKILL)
        holder.wait(30)
    (tmp_path / "config.yaml").rename(tmp_path / "runs" / "held" / "config.yaml")
    trainer.train(loader, num_epochs=2)
    assert trainer.step == 12


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_does_not_hold_the_folder(tmp_path: Path) -> None:
    # Data loading workers are such children; they outlive a killed trainer by some seconds.
    first = RunFolder(tmp_path / "run")
    first.open(CONFIG)
    (until, end), (begun, begin) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(end)
        os.write(begin, b"!")
        os.read(until, 1)
        os._exit(0)
    try:
        assert os.read(begun, 1) == b"!"
        first.close()
        second = RunFolder(tmp_path / "run")
        second.open(CONFIG)
        second.close()
    finally:
        os.close(end)
        os.waitpid(child, 0)
        for descriptor in (until, begun, begin):
            os.close(descriptor)


def test_the_status_is_replaced_whole(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.open(CONFIG)
    for step in (1, 2):
        folder.write_status({"state": "running", "step": step})
    folder.close()
    status = json.loads(folder.status_path.read_text())
    assert (status["state"], status["step"], status["pid"]) == ("running", 2, os.getpid())
    assert not list(folder.path.rglob("*.tmp"))


def test_a_trained_run_is_complete_on_disk(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    trainer = make_trainer(run="disk", log_every=2, learning_rate=0.02)
    history = trainer.train(loader, num_epochs=2)
    run = trainer.run
    assert run is not None
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    assert config["training"]["learning_rate"] == 0.02
    assert config["objective"] == {
        "name": "state_pair",
        "normalization": "mean",
        "variance_weight": 1.0,
        "covariance_weight": 2.5,
    }
    assert config["optimizer"] == "AdamW"
    assert config["architecture"]["encoder"]["hidden_dim"] == 8
    records = read_lines(run.metrics_path)
    assert [line["loss"] for line in records if "loss" in line] == history["loss"]
    assert [line["epoch_loss"] for line in records if "epoch_loss" in line] == history["epoch_loss"]
    status = json.loads(run.status_path.read_text())
    assert (status["state"], status["step"], status["total_steps"], status["error"]) == ("finished", 12, 12, None)
    assert not run.is_open


def test_cosmetic_options_may_change_between_two_parts_of_a_run(
    make_trainer: MakeTrainer, make_model: Callable[..., Any], loader: MemoryLoader
) -> None:
    make_trainer(run="same").train(loader, num_epochs=1)
    trainer = make_trainer(
        make_model(seed=1), run="same", log_every=2, keep_checkpoints=1, diagnostics_budget=1.0, progress=True
    )
    trainer.train(loader, num_epochs=2)
    assert trainer.step == 12
