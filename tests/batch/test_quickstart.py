"""The quickstart as its readers run it: by papermill, and as a batch of two processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest

from jepa.batch import run_notebook
from jepa.files import read_lines
from jepa.trainer.checkpoint import read_checkpoint

QUICKSTART = Path(__file__).parents[2] / "notebooks" / "00_quickstart.ipynb"
CURVES = ("application/vnd.plotly.v1+json", "image/png")


def executed(path: Path) -> nbformat.NotebookNode:
    """A notebook whose code cells have all been executed without an error."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    return notebook


def curves(notebook: nbformat.NotebookNode) -> dict[str, Any]:
    """What the cell that trains has left, by type."""
    (cell,) = [cell for cell in notebook.cells if "trainer.start(" in cell.source and cell.cell_type == "code"]
    found: dict[str, Any] = {}
    for output in cell.outputs:
        found.update(output.get("data", {}))
    return found


@pytest.mark.slow
def test_plain_papermill_trains_and_keeps_the_final_curves_in_a_small_notebook(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "papermill", str(QUICKSTART), "out.ipynb", "-p", "num_epochs", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.ipynb").stat().st_size < 500_000
    shown = curves(executed(tmp_path / "out.ipynb"))
    assert set(CURVES) <= set(shown)
    figure = shown["application/vnd.plotly.v1+json"]
    assert figure["data"]
    assert all(title in json.dumps(figure["layout"]) for title in ("loss", "effective rank"))

    (run,) = (tmp_path / "runs").iterdir()
    steps = [record["step"] for record in read_lines(run / "metrics" / "train.jsonl")]
    assert steps[-1] == 1347 // 64
    assert json.loads((run / "status.json").read_text())["state"] == "finished"


@pytest.mark.distributed
def test_the_quickstart_as_a_batch_of_two_processes(tmp_path: Path, launch: Callable[..., Any]) -> None:
    command = [QUICKSTART, "-p", "num_epochs", "2", "--nproc-per-node", "2", "--runs-dir", tmp_path / "runs"]
    code, output = launch(*command).wait(240)
    assert code == 0, output
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("00_quickstart-")
    places = ("notebook.ipynb", "metrics/train.jsonl", "logs", "figures/curves.png", "checkpoints/")
    assert all(place in output for place in places), output

    notebook = executed(folder / "notebook.ipynb")
    assert set(CURVES) <= set(curves(notebook))
    assert (folder / "notebook.ipynb").stat().st_size < 500_000
    total = 2 * (1347 // 128)
    assert read_checkpoint(folder / "checkpoints" / f"step-{total:08d}.pt")["position"]["step"] == total
    records = read_lines(folder / "metrics" / "train.jsonl")
    assert records[-1]["step"] == total
    (started,) = [line for line in read_lines(folder / "journal.jsonl") if line["event"] == "RunStarted"]
    assert (started["world_size"], started["total_steps"]) == (2, total)
    assert {path.name for path in (folder / "logs").glob("rank-*")} == {"rank-0.log", "rank-1.log"}
    assert json.loads((folder / "batch.json").read_text())["status"] == "finished"
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"


@pytest.mark.distributed
def test_a_rank_that_raises_is_named_with_the_true_cause(make_notebook: Callable[..., Path], tmp_path: Path) -> None:
    cells = [
        "import os, torch\nimport torch.distributed as dist\ndist.init_process_group('gloo')\nprint('joined')",
        "if os.environ['RANK'] == '1':\n    raise RuntimeError('this rank has no data')\ndist.barrier()",
    ]
    notebook = make_notebook(tmp_path / "small.ipynb", *cells)
    result = run_notebook(notebook, name="a", runs_dir=tmp_path / "runs", nproc_per_node=2)
    assert (result.status, result.exit_code) == ("failed", 1)
    assert result.error == "rank 1, cell 4: RuntimeError: this rank has no data"
    for rank in range(2):
        assert "joined" in (result.folder / "logs" / f"rank-{rank}.log").read_text()


@pytest.mark.distributed
def test_two_processes_interrupted_in_a_terminal_stop_with_a_checkpoint_and_go_on(
    make_notebook: Callable[..., Path], launch: Callable[..., Any], tmp_path: Path
) -> None:
    slow = tmp_path / "slow"
    slow.touch()
    notebook = make_notebook(tmp_path / "small.ipynb")
    command = [notebook, "-p", "num_epochs", "30", "-p", "slow", slow, "--name", "a", "--runs-dir", tmp_path / "runs"]
    folder = tmp_path / "runs" / "a"

    def steps() -> list[int]:
        records = read_lines(folder / "metrics" / "train.jsonl")
        return [record["step"] for record in records if "loss" in record]

    job = launch(*command, "--nproc-per-node", "2")
    job.wait_for(lambda: len(steps()) >= 3, "the third step")
    os.killpg(job.process.pid, signal.SIGINT)  # as Ctrl-C in a terminal does, pressed twice
    job.wait_for(lambda: "stopping: " in job.output(), "the answer to the first interrupt")
    os.killpg(job.process.pid, signal.SIGINT)
    code, output = job.wait()
    assert code == 143, output
    reached = steps()[-1]
    assert reached < 60
    assert (folder / "checkpoints" / f"step-{reached:08d}.pt").is_file()
    assert json.loads((folder / "status.json").read_text())["state"] == "stopped"

    slow.unlink()
    code, output = launch(*command, "--nproc-per-node", "2").wait(120)
    assert code == 0, output
    assert steps() == list(range(1, 61))
    for rank in range(2):
        assert f"trained 60 steps on rank {rank}" in (folder / "logs" / f"rank-{rank}.log").read_text()


@pytest.mark.distributed
def test_a_killed_launcher_leaves_none_of_two_workers_and_kernels_behind(
    make_notebook: Callable[..., Path], launch: Callable[..., Any], tmp_path: Path
) -> None:
    slow = tmp_path / "slow"
    slow.touch()
    notebook = make_notebook(tmp_path / "small.ipynb")
    command = [notebook, "-p", "num_epochs", "500", "-p", "slow", slow, "--name", "a", "--runs-dir", tmp_path / "runs"]
    job = launch(*command, "--nproc-per-node", "2")
    metrics = tmp_path / "runs" / "a" / "metrics" / "train.jsonl"
    job.wait_for(lambda: read_lines(metrics), "the first step")
    family = job.family()
    assert len(family) >= 5, "there should be torchrun, two workers and two kernels"
    job.process.kill()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
