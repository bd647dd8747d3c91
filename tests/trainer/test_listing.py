"""What run folders tell: of runs that are live, ended, killed, half-written or damaged."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from jepa.files import FileLock
from jepa.trainer.listing import find_run, list_runs, read_run

STATUS = {"state": "finished", "step": 630, "total_steps": 630, "error": None, "pid": 7, "host": "node-3"}
BATCH = {"notebook": "/elsewhere/a.ipynb", "parameters": {}, "nproc_per_node": 1, "status": "running", "started": 0.0}


def make_run(folder: Path, *, age: float = 10.0, records: list[dict[str, Any]] | None = None, **status: Any) -> Path:
    (folder / "metrics").mkdir(parents=True)
    (folder / "status.json").write_text(json.dumps({**STATUS, "time": time.time() - age, **status}))
    lines = [json.dumps({"step": 1, "loss": 0.5}) if records is None else "", *map(json.dumps, records or [])]
    (folder / "metrics" / "train.jsonl").write_text("".join(f"{line}\n" for line in lines if line))
    (folder / ".lock").touch()
    (folder / "journal.jsonl").touch()
    return folder


def make_batch(folder: Path, **batch: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "batch.json").write_text(json.dumps({**BATCH, **batch}))
    (folder / "source.ipynb").touch()
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def test_a_run_is_summarised_from_its_folder(runs: Path) -> None:
    make_run(runs / "a", age=100)
    (runs / "a" / "experiment.yaml").touch()
    (run,) = list_runs(runs)
    assert (run.name, run.path, run.state, run.step, run.total_steps) == ("a", runs / "a", "finished", 630, 630)
    assert 100 <= run.age < 110
    assert run.metrics == {"loss": 0.5}
    assert (run.origin, run.resumable, run.error, run.pid, run.host) == ("command line", False, None, 7, "node-3")


def test_no_folder_holds_no_runs(runs: Path) -> None:
    assert list_runs(runs) == []
    runs.mkdir()
    assert list_runs(runs) == []


def test_the_newest_comes_first_and_the_trainers_of_a_batch_after_it(runs: Path) -> None:
    make_run(runs / "old", age=1000)
    make_run(runs / "new", age=1)
    make_batch(make_run(runs / "batch", age=300), status="finished")
    make_run(runs / "batch" / "trainer-2", age=100, state="stopped")
    make_run(runs / "sweep" / "x", age=20)
    make_run(runs / "sweep" / "y", age=10)
    (runs / "notes.txt").touch()
    (runs / ".being-made.tmp").mkdir()
    found = list_runs(runs)
    assert [run.name for run in found] == ["new", "sweep/y", "sweep/x", "batch", "batch/trainer-2", "old"]
    inner = found[4]
    assert (inner.origin, inner.state, inner.resumable) == ("batch", "stopped", False), "a batch goes on as a whole"
    assert [run.name for run in list_runs(runs / "batch")] == ["batch", "batch/trainer-2"]


@pytest.mark.parametrize("state", ["running", "paused", "stopping"])
def test_a_live_state_is_believed_while_the_folder_is_held_and_not_longer(runs: Path, state: str) -> None:
    lock = FileLock(make_run(runs / "a", state=state) / ".lock")
    assert lock.acquire()
    assert list_runs(runs)[0].state == state
    assert list_runs(runs)[0].is_live
    lock.release()
    assert list_runs(runs)[0].state == "interrupted"


def test_looking_at_a_run_leaves_its_lock_alone(runs: Path) -> None:
    path = make_run(runs / "a", state="running") / ".lock"
    holder, other = FileLock(path), FileLock(path)
    assert holder.acquire()
    list_runs(runs)
    assert not other.acquire()
    holder.release()
    list_runs(runs)
    assert other.acquire()
    other.release()
    path.unlink()
    list_runs(runs)
    assert not path.exists()


@pytest.mark.parametrize(
    ("status", "batch", "launched", "state"),
    [
        (None, "running", True, "running"),  # in a cell before the one that trains
        (None, "running", False, "interrupted"),
        (None, "failed", False, "failed"),
        ("finished", "running", True, "running"),  # in a cell after it
        ("finished", "failed", False, "failed"),
        ("finished", "finished", False, "finished"),
        ("running", "running", False, "interrupted"),
        ("stopped", "stopped", False, "stopped"),
    ],
)
def test_a_batch_is_what_its_launcher_says_and_the_trainer_in_it(
    runs: Path, status: str | None, batch: str, launched: bool, state: str
) -> None:
    if status:
        make_run(runs / "a", state=status)
    make_batch(runs / "a", status=batch, error="rank 0: OSError: gone" if batch == "failed" else None)
    lock = FileLock(runs / "a" / ".batch-lock")
    assert not launched or lock.acquire()
    (run,) = list_runs(runs)
    lock.release()
    assert (run.state, run.origin) == (state, "batch")
    assert run.resumable == (state in ("interrupted", "failed", "stopped"))
    assert run.error == ("rank 0: OSError: gone" if batch == "failed" else None)


@pytest.mark.parametrize(
    ("moment", "state"),
    [
        (-1e6, "interrupted"),  # the clock was set back by eleven days since
        (float("nan"), "interrupted"),
        ("yesterday", "interrupted"),
        (10**400, "unreadable"),
    ],
)
def test_no_clock_gives_a_negative_age(runs: Path, moment: Any, state: str) -> None:
    made = time.time() - moment if isinstance(moment, float) else moment
    make_run(runs / "a", state="running", time=made)
    (run,) = list_runs(runs)
    assert run.state == state
    assert 0 <= run.age < 60


def test_the_last_value_of_each_metric_is_shown(runs: Path) -> None:
    records = [{"step": 1, "loss": 3.0, "effective_rank": 2.0}, {"step": 1, "val_loss": 2.5, "val_prediction": 1.0}]
    path = make_run(runs / "a", records=[*records, {"step": 2, "loss": 1.5}]) / "metrics" / "train.jsonl"
    with path.open("a") as file:
        file.write('{"step":3,"loss":0.1')  # torn by a crash
    assert read_run(runs / "a").metrics == {"loss": 1.5, "val_loss": 2.5, "effective_rank": 2.0}
    path.unlink()
    assert read_run(runs / "a").metrics == {}


def test_of_long_metrics_only_the_end_is_read(runs: Path) -> None:
    path = make_run(runs / "a") / "metrics" / "train.jsonl"
    with path.open("w") as file:
        file.write('{"step":1,"val_loss":9.0}\n')
        file.write('{"step":2,"loss":1.0}\n' * 200_000)
    started = time.perf_counter()
    assert read_run(runs / "a").metrics == {"loss": 1.0}, "the file was read from its beginning"
    assert time.perf_counter() - started < 0.5


DAMAGE: dict[str, Any] = {
    "empty status": lambda run: (run / "status.json").write_text(""),
    "half a status": lambda run: os.truncate(run / "status.json", 20),
    "a list as status": lambda run: (run / "status.json").write_text("[]"),
    "no text": lambda run: (run / "status.json").write_bytes(b"\xff\xfe\x00"),
    "deep nesting": lambda run: (run / "status.json").write_text("[" * 100_000),
    "unknown state": lambda run: (run / "status.json").write_text('{"state": "flying"}'),
    "pipe": lambda run: ((run / "status.json").unlink(), os.mkfifo(run / "status.json")),
    "folder": lambda run: ((run / "status.json").unlink(), (run / "status.json").mkdir()),
    "broken batch": lambda run: (run / "batch.json").write_text("{"),
    "link as lock": lambda run: ((run / ".lock").unlink(), (run / ".lock").symlink_to("/dev/null")),
    "link out": lambda run: ((run / "status.json").unlink(), (run / "status.json").symlink_to(run.parent.parent / "x")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_run_is_listed_with_the_reason_beside_the_others(runs: Path, damage: str) -> None:
    (runs.parent / "x").write_text(json.dumps(STATUS))
    make_run(runs / "good")
    DAMAGE[damage](make_run(runs / "bad"))
    found = {run.name: run for run in list_runs(runs)}
    assert (found["bad"].state, found["good"].state) == ("unreadable", "finished")
    assert found["bad"].error
    assert not found["bad"].resumable


@pytest.mark.parametrize(
    ("files", "state"),
    [
        ([], "unreadable"),
        ([".lock"], "unreadable"),  # killed before it had written anything
        ([".lock", "config.yaml"], "interrupted"),
        ([".lock", "config.yaml", "journal.jsonl", "experiment.yaml"], "interrupted"),
    ],
)
def test_a_half_written_run_is_listed_as_far_as_it_came(runs: Path, files: list[str], state: str) -> None:
    (runs / "a").mkdir(parents=True)
    for name in files:
        (runs / "a" / name).touch()
    (run,) = list_runs(runs)
    assert (run.state, run.step, run.metrics) == (state, 0, {})
    assert run.resumable == ("experiment.yaml" in files)
    assert (run.error is None) == (state == "interrupted")


def test_a_run_that_has_just_taken_its_folder_is_running(runs: Path) -> None:
    (runs / "a").mkdir(parents=True)
    lock = FileLock(runs / "a" / ".lock")
    assert lock.acquire()
    assert list_runs(runs)[0].state == "running"
    lock.release()


def test_links_are_not_followed_out_of_the_folder(runs: Path, tmp_path: Path) -> None:
    outside = make_run(tmp_path / "outside" / "secret", error="secret")
    make_run(runs / "a")
    (runs / "again").symlink_to(runs / "a")
    (runs / "out").symlink_to(outside)
    (runs / "a" / "trainer-2").symlink_to(outside)
    (runs / "dangling").symlink_to(tmp_path / "nowhere")
    found = list_runs(runs)
    assert sorted(run.name for run in found) == ["a", "out"]
    (out,) = [run for run in found if run.name == "out"]
    assert out.state == "unreadable"
    assert out.error == f"a symbolic link to {outside}, outside of this folder; list it there"
    (tmp_path / "linked").symlink_to(runs)  # by a path of the user's
    assert len(list_runs(tmp_path / "linked")) == 2


def test_a_run_is_found_by_name_and_by_path(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(runs / "digits")
    inner = make_run(runs / "batch" / "trainer-2")
    assert find_run("digits", runs) == find_run(run) == run
    assert find_run("batch/trainer-2", runs) == inner
    monkeypatch.chdir(run)
    assert find_run("../digits", "nothing") == find_run(".") == run
    with pytest.raises(
        FileNotFoundError, match=r"no run 'digit' in .*runs \(looked from .*\); did you mean 'digits'\?"
    ):
        find_run("digit", runs)
    with pytest.raises(FileNotFoundError, match="there are: none"):
        find_run("digits", runs.parent / "other")


def test_a_trainer_says_who_it_is(make_trainer: Any, loader: Any, tmp_path: Path) -> None:
    trainer = make_trainer(run="a", log_every=1)
    trainer.train(loader, num_epochs=1)
    (run,) = list_runs(tmp_path / "runs")
    assert (run.state, run.step, run.total_steps, run.origin) == ("finished", 6, 6, "notebook")
    assert (run.pid, run.host) == (os.getpid(), socket.gethostname())
    assert {"loss", "effective_rank"} <= set(run.metrics)
    assert run.metrics["loss"] == trainer.history["loss"][-1]


@pytest.mark.slow
def test_a_thousand_runs_are_listed_in_seconds(runs: Path) -> None:
    records = [
        {"segment": 0, "step": step, "epoch": 0, "time": 0.0, "loss": 1.0, "grad_norm": 1.0} for step in range(50)
    ]
    for number in range(1000):
        make_run(runs / f"run-{number}", age=number, records=records, state="stopped")
    started = time.perf_counter()
    assert len(list_runs(runs)) == 1000
    seconds = time.perf_counter() - started
    print(f"1,000 runs listed in {seconds:.2f} s")
    assert seconds < 5
