"""Every control of the panel in a real page: on the run of its own notebook, and on one that trains elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import jepa
from jepa.files import read_lines
from jepa.trainer import RemoteRun

if TYPE_CHECKING:
    from tests.browser.conftest import Lab

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

CONFIG = """
num_epochs: 1000000
data: {name: pendulum, num_steps: 64, batch_size: 8, val_fraction: 0.25, cache: pendulum.npz}
model:
  encoder: {type: Encoder, hidden_dim: 8, input_dim: 3, depth: 1}
  predictor: {type: Predictor, hidden_dim: 8, depth: 1}
trainer: {log_every: 5, progress: false, checkpoint_every: 1000000}
"""


@pytest.fixture
def job(lab: Lab) -> Iterator[RemoteRun]:
    """A run that torchrun trains on two processes, in the folder of the notebooks; a notebook is open by then."""
    (lab.folder / "train.yaml").write_text(CONFIG, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "jepa.cli", "train", "--config", "train.yaml", "--device", "cpu", "--name", "job"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(jepa.__file__).parents[1])}
    process = subprocess.Popen(command, cwd=lab.folder, env=environment, stdout=subprocess.DEVNULL)
    folder = lab.folder / "runs" / "job"
    try:
        lab.open_cells('import jepa\nrun = jepa.attach("job")\nrun.show()')
        lab.wait_until(lambda: (folder / "status.json").exists() and jepa.attach(folder).status().step > 3, "the job")
        yield jepa.attach(folder)
        assert process.wait(60) == 0
    finally:
        process.terminate()
        process.wait(60)


def commands(run: Path) -> list[dict[str, Any]]:
    """What was asked of a run and done, as its journal has it."""
    return [line for line in read_lines(run / "journal.jsonl") if line["event"] == "CommandApplied"]


def test_a_notebook_that_trains_nothing_steers_a_job_of_two_processes(lab: Lab, job: RemoteRun) -> None:
    lab.run_all()
    lab.wait_for_curves()
    lab.wait_for_state("running")
    for name, why in (("inspect", "stay in the process that trains"), ("start", "the process that trains starts")):
        button = lab.page.locator(f".jepa-{name}").last
        assert button.is_disabled()
        assert why in (button.get_attribute("title") or "")
    lab.click("pause")
    lab.wait_for_state("paused")
    held = lab.step
    assert (job.state, job.status().step) == ("paused", held)
    lab.page.locator(".jepa-parameter-learning_rate .jepa-mode").last.select_option("hold")
    lab.apply_rate("0.0125")
    lab.wait_until(lambda: f"to 0.0125 from step {held + 1} on: held" in lab.said, "the new rate")
    lab.wait_until(lambda: lab.text(".jepa-parameter-learning_rate .jepa-present") == "0.0125", "the rate in the table")
    lab.screenshot("remote")
    lab.click("resume")
    lab.wait_until(lambda: lab.step > held, "more steps")
    lab.wait_until(lambda: (lab.curves.get("learning_rate") or [0])[-1] > held, "their records in the chart")
    lab.click("stop")
    lab.wait_for_state("stopped")
    asked = commands(job.path)
    assert [line["command"]["type"] for line in asked] == ["Pause", "Set", "Resume", "Stop"]
    assert {line["source"] for line in asked} == {"remote"}
    assert job.history["learning_rate"][-1] == 0.0125
    assert lab.page.errors == []


NOTEBOOK = """
import time
import torch
from jepa import JEPA, Encoder, ImageTokenizer, MaskedPredictor, create_trainer
from jepa.data import MemoryLoader
from jepa.trainer import Callback

class Slow(Callback):
    def on_step_ended(self, trainer, event):
        time.sleep(0.02)

