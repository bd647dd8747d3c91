"""Files of a run folder that are torn, damaged, emptied, replaced or gone: the run goes on to the same end."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jepa.trainer import Callback, JEPATrainer, RunConflictError, events
from tests.faults import runs

STOPPED = 68  # in mid-epoch
Damage = Callable[[Path], object]


class CopyAfter(Callback):
    """Copies the run folder after a step, as a kill would leave it."""

    def __init__(self, step: int, target: Path) -> None:
        self.step, self.target = step, target

    def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
        if event.step == self.step:
            assert trainer.run is not None
            shutil.copytree(trainer.run.path, self.target)


class Started(Callback):
    """Notes from which step on a run is trained."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_run_started(self, trainer: JEPATrainer, event: events.RunStarted) -> None:
        self.steps.append(event.step)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped, continued, and killed before the next checkpoint."""
    folder = tmp_path_factory.mktemp("killed")
    runs.train(folder / "whole", runs.StopAfter(STOPPED))
    runs.train(folder / "whole", CopyAfter(STOPPED + 2, folder / "run"), runs.StopAfter(STOPPED + 3), seed=1)
    return folder / "run"


@pytest.fixture
def run(killed: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return shutil.copytree(killed, tmp_path / "run")


def newest(path: Path) -> Path:
    return path / "checkpoints" / f"step-{STOPPED:08d}.pt"


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def cut_all(path: Path, pattern: str) -> None:
    for file in (path / "checkpoints").glob(pattern):
        cut(file, 0.3)


def flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)


def tear(path: Path) -> None:
    """Cut into the last line."""
    content = path.read_bytes()
    path.write_bytes(content[: content.rstrip(b"\n").rindex(b"\n") + 20])


def damage_line(path: Path, number: int) -> None:
    lines = path.read_bytes().splitlines()
    lines[number] = b"\xff\x00\xfe" + lines[number][::-1][5:20]
    path.write_bytes(b"\n".join(lines) + b"\n")


def add(path: Path, what: bytes) -> None:
    path.write_bytes(path.read_bytes() + what)


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def become_link(path: Path) -> None:
    outside = path.parents[2] / "outside.pt"
    path.rename(outside)
    path.symlink_to(outside)


def leave_behind(path: Path) -> None:
    """What writes that were cut off by a kill may leave."""
    names = ("checkpoints/.step-00000072.pt.0a1b2c3d.tmp", "checkpoints/.initial.pt.0a1b2c3d.tmp")
    for name in (*names, ".status.json.0a1b2c3d.tmp", ".config.yaml.0a1b2c3d.tmp"):
        (path / name).write_bytes(b"half of a f")


BROKEN = r"kept aside as (step-000000\d\d|initial)\.pt\.broken"
CHECKPOINTS: dict[str, Damage] = {
    "the newest checkpoint is truncated": lambda path: cut(newest(path), 0.6),
    "the newest checkpoint lacks its last byte": lambda path: newest(path).write_bytes(newest(path).read_bytes()[:-1]),
    "the newest checkpoint is empty": lambda path: newest(path).write_bytes(b""),
    "a bit of a tensor of the newest checkpoint is flipped": lambda path: flip(newest(path), 0.5),
    "the newest checkpoint is another file": lambda path: newest(path).write_bytes(b"PK\x03\x04 not a checkpoint" * 99),
    "a folder is in the place of the newest checkpoint": lambda path: become_folder(newest(path)),
    "a link out of the folder is in the place of the newest checkpoint": lambda path: become_link(newest(path)),
    "the two newest checkpoints are damaged": lambda path: cut_all(path, "step-0000006[68].pt"),
    "all checkpoints but the first are damaged": lambda path: cut_all(path, "step-*.pt"),
}
OTHERS: dict[str, Damage] = {
    "the last line of the journal is torn": lambda path: tear(path / "journal.jsonl"),
    "the journal ends in garbage": lambda path: add(path / "journal.jsonl", b"\x00" * 512),
    "the journal is empty": lambda path: (path / "journal.jsonl").write_bytes(b""),
    "the journal is gone": lambda path: (path / "journal.jsonl").unlink(),
    "the status is garbage": lambda path: (path / "status.json").write_bytes(b"\xff{"),
    "the status is empty": lambda path: (path / "status.json").write_bytes(b""),
    "the status is gone": lambda path: (path / "status.json").unlink(),
    "a lock file is left behind": lambda path: (path / ".lock").write_bytes(b"4711"),
    "the configuration is gone": lambda path: (path / "config.yaml").unlink(),
    "the first checkpoint is gone": lambda path: (path / "checkpoints" / "initial.pt").unlink(),
    "the best checkpoint is gone": lambda path: (path / "checkpoints" / "best.pt").unlink(),
    "half-written files are left behind": leave_behind,
}
METRICS: dict[str, Damage] = {
    "the metrics are gone": lambda path: shutil.rmtree(path / "metrics"),
    "the last record is torn": lambda path: tear(path / "metrics" / "train.jsonl"),
    "the metrics are garbage": lambda path: (path / "metrics" / "train.jsonl").write_bytes(b"\xff\x00" * 999),
}


@pytest.mark.parametrize("what", CHECKPOINTS)
def test_a_run_with_a_damaged_checkpoint_ends_as_an_undisturbed_one(
    what: str, run: Path, undisturbed: dict[str, Any]
) -> None:
    CHECKPOINTS[what](run)
    with pytest.warns(RuntimeWarning, match=BROKEN) as told:
        runs.train(run, seed=2)
    aside = list((run / "checkpoints").glob("*.broken"))
    assert len(aside) == len(told)
    assert newest(run).with_suffix(".pt.broken") in aside
    runs.assert_whole(run, undisturbed)
    runs.assert_all_recorded(run, undisturbed)


def test_a_run_without_any_checkpoint_begins_again_and_says_so(run: Path) -> None:
    cut_all(run, "*.pt")
    with pytest.warns(RuntimeWarning, match=BROKEN) as told:
        one = runs.train(run)
    assert len(told) == len(list((run / "checkpoints").glob("*.broken"))) == 4
    assert one.history.steps("loss") == list(range(1, runs.STEPS + 1))


@pytest.mark.parametrize("what", OTHERS)
def test_a_run_with_other_damaged_files_ends_as_an_undisturbed_one(
    what: str, run: Path, undisturbed: dict[str, Any]
) -> None:
    OTHERS[what](run)
    one = runs.train(run, seed=2)
    assert one.history.steps("loss") == list(range(1, runs.STEPS + 1))
    runs.assert_whole(run, undisturbed)
    runs.assert_all_recorded(run, undisturbed)


@pytest.mark.parametrize("what", METRICS)
def test_a_run_without_its_records_ends_as_an_undisturbed_one(
    what: str, run: Path, undisturbed: dict[str, Any]
) -> None:
    METRICS[what](run)
    runs.train(run, seed=2)
    runs.assert_whole(run, undisturbed)


@pytest.mark.slow
def test_no_single_line_of_the_journal_can_lose_a_run(run: Path, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    count = len((run / "journal.jsonl").read_bytes().splitlines())
    for number in range(count):
        path = shutil.copytree(run, tmp_path / f"line-{number}")
        line = (path / "journal.jsonl").read_text().splitlines()[number]
        damage_line(path / "journal.jsonl", number)
        watch = Started()
        runs.train(path, watch, seed=2)
        assert watch.steps == [STOPPED], f"it went on from elsewhere without the line {line}"
        runs.assert_whole(path, undisturbed)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.95])
def test_a_damaged_configuration_is_named_and_the_run_goes_on_without_it(
    share: float, run: Path, undisturbed: dict[str, Any]
) -> None:
    config = run / "config.yaml"
    cut(config, share)
    with pytest.raises(RunConflictError, match=r"config.yaml|exists with other parameters"):
        runs.train(run, seed=2)
    config.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runs.train(run, seed=2)
    runs.assert_whole(run, undisturbed)
