"""Disks that are full, read-only or limited: training goes on, and what was missed is made up for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jepa.files import JSONLines, read_lines
from jepa.trainer import Callback, CheckpointError, JEPATrainer, events
from jepa.trainer.checkpoint import read_checkpoint
from jepa.trainer.control import Pause, Resume, Set, Stop, Ticket
from tests.faults import runs

Mount = Callable[..., Path]
ROOM = "size=24m"  # for a run's six checkpoints of 3 MB
FULL_AT, FREE_AT = 50, 86


@pytest.fixture
def disk(mount: Mount) -> Path:
    """A disk that is just large enough for the run."""
    return mount("-t", "tmpfs", "-o", ROOM, "tmpfs")


def fill(disk: Path) -> None:
    """Leave not a byte."""
    with (disk / "ballast").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


class Between(Callback):
    """Does something after one step, and something else after another; notes the newest good checkpoints in between."""

    def __init__(self, first: Callable[[], object], then: Callable[[], object] | None = None) -> None:
        self._first, self._then = first, then
        self.good: set[str] = set()

    def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
        assert trainer.run is not None
        if event.step == FULL_AT:
            trainer.saver.settle()
            self._first()
        if event.step == FREE_AT:
            trainer.saver.settle()
            self.good = {path.name for path in trainer.run.checkpoints.files if is_good(path)}
            if self._then is not None:
                self._then()


def is_good(path: Path) -> bool:
    try:
        read_checkpoint(path)
    except CheckpointError:
        return False
    return True


def assert_went_on(path: Path, trouble: Between, undisturbed: dict[str, Any]) -> None:
    """The last good checkpoint stayed, later ones were written, and the run ended with everything."""
    assert trouble.good == {f"step-{step:08d}.pt" for step in (36, 42, 48)}
    runs.assert_whole(path, undisturbed)
    runs.assert_all_recorded(path, undisturbed)
    lines = read_lines(path / "journal.jsonl")
    saved = [line["step"] for line in lines if line["event"] == "CheckpointSaved"]
    failed = [line["step"] for line in lines if line["event"] == "CheckpointFailed"]
    assert (saved, failed) == ([*range(6, 49, 6), *range(90, 121, 6)], [54, 60, 66, 72, 78, 84])
    assert json.loads((path / "status.json").read_text())["state"] == "finished"


def assert_said(why: str, sentences: list[str]) -> None:
    """That checkpoints could not be written was told, with the reason and what is left."""
    failed = [sentence for sentence in sentences if sentence.startswith("no checkpoint could be written at step ")]
    assert len(failed) == 1, "once, and not at every checkpoint"
    assert all(why in sentence for sentence in failed)
    assert all("step-00000048.pt; training goes on, and each checkpoint tries again" in sentence for sentence in failed)


def test_a_disk_that_is_full_in_mid_run_costs_only_its_checkpoints(disk: Path, undisturbed: dict[str, Any]) -> None:
    path, ballast = disk / "run", disk / "ballast"
    trouble = Between(lambda: fill(disk), ballast.unlink)
    with pytest.warns(RuntimeWarning) as told:
        runs.train(path, trouble)
    sentences = [str(warning.message) for warning in told]
    assert sum("training goes on, and its records are kept in memory" in sentence for sentence in sentences) == 1
    assert_said("[Errno 28] No space left on device", sentences)
    assert_went_on(path, trouble, undisturbed)


def test_a_folder_that_becomes_read_only_costs_only_its_checkpoints(
    mount: Mount, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    path = tmp_path / "run"

    def protect() -> None:
        mount("--bind", str(path), on=path)
        mount("-o", "remount,bind,ro", on=path)

    trouble = Between(protect, lambda: subprocess.run(["umount", str(path)], check=True))
    with pytest.warns(RuntimeWarning) as told:
        runs.train(path, trouble)
    assert_said("[Errno 30] Read-only file system", [str(warning.message) for warning in told])
    assert_went_on(path, trouble, undisturbed)


LIMITED = """
import resource, sys, warnings
from pathlib import Path
from tests.faults import runs
from tests.faults.test_disk import Between

def limit(size):  # Python ignores SIGXFSZ, so that a write fails with EFBIG
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

