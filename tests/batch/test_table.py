"""The table of runs: what each was given, what became of it, and what it cost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch

import jepa
from jepa import JEPA, Encoder, Predictor, create_trainer
from jepa.data import make_loader

Make = Callable[..., Path]


@pytest.fixture
def sweep(tmp_path: Path, make_notebook: Make) -> Path:
    """A folder of runs, with those of a sweep: one finished, one failed."""
    notebook = make_notebook(tmp_path / "small.ipynb").read_text()
    for epochs, status, error in ((2, "finished", None), (4, "failed", "rank 0, cell 3: boom")):
        folder = tmp_path / "runs" / "epochs" / f"num_epochs={epochs}"
        (folder / "metrics").mkdir(parents=True)
        request = {"notebook": "small.ipynb", "parameters": {"num_epochs": epochs}, "nproc_per_node": 2}
        outcome = {"status": status, "started": time.time() - 50, "seconds": 12.5 * epochs, "error": error}
        (folder / "batch.json").write_text(json.dumps(request | outcome))
        (folder / "source.ipynb").write_text(notebook)
        told = {"state": status, "step": 4 * epochs, "total_steps": 16, "time": time.time()}
        (folder / "status.json").write_text(json.dumps(told))
        lines = [{"step": step, "time": 1.0, "loss": 1 / step} for step in range(1, 4 * epochs + 1)]
        lines[0]["val_loss"] = 9.0
        (folder / "metrics" / "train.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in lines) + '{"loss": 7'
        )
    return tmp_path / "runs"


def test_parameters_state_metrics_and_cost_are_columns(sweep: Path) -> None:
    table = jepa.runs(sweep)
    assert set(table.index) == {"epochs/num_epochs=2", "epochs/num_epochs=4"}
    row = table.loc["epochs/num_epochs=4"]
    assert (row["state"], row["step"], row["total_steps"]) == ("failed", 16, 16)
    assert (row["seconds"], row["processes"], row["error"]) == (50.0, 2, "rank 0, cell 3: boom")
    assert (row["parameters.num_epochs"], row["parameters.shape"], row["parameters.slow"]) == (4, (16, 3), "")
    assert (row["metrics.loss"], row["metrics.val_loss"]) == (1 / 16, 9.0)
    assert not [column for column in table if column in ("metrics.step", "metrics.time")]
    assert list(jepa.runs(sweep / "epochs").index) == [name.removeprefix("epochs/") for name in table.index]


def test_it_goes_to_parquet_and_back(sweep: Path, tmp_path: Path) -> None:
    table = jepa.runs(sweep)
    table.to_parquet(tmp_path / "runs.parquet")
    back = pandas.read_parquet(tmp_path / "runs.parquet")
    assert list(back.columns) == list(table.columns)
    assert back["metrics.loss"].equals(table["metrics.loss"])


def test_options_in_which_other_runs_differ_are_columns(tmp_path: Path) -> None:
    states = torch.randn(33, 3)
    loader = make_loader((states[:-1], states[1:]), batch_size=16)
    for rate in (1e-3, 2e-3):
        model = JEPA(Encoder(8, 3, depth=1), Predictor(8, depth=1))
        trainer = create_trainer(model, learning_rate=rate, run=str(rate), runs_dir=tmp_path, progress=False)
        trainer.train(loader, num_epochs=1)
    table = jepa.runs(tmp_path)
    assert dict(table["parameters.training.learning_rate"]) == {"0.001": 1e-3, "0.002": 2e-3}
    assert "parameters.training.seed" not in table
    assert (table["seconds"] > 0).all()
    assert (table["processes"] == 1).all()


def test_damaged_files_leave_gaps_and_no_error(sweep: Path) -> None:
    folder = sweep / "epochs" / "num_epochs=4"
    (folder / "metrics" / "train.jsonl").write_bytes(b"\xff\x00{" * 50)
    (folder / "source.ipynb").write_text("[")
    (folder / "batch.json").write_text('{"parameters": 3')
    row = jepa.runs(sweep).loc["epochs/num_epochs=4"]
    assert row["state"] == "unreadable"
    assert pandas.isna(row["metrics.loss"])


def test_a_folder_without_runs_is_an_empty_table(tmp_path: Path) -> None:
    table: Any = jepa.runs(tmp_path / "none")
    assert len(table) == 0
    assert list(table.columns[:3]) == ["state", "step", "total_steps"]
