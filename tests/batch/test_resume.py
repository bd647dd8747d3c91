"""A batch run goes on from its folder alone: its own copy of the notebook, whatever became of the one it came from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
import torch

from jepa.batch import resume_notebook, run_notebook
from jepa.files import FileLock, read_lines
from jepa.trainer.checkpoint import read_checkpoint
from jepa.trainer.listing import list_runs

pytestmark = pytest.mark.slow
Make = Callable[..., Path]


def steps(folder: Path) -> list[int]:
    return [line["step"] for line in read_lines(folder / "metrics" / "train.jsonl") if "loss" in line]


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return read_checkpoint(folder / "checkpoints" / f"step-{step:08d}.pt")["objective_state"]


def test_a_killed_batch_is_resumed_from_its_copy_as_if_nothing_had_happened(
    make_notebook: Make, launch: Callable[..., Any], tmp_path: Path
) -> None:
    slow, runs = tmp_path / "slow", tmp_path / "runs"
    slow.touch()
    notebook = make_notebook(tmp_path / "small.ipynb")
    source = notebook.read_bytes()
    job = launch(notebook, "-p", "num_epochs", "15", "-p", "slow", slow, "--name", "killed", "--runs-dir", runs)
    job.wait_for(lambda: len(steps(runs / "killed")) >= 6, "the sixth step")
    assert list_runs(runs)[0].state == "running"
    with pytest.raises(ValueError, match="is being run by another command"):
        resume_notebook(runs / "killed")
    family = job.family()
    job.process.kill()
    psutil.wait_procs(family, timeout=10)
    (run,) = list_runs(runs)
    assert (run.state, run.origin, run.resumable) == ("interrupted", "batch", True)
    assert (runs / "killed" / "source.ipynb").read_bytes() == source

    make_notebook(notebook, f"open({str(tmp_path / 'executed')!r}, 'w')")  # what the stored path leads to now
    slow.unlink()
    command = [sys.executable, "-m", "jepa.cli", "resume", "killed", "--runs-dir", str(runs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("at step 60: loss ")
    assert not (tmp_path / "executed").exists()
    assert list_runs(runs)[0].state == "finished"
    begun = [line["step"] for line in read_lines(runs / "killed" / "journal.jsonl") if line["event"] == "RunStarted"]
    assert begun[0] == 0 < begun[1]
    batch = json.loads((runs / "killed" / "batch.json").read_text())
    assert (batch["status"], batch["notebook"]) == ("finished", str(notebook))
    assert batch["parameters"] == {"num_epochs": 15, "slow": str(slow)}

    notebook.write_bytes(source)
    run_notebook(notebook, {"num_epochs": 15, "slow": str(slow)}, name="undisturbed", runs_dir=runs)
    found, expected = weights(runs / "killed", 60), weights(runs / "undisturbed", 60)
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


def test_the_same_command_executes_the_notebook_as_it_is_now_and_resume_the_copy(
    make_notebook: Make, tmp_path: Path
) -> None:
    notebook = make_notebook(tmp_path / "small.ipynb", "raise OSError('no such data')")
    failed = run_notebook(notebook, name="a", runs_dir=tmp_path / "runs")
    assert failed.status == "failed"
    make_notebook(notebook, "print('mended')")
    assert resume_notebook(failed.folder).status == "failed", "it was not the copy that was executed"
    assert run_notebook(notebook, name="a", runs_dir=tmp_path / "runs").status == "finished"
    notebook.unlink()
    assert resume_notebook(failed.folder).status == "skipped"
    copy = nbformat.read(failed.folder / "source.ipynb", as_version=4)
    assert copy.cells[-1].source == "print('mended')"
    assert not copy.cells[-1].outputs
    assert not FileLock(failed.folder / ".batch-lock").is_held(), "the folder was not let go"


def test_parameters_in_the_folder_are_checked_against_its_copy(make_notebook: Make, tmp_path: Path) -> None:
    notebook = make_notebook(tmp_path / "small.ipynb", "raise OSError('no such data')")
    folder = run_notebook(notebook, name="a", runs_dir=tmp_path / "runs").folder
    batch = json.loads((folder / "batch.json").read_text())
    for parameters, message in [({"num_epoch": 1}, "unknown parameter 'num_epoch'"), ([], "it has no parameters")]:
        (folder / "batch.json").write_text(json.dumps({**batch, "parameters": parameters}))
        with pytest.raises(ValueError, match=message):
            resume_notebook(folder)
