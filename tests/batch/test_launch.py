"""A notebook as a batch on one process: what it leaves, and that nothing is lost however it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import psutil
import pytest

from jepa.batch import BatchResult, run_notebook, summary
from jepa.files import FileLock, read_lines, write_text

pytestmark = pytest.mark.slow
Make = Callable[..., Path]


def state(folder: Path, name: str = "batch.json") -> dict[str, Any]:
    try:
        return json.loads((folder / name).read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    except FileNotFoundError:
        return {}


def losses(folder: Path) -> list[tuple[int, float]]:
    """Step and loss of every step taken."""
    records = read_lines(folder / "metrics" / "train.jsonl")
    return [(record["step"], record["loss"]) for record in records if "loss" in record]


def steps(folder: Path) -> list[int]:
    return [step for step, _ in losses(folder)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Finished(NamedTuple):
    """A run that has finished."""

    notebook: Path
    parameters: dict[str, Any]
    runs: Path
    result: BatchResult
    said: list[str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_notebook: Make) -> Finished:
    folder = tmp_path_factory.mktemp("batch")
    notebook = make_notebook(folder / "small.ipynb")
    parameters = {"num_epochs": 3, "shape": (16, 4)}
    said: list[str] = []
    result = run_notebook(notebook, parameters, name="a", runs_dir=folder / "runs", say=said.append)
    return Finished(notebook, parameters, folder / "runs", result, said)


@pytest.fixture
def finished(trained: Finished, tmp_path: Path) -> Finished:
    """The finished run in a folder of the test's own."""
    shutil.copytree(trained.runs, tmp_path / "runs")
    return trained._replace(runs=tmp_path / "runs", said=[])


def again(run: Finished, parameters: dict[str, Any] | None = None, **options: Any) -> BatchResult:
    given = run.parameters if parameters is None else parameters
    return run_notebook(run.notebook, given, name="a", runs_dir=run.runs, say=run.said.append, **options)


