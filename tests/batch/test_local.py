"""Many runs on one machine: who runs when, what is said, and what a stop or a failure leaves."""

from __future__ import annotations

import json
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from jepa.batch import BatchResult, plan_sweep
from jepa.batch.devices import share_out
from jepa.batch.local import FixedQueue, Team
from jepa.batch.optuna_search import OptunaQueue
from jepa.batch.sweep import Point, Range, Search, Sweep
from jepa.batch.tally import Tally
from jepa.cli.__main__ import main
from tests.batch.conftest import TRAIN


def points(count: int) -> list[Point]:
    return [Point(f"seed={seed}", {"seed": seed}) for seed in range(count)]


def test_runs_go_side_by_side_but_never_more_than_places(tmp_path: Path) -> None:
    both, most, now = threading.Barrier(2), [0], [0]
    lock = threading.Lock()

    def execute(point: Point, place: Mapping[str, str], stop: threading.Event) -> BatchResult:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        both.wait(20)
        with lock:
            now[0] -= 1
        return BatchResult(tmp_path / point.name, "finished")

    tally = Tally(6, tmp_path, lambda line: None)
    results = Team(execute, FixedQueue(points(6)), [{}, {}], tally).work()
    assert sorted(result.folder.name for result in results) == [point.name for point in points(6)]
    assert most == [2]


def test_a_run_that_fails_leaves_the_others_alone_and_is_said(tmp_path: Path) -> None:
    def execute(point: Point, place: Mapping[str, str], stop: threading.Event) -> BatchResult:
        bad = point.name == "seed=1"
        return BatchResult(tmp_path / point.name, "failed" if bad else "finished", error="boom" if bad else None)

    said: list[str] = []
    results = Team(execute, FixedQueue(points(3)), [{}], Tally(3, tmp_path, said.append)).work()
    assert [result.status for result in results] == ["finished", "failed", "finished"]
    assert "seed=1: failed (boom)" in said


def test_a_stop_ends_what_runs_and_begins_nothing_new(tmp_path: Path) -> None:
    begun: list[str] = []

    class Interrupting(Tally):
        def tell(self) -> None:
            if len(begun) == 2:
                raise KeyboardInterrupt

    def execute(point: Point, place: Mapping[str, str], stop: threading.Event) -> BatchResult:
        begun.append(point.name)
        assert stop.wait(20)
        return BatchResult(tmp_path / point.name, "stopped")

    said: list[str] = []
    results = Team(execute, FixedQueue(points(9)), [{}, {}], Interrupting(9, tmp_path, said.append)).work()
    assert [result.status for result in results] == ["stopped", "stopped"]
    assert len(begun) == 2
    assert said[0].startswith("stopping: each run ends with a checkpoint")


def test_an_error_of_the_queue_ends_the_sweep_with_it(tmp_path: Path) -> None:
    class Broken(FixedQueue):
        def ended(self, point: Point, result: BatchResult) -> None:
            raise RuntimeError("no space left")

    def execute(point: Point, place: Mapping[str, str], stop: threading.Event) -> BatchResult:
        return BatchResult(tmp_path / point.name, "finished")

    with pytest.raises(RuntimeError, match="no space left"):
        Team(execute, Broken(points(3)), [{}], Tally(3, tmp_path, lambda line: None)).work()


def test_the_time_left_counts_what_running_ones_have_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    tally = Tally(4, tmp_path, lambda line: None)
    first, second, *_ = points(4)
    tally.begun(first)
    tally.begun(second)
    clock[0] += 30
    tally.ended(first, BatchResult(tmp_path / first.name, "finished"))
    status = {"state": "running", "step": 50, "total_steps": 100}
    (tmp_path / second.name).mkdir()
    (tmp_path / second.name / "status.json").write_text(json.dumps(status))
    assert tally.line() == "1 of 4 runs ended, 1 running, about 50 s left"  # 1.5 runs in 30 s, 2.5 left
    tally.ended(second, BatchResult(tmp_path / second.name, "failed", error="boom"))
    assert tally.line() == "2 of 4 runs ended (1 failed), 0 running, about 30 s left"


@pytest.mark.parametrize(
    ("visible", "count", "places"),
    [
        (None, 4, ["0,1", "2,3"]),
        ("5,7,1,0", 4, ["5,7", "1,0"]),
    ],
)
def test_each_process_has_a_gpu_of_its_own(
    visible: str | None, count: int, places: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpus(monkeypatch, visible, count)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in share_out(2, 2)] == places
    with pytest.raises(ValueError, match="3 runs at a time with 2 processes each need 6 GPUs, there are 4"):
        share_out(3, 2)


