"""Clicks that meet a busy kernel, with the releases of ipykernel that differ in it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jepa.files import read_lines
from tests.browser.conftest import TRAINER

if TYPE_CHECKING:
    from tests.browser.conftest import Lab

pytestmark = [pytest.mark.browser, pytest.mark.full, pytest.mark.timeout(400)]

WAIT = "history = await run"
BLOCK = """
import pathlib
while not pathlib.Path("go").exists():
    time.sleep(0.02)
"""
# Whether a click is handled while a cell blocks the kernel: by releases that give widgets a thread of their own.
AT_ONCE = {"7.0.1": True, "7.3.0": True, "7.4.0": False}


@pytest.fixture
def kernel_of(server: tuple[str, Path], tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A kernel with the release of ipykernel that the test asks for."""
    packages = tmp_path / "packages"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", packages]
    done = subprocess.run([*command, f"ipykernel=={request.param}"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"ipykernel {request.param} cannot be installed here: {done.stderr.strip()[-200:]}")
    name = f"ipykernel-{request.param}"
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": name,
        "language": "python",
        "env": {"PYTHONPATH": str(packages)},
    }
    folder = server[1] / ".jupyter-private" / "data" / "kernels" / name
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    return name


def handled(lab: Lab) -> int:
    """How many times the run was paused."""
    lines = read_lines(lab.folder / "runs" / "shown" / "journal.jsonl")
    return sum(line["event"] == "CommandApplied" and line["command"]["type"] == "Pause" for line in lines)


@pytest.mark.parametrize(("kernel_of", "at_once"), AT_ONCE.items(), indirect=["kernel_of"])
def test_clicks_reach_the_run_while_a_cell_waits_or_blocks(lab: Lab, kernel_of: str, at_once: bool) -> None:
    lab.open_cells(TRAINER, WAIT, BLOCK, kernel_name=kernel_of)
    lab.run_cell("create_trainer(")
    lab.wait_for_curves()
    lab.run_cell(WAIT)
    lab.click("pause")
    lab.wait_for_state("paused")
    assert lab.executed(WAIT) is None
    lab.click("resume")
    lab.wait_for_state("running")
    lab.interrupt()
    lab.wait_until(lambda: lab.executed(WAIT), "the end of the wait")
    release = "import ipykernel; print('ipykernel-' + ipykernel.__version__)"
    lab.wait_until(lambda: lab.kernel(release) == kernel_of, "the kernel that was asked for")

    lab.run_cell("while not")
    lab.click("pause")
    if at_once:
        lab.wait_for_state("paused")
    else:
        step = lab.step
        lab.wait_until(lambda: lab.step > step + 20, "training goes on beside the cell")
        assert handled(lab) == 1
    assert lab.executed("while not") is None
    (lab.folder / "go").touch()
    lab.wait_until(lambda: lab.executed("while not"), "the end of the cell")
    lab.wait_for_state("paused")
    assert handled(lab) == 2
    assert lab.kernel("print(run.state)") == "paused"
    lab.click("stop")
    lab.wait_for_state("stopped")
    assert lab.page.errors == []
