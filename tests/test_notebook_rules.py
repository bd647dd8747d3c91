"""The rules that notebook checks add to nbval."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).parents[1]


def check(notebook: Path, *cells: str) -> subprocess.CompletedProcess[str]:
    nbformat.write(new_notebook(cells=[new_code_cell(cell) for cell in cells]), notebook)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.notebook_rules",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:warnings",
    ]
    command += ["--nbval-lax", "--nbval-cell-timeout=100", "--nbval-current-env", "-rs", str(notebook)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_cells_after_a_failed_one_are_skipped_and_files_do_not_stay(tmp_path: Path) -> None:
    done = check(tmp_path / "fails.ipynb", "open('left', 'w').close()", "assert False", "1", "2")
    assert done.returncode == 1
    assert "1 failed, 1 passed, 2 skipped" in done.stdout
    assert "Cell 1 of this notebook failed" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["fails.ipynb"]


@pytest.mark.slow
def test_a_dead_kernel_fails_its_cell_at_once(tmp_path: Path) -> None:
    start = time.monotonic()
    done = check(tmp_path / "dies.ipynb", "import os", "os._exit(1)", "1")
    assert time.monotonic() - start < 60
    assert "1 failed, 1 passed, 1 skipped" in done.stdout
    assert "the kernel died" in done.stdout