def pretend_gpus(monkeypatch: pytest.MonkeyPatch, visible: str | None, count: int) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: count > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


def test_without_gpus_the_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch, None, 0)
    monkeypatch.setattr("os.cpu_count", lambda: 12)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert share_out(3, 2) == [{"OMP_NUM_THREADS": "2"}] * 3
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert share_out(3, 2) == [{"OMP_NUM_THREADS": "5"}] * 3
    for wrong in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            share_out(*wrong)


SEARCH = Search(8, {"rate": Range(1e-4, 1.0, log=True)}, metric="val_loss")


def leave(folder: Path, rate: float, status: str, value: float | None) -> None:
    """What a run of the sweep leaves in its folder."""
    run = folder / f"rate={rate}"
    (run / "metrics").mkdir(parents=True)
    (run / "batch.json").write_text(json.dumps({"parameters": {"rate": rate}, "status": status}))
    lines: Iterable[dict[str, Any]] = [{"step": 1, "val_loss": 9.0}] + (
        [{"step": 2, "val_loss": value}] if value else []
    )
    (run / "metrics" / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_search_learns_from_what_ended_and_first_finishes_what_did_not(tmp_path: Path) -> None:
    leave(tmp_path, 0.1, "finished", 1.0)
    leave(tmp_path, 0.5, "stopped", None)
    queue = OptunaQueue(Sweep("s", "optuna", {}, "", search=SEARCH), tmp_path)
    first = queue.next()
    assert first is not None
    assert first.parameters == {"rate": 0.5}
    asked = [first]
    while (point := queue.next()) is not None:
        asked.append(point)
    assert len(asked) == 7  # and the one that had ended
    assert len({point.name for point in asked}) == 7


def test_a_search_comes_near_to_the_best_value(tmp_path: Path) -> None:
    search = Search(40, SEARCH.space, metric="val_loss")
    queue = OptunaQueue(Sweep("s", "optuna", {}, "", search=search), tmp_path)
    tried: list[float] = []
    while (point := queue.next()) is not None:
        rate = point.parameters["rate"]
        tried.append(rate)
        leave(tmp_path, rate, "finished", 1 + abs(rate / 1e-2 - 1))
        queue.ended(point, BatchResult(tmp_path / f"rate={rate}", "finished"))
    late = tried[20:]
    assert sum(3e-3 < rate < 3e-2 for rate in late) >= len(late) / 2  # an eighth of the range on a logarithmic scale


@pytest.mark.slow
def test_a_sweep_fails_in_part_and_the_same_command_finishes_it(
    tmp_path: Path, make_notebook: Callable[..., Path], launch: Callable[..., Any]
) -> None:
    fails = "from pathlib import Path\nif num_epochs == 3 and Path('broken').exists(): raise RuntimeError('not today')"
    notebook = make_notebook(tmp_path / "small.ipynb", fails, TRAIN)
    (tmp_path / "epochs.yaml").write_text("grid: {num_epochs: [1, 3]}")
    (tmp_path / "broken").touch()
    code, output = launch(notebook, "epochs.yaml", "--jobs", 2).wait(240)
    assert code == 1, output
    assert "num_epochs=3: rank 0, cell 4: RuntimeError: not today" in output
    (tmp_path / "broken").unlink()
    code, output = launch(notebook, "epochs.yaml", "--jobs", 2).wait(240)
    assert code == 0, output
    assert "1 finished before, 1 finished" in output
    plan = plan_sweep(notebook, tmp_path / "epochs.yaml", runs_dir=tmp_path / "runs")
    assert plan.finished == {"num_epochs=1", "num_epochs=3"}


def test_a_dry_run_checks_all_and_prints_commands_that_say_the_same(
    tmp_path: Path, make_notebook: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = make_notebook(tmp_path / "small.ipynb")
    (tmp_path / "shapes.yaml").write_text("parameters: {num_epochs: 1}\ngrid: {shape: [[16, 3], [8, 3]]}")
    arguments = [str(notebook), str(tmp_path / "shapes.yaml"), "--runs-dir", str(tmp_path / "runs"), "--dry-run"]
    assert main(["batch", *arguments, "--nproc-per-node", "2"]) == 0
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 2
    for words, shape in zip(lines, ("(16, 3)", "(8, 3)"), strict=True):
        assert words[1:4] == ["-m", "jepa.cli", "batch"]
        assert words[words.index("shape") + 1] == shape
        assert words[-2:] == ["--nproc-per-node", "2"]
    assert not (tmp_path / "runs").exists()
    assert main(["batch", *arguments, "-p", "num_epoch", "1"]) == 1
    assert "unknown parameter 'num_epoch'; did you mean 'num_epochs'?" in capsys.readouterr().err