def test_a_finished_run_leaves_everything_in_its_folder(trained: Finished) -> None:
    folder = trained.runs / "a"
    assert trained.result.folder == folder
    assert (trained.result.status, trained.result.exit_code, trained.result.error) == ("finished", 0, None)

    executed = nbformat.read(folder / "notebook.ipynb", as_version=4)
    nbformat.validate(executed)
    (injected,) = [cell for cell in executed.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    assert "num_epochs = 3" in injected.source
    assert "shape = (16, 4" in injected.source
    assert "trained 12 steps on rank 0" in str(executed.cells[-1].outputs)
    assert all(cell.execution_count for cell in executed.cells if cell.cell_type == "code")

    assert steps(folder) == list(range(1, 13))
    assert state(folder, "status.json")["state"] == "finished"
    assert (folder / "checkpoints" / "step-00000012.pt").is_file()
    assert "trained 12 steps on rank 0" in (folder / "logs" / "rank-0.log").read_text()
    assert (folder / "logs" / "launcher.log").is_file()
    batch = state(folder)
    assert (batch["status"], batch["error"], batch["returncode"]) == ("finished", None, 0)
    assert batch["parameters"] == {"num_epochs": 3, "shape": [16, 4]}
    assert batch["notebook"] == str(trained.notebook)
    assert any(line.startswith("cell ") for line in trained.said)
    assert not nbformat.read(trained.notebook, as_version=4).cells[-1].outputs, "the notebook itself was changed"

    text = "\n".join(summary(trained.result))
    assert text.startswith("finished in ")
    for place in ("notebook.ipynb", "metrics/train.jsonl", "logs", "checkpoints/step-00000012.pt"):
        assert str(folder / place) in text
    assert f"at step 12: loss {dict(losses(folder))[12]:.4g}" in text


def test_a_finished_run_is_skipped(finished: Finished) -> None:
    before = contents(finished.runs)
    result = again(finished)
    assert (result.status, result.exit_code) == ("skipped", 0)
    assert result.folder == finished.runs / "a"
    assert finished.said == [f"{result.folder} is finished already; pass --force to run it again"]
    assert contents(finished.runs) == before


@pytest.mark.parametrize(
    ("parameters", "difference"),
    [
        ({"num_epochs": 4, "shape": (16, 4)}, "num_epochs: was 3, now 4"),
        ({"shape": (16, 4)}, "num_epochs: was 3, now 'its default'"),
        ({"num_epochs": 3, "shape": (8, 4)}, r"shape: was \[16, 4\], now \[8, 4\]"),
        ({"num_epochs": 3, "shape": (16, 4), "slow": "x"}, "slow: was 'its default', now 'x'"),
    ],
)
@pytest.mark.parametrize("force", [False, True])
def test_other_parameters_under_the_same_name_are_an_error_that_shows_the_difference(
    finished: Finished, parameters: dict[str, Any], difference: str, force: bool
) -> None:
    before = contents(finished.runs)
    with pytest.raises(ValueError, match=rf"runs/a belongs to another run \({difference}\); choose another --name"):
        again(finished, parameters, force=force)
    assert contents(finished.runs) == before


def test_another_notebook_under_the_same_name_is_an_error(finished: Finished, tmp_path: Path) -> None:
    other = shutil.copy(finished.notebook, tmp_path / "other.ipynb")
    with pytest.raises(ValueError, match=r"notebook: was .*small.ipynb, now .*other.ipynb"):
        again(finished._replace(notebook=Path(other)))


def test_another_number_of_processes_under_the_same_name_is_an_error(finished: Finished) -> None:
    with pytest.raises(ValueError, match=r"nproc_per_node: was 1, now 2"):
        again(finished, nproc_per_node=2)


def test_a_second_command_with_the_same_name_is_refused_while_the_first_runs(finished: Finished) -> None:
    folder = finished.runs / "a"
    write_text(folder / "batch.json", json.dumps({**state(folder), "status": "running"}))
    lock = FileLock(folder / ".batch-lock")
    assert lock.acquire()
    before = contents(finished.runs)
    with pytest.raises(ValueError, match=r"runs/a is being run by another command"):
        again(finished)
    assert contents(finished.runs) == before
    lock.release()


def test_a_notebook_that_names_no_kernel_runs_in_python(make_notebook: Make, tmp_path: Path) -> None:
    notebook = make_notebook(tmp_path / "small.ipynb", "num_epochs")
    content = json.loads(notebook.read_text(encoding="utf-8"))
    del content["metadata"]["kernelspec"]
    notebook.write_text(json.dumps(content), encoding="utf-8")
    assert run_notebook(notebook, name="a", runs_dir=tmp_path / "runs").status == "finished"


def test_force_runs_anew_and_keeps_the_finished_run_aside(finished: Finished) -> None:
    before = contents(finished.runs / "a")
    result = again(finished, force=True)
    assert result.status == "finished"
    (aside,) = [folder for folder in finished.runs.iterdir() if folder.name != "a"]
    assert aside.name.startswith("a-replaced-")
    assert finished.said[0] == f"the finished run is kept in {aside}"
    assert contents(aside) == before
    assert steps(result.folder) == list(range(1, 13)), "it did not begin at the beginning"
    assert losses(result.folder) == losses(aside)
    started = [line for line in read_lines(result.folder / "journal.jsonl") if line["event"] == "RunStarted"]
    assert [line["step"] for line in started] == [0]


def test_wrong_parameters_start_nothing(make_notebook: Make, tmp_path: Path) -> None:
    notebook = make_notebook(tmp_path / "small.ipynb")
    for wrong, message in [
        ({"num_epoch": 1}, "unknown parameter 'num_epoch'; did you mean 'num_epochs'"),
        ({"num_epochs": "two"}, "num_epochs must be a whole number"),
    ]:
        with pytest.raises(ValueError, match=message):
            run_notebook(notebook, wrong, runs_dir=tmp_path / "runs")
    with pytest.raises(ValueError, match="nproc_per_node must be at least 1, got 0"):
        run_notebook(notebook, runs_dir=tmp_path / "runs", nproc_per_node=0)
    assert not (tmp_path / "runs").exists()


def test_a_cell_that_raises_is_named_and_the_same_command_tries_again(make_notebook: Make, tmp_path: Path) -> None:
    marker = tmp_path / "repaired"
    cells = ["from pathlib import Path", f"if not Path({str(marker)!r}).exists():\n    raise OSError('no such data')"]
    notebook = make_notebook(tmp_path / "small.ipynb", *cells)
    run = Finished(notebook, {}, tmp_path / "runs", BatchResult(tmp_path, ""), [])
    result = again(run)
    assert (result.status, result.exit_code) == ("failed", 1)
    assert result.error == "rank 0, cell 4: OSError: no such data"
    assert "cause       rank 0, cell 4: OSError: no such data" in summary(result)
    assert (state(result.folder)["status"], state(result.folder)["error"]) == ("failed", result.error)
    detail = state(result.folder, "logs/rank-0.error.json")
    assert "OSError" in "".join(detail["traceback"])
    outputs = [o for c in nbformat.read(result.folder / "notebook.ipynb", 4).cells for o in c.get("outputs", [])]
    assert any(output.output_type == "error" for output in outputs), "the executed part was not kept"

    marker.touch()
    result = again(run)
    assert (result.status, result.error) == ("finished", None)
    assert not list(result.folder.glob("logs/*.error.json"))


def test_a_kernel_that_is_killed_is_a_failure(make_notebook: Make, tmp_path: Path) -> None:
    cells = ["import os, signal", "print('before')", "os.kill(os.getpid(), signal.SIGKILL)", "print('after')"]
    notebook = make_notebook(tmp_path / "small.ipynb", *cells)
    result = run_notebook(notebook, name="a", runs_dir=tmp_path / "runs")
    assert (result.status, result.exit_code) == ("failed", 1)
    assert result.error == "rank 0, cell 5: DeadKernelError: the kernel died (killed, or out of memory)"
    assert state(result.folder)["status"] == "failed"
    log = (result.folder / "logs" / "rank-0.log").read_text()
    assert "before" in log
    assert "after" not in log
    executed = nbformat.read(result.folder / "notebook.ipynb", as_version=4)
    assert [cell.metadata.papermill.status for cell in executed.cells[-3:]] == ["completed", "failed", "pending"]
    assert executed.metadata.papermill.exception is True


def at_step(folder: Path, step: int) -> bool:
    return bool(steps(folder)) and steps(folder)[-1] >= step


@pytest.mark.parametrize(("how", "engine"), [("SIGTERM", "kernel"), ("SIGTERM", "process"), ("Ctrl-C twice", "kernel")])
def test_a_stopped_run_ends_with_a_checkpoint_and_the_same_command_goes_on(
    make_notebook: Make, launch: Callable[..., Any], tmp_path: Path, how: str, engine: str
) -> None:
    slow = tmp_path / "slow"
    slow.touch()
    notebook = make_notebook(tmp_path / "small.ipynb")
    command = [notebook, "-p", "num_epochs", "15", "-p", "slow", slow, "--name", "a", "--runs-dir", tmp_path / "runs"]
    command += ["--engine", engine]
    folder = tmp_path / "runs" / "a"
    job = launch(*command)
    job.wait_for(lambda: at_step(folder, 3), "the third step")
    if how == "SIGTERM":
        job.process.terminate()
    else:  # a terminal interrupts all processes of the group, and some people cannot wait
        os.killpg(job.process.pid, signal.SIGINT)
        job.wait_for(lambda: "stopping: " in job.output(), "the answer to the first interrupt")
        os.killpg(job.process.pid, signal.SIGINT)
    code, output = job.wait()
    assert code == 143
    assert "stopping: the run ends with a checkpoint, the same command goes on from there" in output
    assert "stopped in " in output
    assert state(folder)["status"] == "stopped"
    assert state(folder, "status.json")["state"] == "stopped"
    reached = steps(folder)[-1]
    assert reached < 60
    assert (folder / "checkpoints" / f"step-{reached:08d}.pt").is_file()
    assert not list(folder.glob("logs/*.error.json"))

    if how == "Ctrl-C twice":
        return  # going on is the same
    slow.unlink()
    code, output = launch(*command).wait()
    assert (code, state(folder)["status"]) == (0, "finished")
    assert steps(folder) == list(range(1, 61)), "steps were lost or taken twice"
    started = [line for line in read_lines(folder / "journal.jsonl") if line["event"] == "RunStarted"]
    assert [line["step"] for line in started] == [0, reached]
    assert (folder / "checkpoints" / "step-00000060.pt").is_file()


FAILS_AT_THE_END = """
import time

import torch

from jepa import JEPA, Encoder, Predictor, create_trainer
from jepa.data import make_loader
from jepa.trainer import Callback


class Slow(Callback):
    def on_step_ended(self, trainer, event):
        time.sleep(0.05)

    def on_run_ended(self, trainer, event):
        raise OSError(28, "No space left on device")


states = torch.randn(64, 3)
model = JEPA(Encoder(8, 3, depth=1), Predictor(8, depth=1))
trainer = create_trainer(model, log_every=1, progress=False, callbacks=[Slow()])
trainer.train(make_loader((states, states.roll(1, 1)), batch_size=16), num_epochs=1000)
"""


def test_a_run_that_fails_while_it_stops_is_a_failure(
    make_notebook: Make, launch: Callable[..., Any], tmp_path: Path
) -> None:
    notebook = make_notebook(tmp_path / "small.ipynb", FAILS_AT_THE_END)
    folder = tmp_path / "runs" / "a"
    job = launch(notebook, "--name", "a", "--runs-dir", tmp_path / "runs")
    job.wait_for(lambda: at_step(folder, 3), "the third step")
    job.process.terminate()
    code, output = job.wait()
    cause = "rank 0, cell 3: OSError: [Errno 28] No space left on device"
    assert code == 1
    assert f"cause       {cause}" in output
    assert (state(folder)["status"], state(folder)["error"]) == ("failed", cause)
    assert state(folder, "status.json")["state"] == "failed"


def test_a_stop_between_two_cells_is_no_failure(
    make_notebook: Make, launch: Callable[..., Any], tmp_path: Path
) -> None:
    reached = tmp_path / "reached"
    cells = [
        "import os, signal, time\nfrom pathlib import Path",
        f"Path({str(reached)!r}).touch()\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('ignored')",
        "print('must not run')",
    ]
    notebook = make_notebook(tmp_path / "small.ipynb", *cells)
    folder = tmp_path / "runs" / "a"
    job = launch(notebook, "--name", "a", "--runs-dir", tmp_path / "runs")
    job.wait_for(reached.exists, "the cell that waits")
    job.process.terminate()
    code, _ = job.wait()
    assert (code, state(folder)["status"], state(folder)["error"]) == (143, "stopped", None)
    assert (folder / "logs" / "rank-0.log").read_text().splitlines() == ["ignored"]


# What runs in the background trains on while its cell is interrupted, or its kernel ends.
BACKGROUND = """
linger = 0
import time
from pathlib import Path

import torch

from jepa import JEPA, Encoder, Predictor, create_trainer
from jepa.data import make_loader
from jepa.trainer import Callback


class Slow(Callback):
    def on_step_ended(self, trainer, event):
        if slow and Path(slow).exists():
            time.sleep(0.05)

    def on_state_changed(self, trainer, event):
        if event.state == "stopping":
            time.sleep(linger)


torch.manual_seed(0)
states = torch.randn(64, shape[1])
model = JEPA(Encoder(8, shape[1], depth=1), Predictor(8, depth=1))
trainer = create_trainer(model, log_every=1, progress=False, callbacks=[Slow()])
run = trainer.start(make_loader((states, states.roll(1, 1)), batch_size=shape[0]), num_epochs, wait=False)
"""


# Longer than a kernel gets for its end by default.
LET_THE_KERNEL_END = "linger = 4\nwhile not trainer.ended.is_set():\n    time.sleep(0.01)"


@pytest.mark.parametrize(
    "wait",
    [
        pytest.param("await run", id="await"),
        pytest.param("run.wait()", id="wait", marks=pytest.mark.full),
        pytest.param(LET_THE_KERNEL_END, id="end", marks=pytest.mark.full),
    ],
)
def test_a_stop_while_a_cell_waits_for_a_background_run_ends_with_a_checkpoint_and_the_same_command_goes_on(
    make_notebook: Make, launch: Callable[..., Any], tmp_path: Path, wait: str
) -> None:
    slow = tmp_path / "slow"
    slow.touch()
    notebook = make_notebook(tmp_path / "small.ipynb", BACKGROUND, wait, "print('trained', trainer.step, 'steps')")
    command = [notebook, "-p", "num_epochs", "15", "-p", "slow", slow, "--name", "a", "--runs-dir", tmp_path / "runs"]
    folder = tmp_path / "runs" / "a"
    job = launch(*command)
    job.wait_for(lambda: at_step(folder, 3), "the third step")
    job.process.terminate()
    code, _ = job.wait()
    assert (code, state(folder)["status"], state(folder)["error"]) == (143, "stopped", None)
    assert state(folder, "status.json")["state"] == "stopped"
    reached = steps(folder)[-1]
    assert reached < 60
    assert (folder / "checkpoints" / f"step-{reached:08d}.pt").is_file()

    slow.unlink()
    code, _ = launch(*command).wait()
    assert (code, state(folder)["status"]) == (0, "finished")
    assert steps(folder) == list(range(1, 61)), "steps were lost or taken twice"
    started = [line["step"] for line in read_lines(folder / "journal.jsonl") if line["event"] == "RunStarted"]
    assert started == [0, reached]
    assert "trained 60 steps" in (folder / "logs" / "rank-0.log").read_text()


def test_a_killed_launcher_leaves_no_process_behind_and_the_run_can_go_on(
    make_notebook: Make, launch: Callable[..., Any], tmp_path: Path
) -> None:
    slow = tmp_path / "slow"
    slow.touch()
    notebook = make_notebook(tmp_path / "small.ipynb")
    command = [notebook, "-p", "num_epochs", "100", "-p", "slow", slow, "--name", "a", "--runs-dir", tmp_path / "runs"]
    folder = tmp_path / "runs" / "a"
    job = launch(*command)
    job.wait_for(lambda: at_step(folder, 6), "the sixth step")
    family = job.family()
    assert len(family) >= 2, "there should be a worker and a kernel"
    job.process.kill()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    assert state(folder)["status"] == "running", "nobody was left to write anything else"

    slow.unlink()
    code, _ = launch(*command).wait()
    assert (code, state(folder)["status"]) == (0, "finished")
    started = [line["step"] for line in read_lines(folder / "journal.jsonl") if line["event"] == "RunStarted"]
    assert started[0] == 0
    assert started[1] >= 4, "it did not go on from its checkpoint"
    assert sorted(set(steps(folder))) == list(range(1, 401))