torch.manual_seed(0)
tokenizer = ImageTokenizer(16, 4)
model = JEPA(Encoder(16, depth=2, tokenizer=tokenizer), MaskedPredictor(16, tokenizer.grid, depth=1))
images = torch.randint(0, 256, (64, 1, 16, 16), dtype=torch.uint8)
loader = MemoryLoader(images, batch_size=16)
trainer = create_trainer(model, "ijepa", run="shown", val_loader=loader, callbacks=[Slow()], clip_grad_norm=1.0)
run = trainer.start(loader, max_steps=100_000)
"""
WAIT = "await run"


@pytest.mark.full
def test_every_control_does_what_it_says_and_the_journal_tells_it(lab: Lab) -> None:
    lab.open_cells(NOTEBOOK, WAIT)
    lab.run_all()
    lab.wait_for_curves()
    run = lab.folder / "runs" / "shown"
    lab.wait_for_state("running")
    lab.click("pause")
    lab.wait_for_state("paused")
    held = lab.step
    lab.click("step")
    lab.wait_until(lambda: (lab.step, lab.state) == (held + 1, "paused"), "one step")
    for name, asked in (("checkpoint", "SaveCheckpoint"), ("evaluate", "Evaluate")):
        lab.click(name)
        lab.wait_until(lambda asked=asked: commands(run)[-1]["command"]["type"] == asked, name)
    set_every_number(lab, run)

    lab.click("inspect")
    for tab, drawn in (("batch", ".imagelayer image"), ("model", ".barlayer"), ("embeddings", ".scatterlayer"),
                       ("history", ".table")):  # fmt: skip
        lab.page.locator(f".jepa-tab-{tab}").last.click()
        lab.page.locator(f".jepa-inspector {drawn} >> visible=true").first.wait_for(timeout=60_000)
        lab.screenshot(f"tab-{tab}")
    lab.click("step")
    lab.wait_until(lambda: f"last batch at step {held + 2}" in lab.text(".jepa-inspector"), "a look at the next pause")
    assert [line["command"]["type"] for line in commands(run)].count("Inspect") == 1
    lab.click("hide")

    lab.page.locator(".jepa-checkpoint-list summary").last.click()
    lab.page.locator("tr", has_text=f"step {held + 1}").locator(".jepa-rewind").last.click()
    lab.wait_until(lambda: lab.step == held + 1, "the checkpoint")
    lab.page.locator(".jepa-fork-name").last.fill("branch")
    lab.page.locator("tr", has_text="the beginning").locator(".jepa-fork").last.click()
    branch = lab.folder / "runs" / "branch"
    lab.wait_until(lambda: branch.exists() and lab.step == 0, "the fork")
    assert [line["command"]["type"] for line in commands(run)][-2:] == ["Rewind", "Fork"]
    lab.screenshot("forked")
    lab.click("resume")
    lab.wait_until(lambda: lab.step > 3, "steps of the fork")
    lab.click("stop")
    lab.wait_for_state("stopped")
    lab.screenshot("stopped")
    stopped = lab.step
    lab.click("start")
    lab.wait_until(lambda: lab.state == "running" and lab.step > stopped, "steps after a start")
    lab.click("history")
    lab.page.locator(".jepa-inspector .table >> visible=true").first.wait_for()
    lab.click("stop")
    lab.wait_for_state("stopped")
    told = [line["command"]["type"] for line in commands(branch)]
    assert told == ["Resume", "Stop", "Stop"]
    assert {line["source"] for line in commands(run) + commands(branch)} == {"panel"}
    assert lab.page.errors == []


@pytest.mark.full
def test_the_panel_is_worked_with_the_keyboard_alone(lab: Lab) -> None:
    lab.open_cells(NOTEBOOK, WAIT)
    lab.run_all()
    lab.wait_for_curves()
    keyboard = lab.page.keyboard
    lab.page.locator(".jepa-pause").last.focus()
    keyboard.press("Enter")
    lab.wait_for_state("paused")
    lab.wait_until(lambda: focused(lab).startswith("Go on"), "the focus on what can be done now")
    keyboard.press("Tab")
    held = lab.step
    keyboard.press("Space")
    lab.wait_until(lambda: (lab.step, lab.state) == (held + 1, "paused"), "one step")
    lab.wait_until(lambda: focused(lab).startswith("Do so many"), "the focus back on Step")

    walk = [focused(lab)]
    while "Checkpoints (" not in walk[-1]:
        keyboard.press("Tab")
        walk.append(focused(lab))
        assert lab.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", walk[-1]
    names = ["Do so many", "Number of steps", "End with", "Write a", "Run the", "Look at", "Show the",
             "New learning rate", "How learning rate", "Use this learning rate", "New weight decay"]  # fmt: skip
    assert [text[: len(name)] for text, name in zip(walk, names, strict=False)] == names
    keyboard.press("Enter")
    keyboard.press("Tab")
    assert focused(lab) == "Name of the fork"

    lab.page.locator(".jepa-parameter-learning_rate .jepa-mode").last.focus()
    keyboard.press("b")  # in a notebook's command mode: a new cell
    keyboard.press("Shift+Tab")
    keyboard.type("0.5")
    keyboard.press("Escape")
    keyboard.type("0.003")
    keyboard.press("Enter")
    lab.wait_until(lambda: "to 0.003 from step" in lab.said, "the edit")
    assert lab.page.locator(".jp-Notebook .jp-Cell").count() == 2
    assert lab.page.errors == []


def focused(lab: Lab) -> str:
    """What a screen reader calls the element that has the focus."""
    return lab.page.evaluate("(e => e.getAttribute('aria-label') || e.title || e.textContent)(document.activeElement)")


def set_every_number(lab: Lab, run: Path) -> None:
    """Each number of the table gets what it has now, in the first mode that it offers; one gets too much."""
    lab.page.locator(".jepa-ranges summary").last.click()
    rows = lab.page.locator(".jepa-hyper-parameters tr")
    for row in rows.all():
        value = row.locator(".jepa-present").inner_text()
        row.locator("input").fill(value)
        row.locator(".jepa-apply").click()
        lab.wait_until(
            lambda value=value: commands(run)[-1]["command"].get("value") == pytest.approx(float(value)), "the edit"
        )
    names = [line["command"]["name"] for line in commands(run) if line["command"]["type"] == "Set"]
    assert len(names) == len(set(names)) == rows.count() >= 4
    modes = lab.page.locator(".jepa-parameter-log_every option")
    assert modes.all_inner_texts() == ["hold"]
    lab.apply_rate("1e9")
    lab.wait_until(lambda: "learning_rate must lie in [0, 1000]" in lab.said, "a refusal")
    lab.screenshot("refused")
