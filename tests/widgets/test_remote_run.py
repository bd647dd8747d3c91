"""The panel, its parts and the chart on a run that trains in another process: files are all that tells of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jepa_widgets import CheckpointList, ControlPanel, HyperParameters, LivePlot, RunButtons, RunView, StatusLine

import jepa
from jepa.data.memory import MemoryLoader
from jepa.files import read_lines
from jepa.trainer import History, JEPATrainer, RemoteRun, events
from jepa.trainer.remote import read_history

MakeTrainer = Callable[..., JEPATrainer]
WaitUntil = Callable[[Callable[[], Any]], None]

SCRIPT = """
import torch
from jepa import JEPA, Encoder, Predictor, create_trainer
from jepa.data import MemoryLoader

torch.set_num_threads(1)
states = torch.randn(48, 4, generator=torch.Generator().manual_seed(7))
loader = MemoryLoader(states, states.roll(1, dims=1), batch_size=8)
model = JEPA(Encoder(8, 4, depth=1), Predictor(8, depth=1))
silent = {"live_plot": False, "control_panel": False, "progress": False, "device": "cpu"}
trainer = create_trainer(model, run="far", val_loader=loader, log_every=1, **silent)
trainer.train(loader, max_steps=10**6)
"""


@pytest.fixture
def far(tmp_path: Path, wait_until: WaitUntil) -> Iterator[RemoteRun]:
    """A handle to a run that a script trains in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(jepa.__file__).parents[1])}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment)
    folder = tmp_path / "runs" / "far"
    try:
        wait_until(lambda: (folder / "status.json").exists() and jepa.attach(folder).status().step > 3)
        yield jepa.attach(folder)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def near(make_trainer: MakeTrainer, loader: MemoryLoader) -> RemoteRun:
    """A handle, as another process has it, to a run of this process that is paused, and without validation data."""
    run = make_trainer(run="near").start(loader, max_steps=10**6, wait=False)
    run.pause().result(20)
    assert run.path is not None
    return jepa.attach(run.path)


def answered(view: RunView, said: str, wait_until: WaitUntil) -> None:
    panel = view.panel
    assert panel is not None
    wait_until(lambda: said in panel.answers.line.value)
    wait_until(lambda: not panel.waiting)


def test_panel_and_chart_drive_a_run_in_another_process(
    far: RemoteRun, displayed: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, wait_until: WaitUntil
) -> None:
    monkeypatch.setattr("jepa.trainer.create.where", lambda: "frontend")
    far.show()
    view: Any = far._view
    panel, path = view.panel, far.path
    assert len(displayed) == 3, "the live view, the figure beside it, and which of them is shown"
    wait_until(lambda: ">running</b>" in panel.status.value)
    assert panel.buttons.enabled == ["pause", "stop", "checkpoint", "evaluate", "history"]

    panel.buttons.press("pause")
    answered(view, "Pause took effect after step", wait_until)
    wait_until(lambda: "step" in panel.buttons.enabled)
    held = far.status().step
    assert f'step-count">{held}<' in panel.status.value
    panel.buttons.press("step", n="3")
    wait_until(lambda: f'step-count">{held + 3}<' in panel.status.value)
    panel.hyper_parameters.apply("ema_momentum", "0.9", "hold")
    answered(view, "ema momentum 0.99 to 0.9 from step", wait_until)
    assert (panel.hyper_parameters.values["ema_momentum"], panel.hyper_parameters.courses["ema_momentum"]) == (
        "0.9", "held"
    )  # fmt: skip
    panel.hyper_parameters.apply("learning_rate", "-1")
    wait_until(lambda: "learning_rate must lie in [0, 1000]" in panel.hyper_parameters.error)
    panel.buttons.press("evaluate")
    answered(view, "Evaluate took effect", wait_until)
    panel.buttons.press("checkpoint")
    answered(view, f"checkpoint of step {held + 3} written", wait_until)
    wait_until(lambda: f"step-{held + 3:08}.pt" in panel.checkpoints.files)
    assert panel.checkpoints.files[-1] == "initial.pt"
    panel.checkpoints.rewind("initial.pt")
    wait_until(lambda: 'step-count">0<' in panel.status.value)
    panel.buttons.press("resume")
    wait_until(lambda: far.status().step > 3)
    panel.checkpoints.fork("initial.pt", "branch")
    answered(view, "Fork took effect", wait_until)
    panel.buttons.press("stop")
    wait_until(lambda: ">stopped</b>" in panel.status.value)
    assert panel.buttons.enabled == ["history"]
    assert "the process that trains starts a run" in panel.buttons.unavailable["start"]
    assert far.path == path.parent / "branch"

    lines = read_lines(path / "journal.jsonl") + read_lines(far.path / "journal.jsonl")
    done = [line["command"]["type"] for line in lines if line["event"] == "CommandApplied"]
    assert [name for name in done if name != "Step"] == [
        "Pause", "Set", "Evaluate", "SaveCheckpoint", "Rewind", "Resume", "Fork", "Stop",
    ]  # fmt: skip
    recorded = [line["step"] for line in read_lines(far.path / "metrics" / "train.jsonl") if "loss" in line]
    own = view.plot._runs["this run"].curves["loss"]
    wait_until(lambda: own.last == recorded[-1])
    assert not (far.path / "figures").exists(), "another process's folder is left as it is"
    view.close()


def test_each_part_can_be_used_alone_with_a_handle_of_either_kind(near: RemoteRun) -> None:
    for part in (StatusLine(near), RunButtons(near), HyperParameters(near), CheckpointList(near), ControlPanel(near)):
        part.flush()
    known = near.numbers()
    assert [row["name"] for row in HyperParameters(near).rows] == list(known)
    assert CheckpointList(near).files == ["initial.pt"]
    assert "step" in RunButtons(near).enabled
    assert RunButtons(near).unavailable.keys() == {"start", "inspect", "evaluate"}


