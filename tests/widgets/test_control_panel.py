"""Buttons that only ask, and what is said about what they did."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from jepa_widgets import ControlPanel, RunView

from jepa.data.memory import MemoryLoader
from jepa.files import read_lines
from jepa.trainer import JEPATrainer, RunHandle, events

MakeTrainer = Callable[..., JEPATrainer]
MakeView = Callable[..., RunView]
WaitUntil = Callable[[Callable[[], Any]], None]
MANY = 1_000_000


class Page:
    """A panel as its user meets it: names of buttons, texts without their markup."""

    def __init__(self, panel: ControlPanel) -> None:
        self.panel = panel

    def click(self, name: str) -> None:
        self.panel.buttons._handle_custom_msg({"button": name, "n": "1"}, [])

    def apply(self, text: str, name: str = "learning_rate", mode: str = "scale") -> None:
        self.panel.hyper_parameters._handle_custom_msg({"name": name, "value": text, "mode": mode}, [])

    @property
    def enabled(self) -> set[str]:
        names = set(self.panel.buttons.enabled) - {"history"}
        return names | ({"apply"} if self.panel.hyper_parameters.enabled else set())

    @property
    def state(self) -> str:
        match = re.search(r'class="jepa-state"[^>]*>(\w+)<', self.panel.status.value)
        return match[1] if match else ""

    @property
    def step(self) -> int:
        match = re.search(r'class="jepa-step-count">(\d+)<', self.panel.status.value)
        return int(match[1]) if match else -1

    @property
    def said(self) -> str:
        match = re.search(r'class="jepa-acknowledged">(.*?)</span>', self.panel.answers.line.value)
        return match[1] if match else ""

    @property
    def error(self) -> str:
        return "".join([self.panel.answers.error.value, *(part.error for part in self.panel.parts)])


@pytest.fixture
def trainer(make_trainer: MakeTrainer) -> JEPATrainer:
    return make_trainer()


@pytest.fixture
def page(trainer: JEPATrainer, make_view: MakeView) -> Page:
    panel = make_view(trainer, live_plot=False).panel
    assert panel is not None
    return Page(panel)


@pytest.fixture
def run(
    trainer: JEPATrainer, page: Page, loader: MemoryLoader, displayed: list[dict[str, Any]], wait_until: WaitUntil
) -> RunHandle:
    """A run that will not end by itself, shown by `page`."""
    run = trainer.start(loader, max_steps=MANY, wait=False)
    wait_until(lambda: page.state == "running" and page.step > 0)
    return run


def test_buttons_are_enabled_by_the_state_of_the_run(page: Page, run: RunHandle, wait_until: WaitUntil) -> None:
    wait_until(lambda: page.enabled == {"pause", "stop", "checkpoint", "inspect", "apply"})
    page.click("pause")
    wait_until(lambda: page.state == "paused")
    assert page.enabled == {"resume", "step", "stop", "checkpoint", "inspect", "apply"}
    page.click("resume")
    wait_until(lambda: page.state == "running")
    page.click("stop")
    wait_until(lambda: page.state == "stopped")
    assert page.enabled == {"start"}


def test_before_the_first_run_only_start_can_be_pressed_and_it_says_what_is_missing(
    page: Page, wait_until: WaitUntil
) -> None:
    assert page.enabled == {"start"}
    page.click("start")
    wait_until(lambda: "nothing was trained yet: call train(loader, num_epochs=...)" in page.error)


def test_pause_holds_the_step_counter_and_says_where(
    page: Page, run: RunHandle, trainer: JEPATrainer, wait_until: WaitUntil
) -> None:
    page.click("pause")
    wait_until(lambda: page.state == "paused")
    held = trainer.step
    wait_until(lambda: page.said == f"Pause took effect after step {held}")
    assert not trainer.ended.wait(0.3)
    assert trainer.step == page.step == held


def test_step_does_exactly_one_step(page: Page, run: RunHandle, trainer: JEPATrainer, wait_until: WaitUntil) -> None:
    run.pause().result(10)
    wait_until(lambda: page.state == "paused")
    for step in range(trainer.step + 1, trainer.step + 4):
        page.click("step")
        wait_until(lambda step=step: trainer.step == step and page.state == "paused" and page.step == step)


def test_a_new_rate_is_acknowledged_with_step_old_and_new_value(
    page: Page, run: RunHandle, trainer: JEPATrainer, wait_until: WaitUntil
) -> None:
    run.pause().result(10)
    old = trainer.status().learning_rate
    page.apply("2.5e-3")
    wait_until(lambda: page.said.startswith(f"learning rate {old:.4g} to 0.0025 from step {trainer.step + 1} on: "))
    assert page.said.endswith(f": {trainer.courses()['learning_rate']}")
    assert "rescaled x " in page.said
    assert trainer.status().learning_rate == pytest.approx(2.5e-3)
    wait_until(lambda: page.panel.hyper_parameters.values["learning_rate"] == "0.0025")
    (line,) = [line for line in read_lines(trainer.run.journal_path) if line.get("source") == "panel"]
    assert line["command"] == {"type": "Set", "name": "learning_rate", "value": 0.0025, "mode": "scale"}


def test_the_field_shows_the_present_rate(page: Page, run: RunHandle, trainer: JEPATrainer) -> None:
    run.pause().result(10)
    page.panel.flush()
    assert float(page.panel.hyper_parameters.values["learning_rate"]) == pytest.approx(
        trainer.status().learning_rate, rel=1e-2
    )


@pytest.mark.parametrize("value", ["-1", "1e9", "nan"])
def test_a_rate_out_of_range_is_refused_with_the_range(
    page: Page, run: RunHandle, trainer: JEPATrainer, wait_until: WaitUntil, value: str
) -> None:
    run.pause().result(10)
    old = trainer.status().learning_rate
    page.apply(value)
    wait_until(lambda: page.said.startswith(f"Set refused at step {trainer.step}: learning_rate must lie in [0, 1000]"))
    assert trainer.status().learning_rate == old


def test_a_rate_that_is_no_number_is_an_error_that_the_next_one_clears(
    page: Page, run: RunHandle, wait_until: WaitUntil
) -> None:
    page.apply("fast")
    wait_until(lambda: "the learning rate must be a number such as 3e-4, got 'fast'" in page.error)
    page.apply("0.002")
    wait_until(lambda: page.error == "")
    page.apply("fast")
    assert page.error
    page.click("pause")
    assert page.error == ""


def test_handlers_return_at_once_while_a_step_takes_long(
    make_trainer: MakeTrainer,
    make_view: MakeView,
    loader: MemoryLoader,
    gate: Any,
    displayed: list[dict[str, Any]],
    wait_until: WaitUntil,
) -> None:
    trainer = make_trainer(callbacks=[gate])
    page = Page(make_view(trainer, live_plot=False).panel)
    trainer.start(loader, max_steps=MANY, wait=False)
    assert gate.reached.wait(20)
    wait_until(lambda: page.state == "running")
    start = time.monotonic()
    for name in ("pause", "checkpoint", "inspect"):
        page.click(name)
    page.apply("0.002")
    assert time.monotonic() - start < 1.0  # the step takes up to 30 s
    assert trainer.step == 3
    assert trainer.state == "running"
    assert trainer.last_checkpoint is None
    gate.open.set()
    wait_until(lambda: page.state == "paused" and trainer.last_checkpoint == trainer.run.checkpoints.file(3))
    assert trainer.step == 3
    assert trainer.rates.learning_rate(3) == 0.002
    wait_until(lambda: page.panel.inspector.layout.display == "")  # drawn after all else


def test_a_checkpoint_is_written_and_named(
    page: Page, run: RunHandle, trainer: JEPATrainer, monkeypatch: pytest.MonkeyPatch, wait_until: WaitUntil
) -> None:
    monkeypatch.chdir(trainer.run.path.parent)
    run.pause().result(10)
    page.click("checkpoint")
    file = trainer.run.checkpoints.file(trainer.step)
    wait_until(lambda: f"checkpoint of step {trainer.step} written: {trainer.run.name}/checkpoints" in page.said)
    assert file.exists()
    assert f"last checkpoint: step {trainer.step}" in page.panel.answers.line.value


def test_checkpoints_that_nobody_asked_for_do_not_push_an_answer_away(
    page: Page, run: RunHandle, trainer: JEPATrainer, wait_until: WaitUntil
) -> None:
    page.apply("0.002")
    wait_until(lambda: page.said.startswith("learning rate"))
    saved = trainer.last_checkpoint
    wait_until(lambda: trainer.last_checkpoint != saved)
    run.pause().result(10)
    wait_until(lambda: page.state == "paused")
    run.resume().result(10)
    page.apply("0.003")
    wait_until(lambda: "to 0.003" in page.said)


def test_inspect_shows_the_last_batch_while_paused(
    page: Page, run: RunHandle, trainer: JEPATrainer, wait_until: WaitUntil
) -> None:
    for _ in range(2):
        page.click("pause")
        wait_until(lambda: page.state == "paused")
        page.click("inspect")
        step = trainer.step
        wait_until(lambda step=step: f"last batch at step {step}" in page.panel.inspector.children[0].children[0].value)
        page.click("resume")
        wait_until(lambda step=step: page.step > step)


def test_start_goes_on_after_a_stop(page: Page, run: RunHandle, trainer: JEPATrainer, wait_until: WaitUntil) -> None:
    page.click("stop")
    wait_until(lambda: page.state == "stopped" and trainer.ended.is_set())
    stopped = trainer.step
    wait_until(lambda: page.said == f"stopped at step {stopped}")
    page.click("start")
    wait_until(lambda: page.state == "running" and page.step > stopped)
    assert page.said == f"started at step {stopped}"
    assert trainer.history.steps("loss") == sorted(set(trainer.history.steps("loss")))


def test_start_while_the_last_figure_is_still_drawn_goes_on_in_the_same_panel(
    page: Page, run: RunHandle, trainer: JEPATrainer, wait_until: WaitUntil
) -> None:
    drawing, drawn = threading.Event(), threading.Event()

    def draw(event: events.Event) -> None:
        if isinstance(event, events.RunEnded):
            drawing.set()
            assert drawn.wait(30)

    trainer.subscribe(draw)
    run.stop()
    assert drawing.wait(20)
    stopped = trainer.step
    wait_until(lambda: page.state == "stopped" and page.enabled == {"start"})
    clicked = threading.Thread(target=page.click, args=["start"])
    clicked.start()
    assert not trainer.ended.is_set()
    drawn.set()
    clicked.join(20)
    wait_until(lambda: page.state == "running" and page.step > stopped)
    assert page.said == f"started at step {stopped}"
    trainer.unsubscribe(draw)


def test_start_after_the_last_step_says_how_to_go_on(
    page: Page, trainer: JEPATrainer, loader: MemoryLoader, displayed: list[dict[str, Any]], wait_until: WaitUntil
) -> None:
    trainer.train(loader, num_epochs=1)
    wait_until(lambda: page.state == "finished" and page.said == "finished at step 6")
    page.click("start")
    wait_until(lambda: "all 6 steps are done; start(loader, num_epochs=...) with more goes on" in page.error)


def test_the_traceback_of_a_failed_run_is_shown_until_it_starts_again(
    make_trainer: MakeTrainer,
    make_view: MakeView,
    displayed: list[dict[str, Any]],
    wait_until: WaitUntil,
) -> None:
    class Faulty:
        """Batches, until something breaks."""

        broken = True

        def __iter__(self) -> Any:
            states = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
            for number in range(8):
                if number == 4 and self.broken:
                    raise OSError("cannot read <shard 4>")
                yield states[8 * number : 8 * number + 8], states[8 * number : 8 * number + 8]

    trainer, loader = make_trainer(), Faulty()
    page = Page(make_view(trainer, live_plot=False).panel)
    run = trainer.start(loader, max_steps=8, wait=False)
    with pytest.raises(OSError, match="shard 4"):
        run.wait(20)
    wait_until(lambda: page.state == "failed" and page.error)
    assert "<summary>OSError: cannot read &lt;shard 4&gt;</summary>" in page.error
    assert "Traceback (most recent call last)" in page.error
    assert page.enabled == {"start"}

    loader.broken = False
    with pytest.warns(UserWarning, match="Faulty decides its own order"):
        page.click("start")
    wait_until(lambda: page.state == "finished")
    assert page.error == ""


def test_a_command_that_comes_after_the_end_is_answered(
    page: Page, run: RunHandle, trainer: JEPATrainer, wait_until: WaitUntil
) -> None:
    run.stop()
    assert trainer.ended.wait(20)
    page.click("pause")  # before the page has heard of the end
    wait_until(lambda: page.error == "Pause() came too late: the run is stopped")
    assert not page.panel.waiting


def test_clicks_from_many_threads_are_all_answered(
    page: Page, run: RunHandle, trainer: JEPATrainer, wait_until: WaitUntil
) -> None:
    def click() -> None:
        for _ in range(10):
            page.click("inspect")

    threads = [threading.Thread(target=click) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: not page.panel.waiting)
    applied = [line for line in read_lines(Path(trainer.run.journal_path)) if line["event"] == "CommandApplied"]
    assert len(applied) == 40