import torch
torch.set_num_threads(1)
trouble = Between(lambda: limit(100_000), lambda: limit(resource.RLIM_INFINITY))
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    runs.train(Path(sys.argv[1]), trouble)
print(*sorted(trouble.good), sep="|")
print(*[warning.message for warning in told], sep="|")
"""


@pytest.mark.slow
def test_a_limit_on_the_size_of_files_costs_only_the_checkpoints(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "run")]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    good, told = (line.split("|") for line in done.stdout.splitlines()[-2:])
    trouble = Between(lambda: None)
    trouble.good = set(good)
    assert_said("[Errno ", told)
    assert_went_on(tmp_path / "run", trouble, undisturbed)


def test_a_disk_that_is_full_at_the_end_keeps_the_weights_in_memory(
    disk: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    path = disk / "run"
    one = runs.trainer(path, Between(lambda: fill(disk)))
    said = r"step 120: .*No space left.*make room and train on, or trainer.save_checkpoint\(path\) on another disk"
    with pytest.warns(RuntimeWarning) as told, pytest.raises(OSError, match=said):
        one.train(runs.data(), num_epochs=runs.EPOCHS)
    sentences = [str(warning.message) for warning in told]
    assert any("no checkpoint could be written at step 1" in sentence for sentence in sentences)
    assert any("train.jsonl could not be written" in sentence for sentence in sentences)
    assert one.state == "failed"
    assert one.step == runs.STEPS
    runs.assert_same(runs.outcome(one.save_checkpoint(tmp_path / "elsewhere.pt")), undisturbed)
    assert is_good(path / "checkpoints" / "step-00000048.pt")
    (disk / "ballast").unlink()
    with pytest.warns(UserWarning, match="nothing to do: the run is at step 120 of 120"):
        one.train(runs.data(), num_epochs=runs.EPOCHS)
    runs.assert_whole(path, undisturbed)


def test_a_disk_that_is_full_after_the_last_checkpoint_does_not_make_a_finished_run_a_failed_one(
    disk: Path, undisturbed: dict[str, Any]
) -> None:
    class FillAtTheEnd(Callback):
        def on_checkpoint_saved(self, trainer: JEPATrainer, event: events.CheckpointSaved) -> None:
            if event.step == runs.STEPS:
                fill(disk)

    with pytest.warns(RuntimeWarning, match="could not be written|cannot be written"):
        one = runs.train(disk / "run", FillAtTheEnd())
    assert one.state == "finished"
    runs.assert_same(runs.outcome(runs.last_checkpoint(disk / "run")), undisturbed)
    (disk / "ballast").unlink()
    with pytest.warns(UserWarning, match="nothing to do"):
        runs.train(disk / "run", seed=1)
    runs.assert_whole(disk / "run", undisturbed)


def test_a_run_that_failed_on_a_full_disk_goes_on_from_its_last_good_checkpoint(
    disk: Path, undisturbed: dict[str, Any]
) -> None:
    with pytest.warns(RuntimeWarning) as told, pytest.raises(OSError, match="No space"):
        runs.train(disk / "run", Between(lambda: fill(disk)))
    assert told
    (disk / "ballast").unlink()
    again = runs.train(disk / "run", seed=1)
    assert again.step == runs.STEPS
    runs.assert_whole(disk / "run", undisturbed)
    runs.assert_all_recorded(disk / "run", undisturbed)


def test_a_disk_that_is_full_at_the_start_is_said_before_any_training(disk: Path, undisturbed: dict[str, Any]) -> None:
    fill(disk)
    one = runs.trainer(disk / "run")
    with pytest.raises(OSError, match="No space left on device") as raised:
        one.train(runs.data(), num_epochs=runs.EPOCHS)
    assert str(disk / "run") in str(raised.value)
    assert (one.state, one.step) == ("idle", 0)
    (disk / "ballast").unlink()
    one.train(runs.data(), num_epochs=runs.EPOCHS)
    runs.assert_whole(disk / "run", undisturbed)


def test_lines_that_did_not_fit_are_written_when_there_is_room_again(disk: Path) -> None:
    lines = JSONLines(disk / "lines.jsonl", durable=True)
    lines.append({"step": 0})
    fill(disk)
    refused = 0
    for step in range(1, 2000):
        try:
            lines.append({"step": step, "text": "x" * 50})
        except OSError:
            refused += 1
    assert refused > 1000
    whole = (disk / "lines.jsonl").read_bytes()
    assert whole.endswith(b"\n"), "the file ends with its last whole line"
    (disk / "ballast").unlink()
    lines.flush()
    lines.close()
    assert [line["step"] for line in read_lines(disk / "lines.jsonl")] == list(range(2000))


def test_lines_that_are_lost_when_the_file_is_closed_are_said(disk: Path) -> None:
    lines = JSONLines(disk / "lines.jsonl")
    fill(disk)
    lines.append({"step": 0, "text": "x" * 5000}, flush=False)
    with pytest.raises(OSError, match="No space left"):
        lines.close()
    lines.close()


def test_a_run_can_be_held_and_stopped_while_the_disk_is_full(disk: Path) -> None:
    class Ask(Callback):
        def __init__(self) -> None:
            self.tickets: list[Ticket] = []

        def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
            if event.step == FULL_AT:
                trainer.saver.settle()
                fill(disk)
                changes = [Set("learning_rate", 0.1)] * 40  # the last page of the journal has room for the first ones
                self.tickets = [trainer.submit(one) for one in (*changes, Pause(), Resume(), Stop())]

    ask = Ask()
    with pytest.warns(RuntimeWarning), pytest.raises(OSError, match="make room and train on"):
        runs.train(disk / "run", ask)
    *changes, hold, go_on, stop = ask.tickets
    with pytest.raises(OSError, match="refused, because it could not be written down"):
        changes[-1].result(1)
    assert [ticket.result(1) for ticket in (hold, go_on, stop)] == [{}, {}, {}]
