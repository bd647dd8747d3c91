"""When the inspector looks again: at pauses, or within its share of the training's time; and who hears of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from jepa_widgets import ControlPanel, RunView
from jepa_widgets.renewal import Renewal

from jepa.data.memory import MemoryLoader
from jepa.files import read_lines
from jepa.trainer import JEPATrainer, Status, attach
from jepa.trainer.inspection_budget import InspectionBudget

MakeTrainer = Callable[..., JEPATrainer]
MakeView = Callable[..., RunView]
WaitUntil = Callable[[Callable[[], Any]], None]


def at(state: str, step: int) -> Status:
    return Status(state, step, 100, 0, 1.0, None, 1e-3)


def choose(renewal: Renewal, value: str) -> None:
    renewal.choice._handle_custom_msg({"event": "choose", "value": value}, [])


def test_it_is_due_once_a_pause() -> None:
    renewal = Renewal()
    asked = [renewal.is_due(at(*when)) for when in (("running", 3), ("paused", 4), ("paused", 4), ("paused", 5))]
    assert asked == [False, True, False, True]
    renewal.took(7, 0.1)
    assert not renewal.is_due(at("paused", 7))
    choose(renewal, renewal.asked)
    assert not renewal.is_due(at("paused", 8))


@pytest.mark.parametrize("state", ["stopping", "finished", "failed", "idle"])
def test_it_is_never_due_while_nothing_trains_or_a_run_ends(state: str) -> None:
    renewal = Renewal()
    choose(renewal, renewal.always)
    assert not renewal.is_due(at(state, 3))


def test_batch_and_journal_are_each_looked_at_once_a_pause() -> None:
    renewal = Renewal()
    assert renewal.is_due(at("paused", 4))
    renewal.took(4, 0.1)
    assert [renewal.is_due(at("paused", 4), what) for what in ("journal", "journal", "batch")] == [True, False, False]


def test_while_the_run_trains_it_waits_until_the_last_look_is_paid_for() -> None:
    now = [100.0]
    renewal = Renewal(InspectionBudget(clock=lambda: now[0]))
    choose(renewal, renewal.always)
    assert "2 % of its time" in renewal.choice.value
    assert renewal.is_due(at("running", 1))
    renewal.took(1, 0.1)
    due = []
    for step in range(2, 12):
        now[0] += 1.0
        due.append(renewal.is_due(at("running", step)))
    assert due == [False] * 4 + [True] * 6  # 0.1 s are 2 % of 5 s, of which 4.9 s are left


def test_an_open_inspector_is_renewed_at_each_pause_and_nobody_else_hears_of_it(
    make_trainer: MakeTrainer,
    make_view: MakeView,
    loader: MemoryLoader,
    displayed: list[dict[str, Any]],
    wait_until: WaitUntil,
) -> None:
    trainer = make_trainer()
    panel: Any = make_view(trainer, live_plot=False).panel
    run = trainer.start(loader, max_steps=10**6, wait=False)
    wait_until(lambda: trainer.step > 1)
    run.pause().result(20)
    panel.buttons.press("inspect")
    wait_until(lambda: panel.inspector.is_open)
    held = trainer.step
    run.step(2).result(20)
    wait_until(lambda: getattr(panel.inspector.inspection, "step", 0) == held + 2)
    assert "Step took effect" in panel.answers.line.value
    panel.inspector.hide()
    run.step(1).result(20)
    wait_until(lambda: f'step-count">{held + 3}<' in panel.status.value)
    panel.flush()
    assert panel.inspector.inspection.step == held + 2
    assert trainer.run is not None
    lines = [line for line in read_lines(trainer.run.journal_path) if line["event"] == "CommandApplied"]
    assert [line["command"]["type"] for line in lines] == ["Pause", "Inspect", "Step", "Step"]


def test_what_is_not_seen_is_not_looked_at(
    make_trainer: MakeTrainer, loader: MemoryLoader, wait_until: WaitUntil
) -> None:
    trainer = make_trainer()
    run = trainer.start(loader, max_steps=10**6, wait=False)
    run.step(1).result(20)
    wait_until(lambda: trainer.state == "paused")
    panel, held = ControlPanel(trainer), trainer.step
    inspector = panel.inspector
    panel.buttons.press("inspect")
    wait_until(lambda: (panel.flush(), inspector.is_open)[1])
    inspector.turn_to("History")
    run.step(2).result(20)
    wait_until(lambda: trainer.step == held + 2 and trainer.state == "paused")
    panel.flush()
    assert "Step 2" in inspector.history.figures["journal"].figure
    assert not panel.waiting
    inspector.turn_to("Embeddings")
    assert inspector.inspection.step == held
    assert panel.waiting
    wait_until(lambda: (panel.flush(), inspector.inspection.step == held + 2)[1])
    assert inspector.tabs["Embeddings"].inspection is inspector.inspection
    inspector.turn_to("History")
    inspector.turn_to("Embeddings")
    assert not panel.waiting


def test_a_running_run_is_looked_at_again_and_again_where_that_is_wanted(
    make_trainer: MakeTrainer,
    make_view: MakeView,
    loader: MemoryLoader,
    displayed: list[dict[str, Any]],
    wait_until: WaitUntil,
) -> None:
    trainer = make_trainer()
    panel: Any = make_view(trainer, live_plot=False).panel
    run = trainer.start(loader, max_steps=10**6, wait=False)
    wait_until(lambda: trainer.step > 1)
    panel.buttons.press("inspect")
    wait_until(lambda: panel.renewal._budget.seconds_left > 0)  # a look that was asked for is paid for, too
    panel.renewal._budget = InspectionBudget(0.5)  # else this test would take some seconds
    panel.renewal._budget.trains(True)
    choose(panel.renewal, panel.renewal.always)
    seen: set[int] = set()
    wait_until(lambda: (seen.add(getattr(panel.inspector.inspection, "step", 0)), len(seen - {0}) >= 3)[1])
    assert run.state == "running"
    assert panel.buttons.error == ""


def test_the_journal_is_shown_before_anything_was_inspected(
    make_trainer: MakeTrainer, make_view: MakeView, loader: MemoryLoader, displayed: list[dict[str, Any]]
) -> None:
    trainer = make_trainer()
    panel: Any = make_view(trainer, live_plot=False).panel
    trainer.train(loader, max_steps=2)
    panel.buttons.press("history")
    assert panel.inspector.is_open
    assert panel.inspector.opened == "History"
    assert "RunEnded" in panel.inspector.tabs["History"].figures["journal"].figure


def test_the_journal_of_a_run_elsewhere_is_renewed_at_a_pause(
    make_trainer: MakeTrainer, loader: MemoryLoader, wait_until: WaitUntil
) -> None:
    trainer = make_trainer(run="near")
    trainer.start(loader, max_steps=10**6, wait=False).pause().result(20)
    assert trainer.run is not None
    run, held = attach(trainer.run.path), trainer.step
    panel = ControlPanel(run)
    panel.buttons.press("history")
    journal = panel.inspector.tabs["History"].figures["journal"]
    assert "Step" not in journal.figure
    assert panel.inspector.buttons["Batch"].disabled
    run.step(2).result(20)
    wait_until(lambda: run.state == "paused" and run.status().step == held + 2)
    panel.flush()
    assert "Step 2" in journal.figure