def test_a_part_keeps_a_remote_handle_that_nobody_else_does(near: RemoteRun, wait_until: WaitUntil) -> None:
    buttons = RunButtons(jepa.attach(near.path))
    buttons.press("step")
    wait_until(lambda: (buttons.flush(), not buttons.waiting)[1])
    assert buttons.error == ""


def test_what_changes_without_an_event_is_seen_too(
    make_trainer: MakeTrainer, loader: MemoryLoader, wait_until: WaitUntil
) -> None:
    trainer = make_trainer(run="near")
    run = trainer.start(loader, max_steps=10**6, wait=False)
    run.pause().result(20)
    panel: Any = (view := RunView(jepa.attach(run.path))).panel
    trainer.rates.edit(trainer.step, "ema_momentum", 0.5, "hold")
    trainer.write_status()
    wait_until(lambda: panel.hyper_parameters.values["ema_momentum"] == "0.5")
    view.close()


def test_a_run_that_failed_elsewhere_says_why(near: RemoteRun) -> None:
    panel = ControlPanel(near)
    panel(events.RunFailed(3, 0, RuntimeError("OSError: cannot read shard 4"), ""))
    panel.flush()
    assert "cannot read shard 4" in panel.answers.error.value


def test_without_a_notebook_show_says_what_to_do(near: RemoteRun) -> None:
    with pytest.raises(RuntimeError, match=r"run\.show\(\) in a cell of JupyterLab; .*cli attach .*near follows"):
        near.show()


@pytest.mark.parametrize("numbers", [None, [], {"learning_rate": {"low": 0}}, {"a" * 201: {}}, 3])
def test_numbers_that_are_not_to_be_understood_are_not_shown(near: RemoteRun, numbers: object) -> None:
    status = near.path / "status.json"
    status.write_text(json.dumps({**json.loads(status.read_text()), "hyper_parameters": numbers}))
    table = HyperParameters(near)
    assert table.rows == []
    assert near.state == "paused"


def assert_shows_once(view: RunView, steps: list[int]) -> None:
    """Chart and figure show each step once, and nothing as given up."""
    assert view.plot is not None
    assert view.static is not None
    own = view.plot._runs["this run"]
    assert own.curves["loss"].thinned(1000).steps.tolist() == steps
    assert view.static._thinned()["loss"][0] == steps
    assert (own.old, view.static._curves.old) == ({}, {})


@pytest.fixture
def view(near: RemoteRun) -> Iterator[RunView]:
    """Of a run of this process, as another one has it."""
    view = RunView(near)
    yield view
    view.close()


def test_a_chart_that_follows_into_a_fork_gives_up_nothing(
    near: RemoteRun, view: RunView, wait_until: WaitUntil
) -> None:
    assert view.plot is not None
    assert view.static is not None
    with view.static.taking:  # the child's first records are read with the history, and told after it
        near.fork("child").result(20)
        near.step(8).result(20)  # the end of an epoch is among them
        wait_until(lambda: near.state == "paused" and near.history.last_step == near.status().step >= 8)
    steps = near.history.steps("loss")
    own = view.plot._runs["this run"]
    wait_until(lambda: own.last == view.static._curves.last == steps[-1])
    for sink in (view, view.static):
        near.unsubscribe(sink)  # once it has told what there is
    assert_shows_once(view, steps)


def test_what_is_recorded_while_a_view_is_made_is_shown_once(
    near: RemoteRun, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_late(folder: Path) -> History:
        then = near.status().step
        near.step(5).result(20)
        wait_until(lambda: near.state == "paused" and read_history(folder).last_step == then + 5)
        return read_history(folder)

    monkeypatch.setattr("jepa.trainer.remote.read_history", read_late)
    view = RunView(near)
    monkeypatch.undo()
    for sink in (view, view.static):
        near.unsubscribe(sink)
    assert_shows_once(view, near.history.steps("loss"))
    view.close()


def test_a_view_made_later_shows_going_back_as_such(near: RemoteRun, wait_until: WaitUntil) -> None:
    near.step(5).result(20)
    wait_until(lambda: near.state == "paused" and near.history.last_step >= 5)
    view: Any = RunView(near)
    near.rewind("initial.pt").result(20)
    near.step(2).result(20)
    own = view.plot._runs["this run"]
    wait_until(lambda: own.last == view.static._curves.last == 2)
    assert len(own.old["loss"]) == len(view.static._curves.old["loss"]) == 1
    view.close()


def test_a_cell_that_is_run_again_leaves_nothing_behind(
    near: RemoteRun, displayed: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, wait_until: WaitUntil
) -> None:
    def threads() -> int:
        names = (thread.name for thread in threading.enumerate())
        return sum(name.startswith(("jepa-follow", "jepa-publisher")) for name in names)

    monkeypatch.setattr("jepa.trainer.create.where", lambda: "frontend")
    before = threads()
    near.show()
    first: Any = near._view
    count = threads()
    assert count == before + 4, "two that follow, and two that show"
    for _ in range(3):
        run = jepa.attach(near.path)
        run.show()
    assert threads() == count
    assert near._view is None
    assert "shown by a newer view" in first.panel.answers.line.value
    last: Any = run._view
    run.show()
    assert run._view is last
    last.close()
    assert threads() == before


def test_a_chart_alone_follows_a_remote_run(near: RemoteRun, wait_until: WaitUntil) -> None:
    plot = LivePlot()
    near.subscribe(plot)
    near.step(3).result(20)
    wait_until(lambda: "loss" in plot._runs["this run"].curves and plot._runs["this run"].last >= 3)
    near.unsubscribe(plot)
