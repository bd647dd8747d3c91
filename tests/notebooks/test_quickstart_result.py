"""What the quickstart claims: training makes the encoder better, by a margin that seeds do not explain."""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Callable
from pathlib import Path

import nbformat
import papermill
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "00_quickstart.ipynb"
Report = Callable[[str, str, list[str], list[list[str]]], None]


def scores(folder: Path, seed: int) -> dict[str, float]:
    """Probe accuracies in percent, as the executed notebook's last cell shows them."""
    output = folder / f"seed-{seed}.ipynb"
    papermill.execute_notebook(NOTEBOOK, output, parameters={"seed": seed}, cwd=folder, progress_bar=False)
    results = [
        result["data"]["text/plain"]
        for cell in nbformat.read(output, as_version=4).cells
        for result in cell.get("outputs", [])
        if result["output_type"] == "execute_result" and "trained encoder" in result["data"]["text/plain"]
    ]
    return ast.literal_eval(results[-1])


@pytest.mark.slow
def test_training_makes_the_encoder_better_than_it_was(tmp_path: Path) -> None:
    found = scores(tmp_path, seed=0)
    assert found["trained encoder"] >= found["untrained encoder"] + 2


@pytest.mark.full
@pytest.mark.timeout(900)
def test_training_helps_by_more_than_seeds_explain(tmp_path: Path, report: Report) -> None:
    runs = [scores(tmp_path, seed) for seed in range(3)]
    columns = {name: [run[name] for run in runs] for name in runs[0]}
    gains = [run["trained encoder"] - run["untrained encoder"] for run in runs]
    rows = [
        [name, *(f"{value:.1f}" for value in values), f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"]
        for name, values in columns.items()
    ]
    report("quickstart", "Linear probe on digits", ["features", "seed 0", "seed 1", "seed 2", "mean ± sd"], rows)
    assert statistics.mean(gains) >= 2
    assert statistics.mean(gains) >= 2 * statistics.stdev(gains)


def test_the_readme_shows_the_measured_table() -> None:
    table = (ROOT / "docs" / "tables" / "quickstart.md").read_text(encoding="utf-8").partition("\n\n")[2].strip()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- quickstart table: begin -->\n(.*)\n<!-- quickstart table: end -->", readme, re.DOTALL)
    assert shown is not None
    assert shown[1].strip() == table
