"""Panel, curves and final figure of one run, together."""

from __future__ import annotations

import gc
import re
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ipywidgets import Widget
from jepa_widgets import LivePlot, RunView, attach
from jepa_widgets.publisher import Publisher

from jepa.data.memory import MemoryLoader
from jepa.models import JEPA, Encoder, Predictor
from jepa.trainer import History, JEPATrainer, create_trainer, events

MakeTrainer = Callable[..., JEPATrainer]
MakeView = Callable[..., RunView]
WaitUntil = Callable[[Callable[[], Any]], None]
WIDGET = "application/vnd.jupyter.widget-view+json"
PLOTLY = "application/vnd.plotly.v1+json"


def curves(view: RunView) -> dict[str, list[int]]:
    assert view.plot is not None
    own = next(iter(view.plot._runs.values()))
    return {name: [int(step) for step in curve.thinned(1000).steps] for name, curve in own.curves.items()}


def kinds(displayed: list[dict[str, Any]]) -> list[str]:
    """What was sent, in order: the live view, the figure, or what tells a page which of them to show."""
    return [kind(message["data"]) + ("*" if message.get("update") else "") for message in displayed]


def kind(data: dict[str, Any]) -> str:
    if WIDGET in data:
        return "+".join(re.findall("ControlPanel|LivePlot", data["text/plain"]))
    return "which" if "text/html" in data else "figure"


SHOWN = ["ControlPanel+LivePlot", "figure", "which"]


def test_a_run_in_a_thread_is_followed_to_its_end(
    make_trainer: MakeTrainer,
    make_view: MakeView,
    loader: MemoryLoader,
    displayed: list[dict[str, Any]],
    wait_until: WaitUntil,
) -> None:
    trainer = make_trainer()
    view = make_view(trainer)
    history = trainer.start(loader, num_epochs=3, wait=False).wait(30)
    wait_until(lambda: ">finished<" in view.panel.status.value and 'step-count">18<' in view.panel.status.value)
    assert "finished at step 18" in view.panel.answers.line.value
    assert curves(view)["loss"] == history.steps("loss") == list(range(1, 19))
    wait_until(lambda: view.plot.snapshot == view.plot.packed())


def test_the_figure_beside_the_live_view_is_exact_while_paused_and_at_the_end(
    make_trainer: MakeTrainer,
    make_view: MakeView,
    loader: MemoryLoader,
    displayed: list[dict[str, Any]],
    wait_until: WaitUntil,
) -> None:
    def last_step() -> int:
        traces = displayed[-1]["data"].get(PLOTLY, {}).get("data", [])
        return max((trace["x"][-1] for trace in traces), default=0)

    trainer = make_trainer()
    make_view(trainer)
    run = trainer.start(loader, max_steps=10**6, wait=False)
    assert kinds(displayed)[:3] == SHOWN
    wait_until(lambda: trainer.step > 2)
    run.pause().result(10)
    wait_until(lambda: last_step() == trainer.step)
    run.step(3).result(10)
    wait_until(lambda: trainer.state == "paused" and last_step() == trainer.step)
    run.stop()
    assert trainer.ended.wait(20)
    assert last_step() == trainer.step
    assert set(kinds(displayed)[3:]) == {"figure*"}
    assert len({message["transient"]["display_id"] for message in displayed if PLOTLY in message["data"]}) == 1
    assert (trainer.run.path / "figures" / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_the_figure_is_renewed_at_most_every_ten_seconds_while_the_run_trains(
    make_trainer: MakeTrainer,
    make_view: MakeView,
    loader: MemoryLoader,
    displayed: list[dict[str, Any]],
    wait_until: WaitUntil,
) -> None:
    trainer = make_trainer()
    assert make_view(trainer)._figure._interval == 10.0
    run = trainer.start(loader, max_steps=10**6, wait=False)
    wait_until(lambda: "figure*" in kinds(displayed))
    step = trainer.step
    assert not trainer.ended.wait(0.5)
    assert trainer.step > step
    assert kinds(displayed).count("figure*") == 1
    run.stop()


def test_a_start_from_the_panel_shows_nothing_a_second_time(
    make_trainer: MakeTrainer,
    make_view: MakeView,
    loader: MemoryLoader,
    displayed: list[dict[str, Any]],
    wait_until: WaitUntil,
) -> None:
    trainer = make_trainer()
    view = make_view(trainer)
    trainer.start(loader, max_steps=10**6, wait=False).stop()
    assert trainer.ended.wait(20)
    step = trainer.step
    view.panel.buttons.press("start")
    wait_until(lambda: trainer.step > step)
    assert kinds(displayed).count("which") == 1


def test_show_displays_it_again_with_the_curves_so_far(
    make_trainer: MakeTrainer, make_view: MakeView, loader: MemoryLoader, displayed: list[dict[str, Any]]
) -> None:
    trainer = make_trainer()
    make_view(trainer)
    run = trainer.start(loader, num_epochs=1, wait=False)
    run.wait(30)
    displayed.clear()
    run.show()
    assert kinds(displayed)[:3] == SHOWN
    assert max(displayed[1]["data"][PLOTLY]["data"][0]["x"]) == 6


def test_a_continued_run_shows_the_curves_of_its_first_part(
    make_trainer: MakeTrainer, make_view: MakeView, loader: MemoryLoader, displayed: list[dict[str, Any]]
) -> None:
    make_trainer(run="kept").train(loader, num_epochs=2)
    trainer = make_trainer(run="kept")
    view = make_view(trainer)
    assert curves(view) == {}
    trainer.start(loader, num_epochs=3, wait=False).wait(30)
    assert curves(view)["loss"] == list(range(1, 19))


def test_a_view_of_a_run_that_has_begun_shows_it_from_the_beginning(
    make_trainer: MakeTrainer, make_view: MakeView, loader: MemoryLoader
) -> None:
    trainer = make_trainer()
    trainer.train(loader, num_epochs=1)
    assert curves(make_view(trainer))["loss"] == [1, 2, 3, 4, 5, 6]


def test_what_is_recorded_while_a_view_is_made_is_in_chart_and_figure(
    make_trainer: MakeTrainer, make_view: MakeView, loader: MemoryLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer()
    trainer.train(loader, num_epochs=1)
    load = LivePlot.load

    def load_late(plot: LivePlot, history: History) -> None:
        history.append(7, {"loss": 1.0}, (1, time.time()))
        trainer.publish(events.MetricsLogged(7, 1, {"loss": 1.0}, time.time(), 0))
        load(plot, history)

    monkeypatch.setattr(LivePlot, "load", load_late)
    view = make_view(trainer)
    assert view.static is not None
    assert curves(view)["loss"] == [1, 2, 3, 4, 5, 6, 7]
    assert view.static._thinned()["loss"][0] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(("part", "other"), [("live_plot", "panel"), ("control_panel", "plot")])
def test_each_part_can_be_left_out(
    part: str,
    other: str,
    make_trainer: MakeTrainer,
    make_view: MakeView,
    loader: MemoryLoader,
    displayed: list[dict[str, Any]],
) -> None:
    trainer = make_trainer()
    view = make_view(trainer, **{part: False})
    assert [name for name in ("panel", "plot") if getattr(view, name) is not None] == [other]
    trainer.start(loader, num_epochs=1, wait=False).wait(30)
    assert kinds(displayed)[:1] == [{"panel": "ControlPanel", "plot": "LivePlot"}[other]]
    assert (kinds(displayed)[-1] == "figure*") == (other == "plot")


def test_close_detaches_and_ends_the_thread(
    make_trainer: MakeTrainer, make_view: MakeView, loader: MemoryLoader
) -> None:
    trainer = make_trainer()
    before = threading.active_count()
    view = make_view(trainer)
    assert threading.active_count() == before + 2  # for what is live, and for the figure that stays
    view.close()
    assert threading.active_count() == before
    trainer.view = None
    trainer.train(loader, num_epochs=1)
    assert curves(view) == {}
    assert not (trainer.run.path / "figures").exists()


def texts(view: RunView) -> str:
    assert view.panel is not None
    return f"{view.panel.status.value} {view.panel.answers.line.value} {view.panel.answers.error.value}"


def assert_takes_nothing(view: RunView) -> None:
    """No button can be pressed, and clicks and events that were on their way change and raise nothing."""
    assert view.panel is not None
    assert view.plot is not None
    assert not any(part.enabled for part in view.panel.parts)
    before = texts(view)
    for name in ("start", "pause", "resume", "step", "stop", "checkpoint", "evaluate", "inspect"):
        view.panel.buttons.press(name)
    view.panel.hyper_parameters.apply("learning_rate", "fast")
    view.panel.checkpoints.rewind("initial.pt")
    for event in (
        events.RunStarted(3, 0, 9, None),
        events.MetricsLogged(4, 0, {"loss": 1.0}, 0.0, 0),
        events.StateChanged(4, 0, "running"),
        events.RunEnded(5, 0, "finished", None),
        events.RunFailed(5, 0, ValueError("late"), "late"),
    ):
        view(event)
        view.static(event)
    view.panel.flush()
    assert texts(view) == before
    assert not any(part.enabled for part in view.panel.parts)


def test_a_closed_view_keeps_its_last_state_and_says_that_a_newer_trainer_took_over(
    make_trainer: MakeTrainer,
    make_view: MakeView,
    loader: MemoryLoader,
    displayed: list[dict[str, Any]],
    wait_until: WaitUntil,
) -> None:
    trainer = make_trainer()
    view = make_view(trainer)
    run = trainer.start(loader, max_steps=10**6, wait=False)
    wait_until(lambda: trainer.step > 2)
    run.stop()
    assert trainer.ended.wait(20)
    view.close()
    view.close()
    assert f'step-count">{trainer.step}<' in texts(view)
    assert ">stopped<" in texts(view)
    assert ">taken over by a newer trainer<" in texts(view)
    assert f"last checkpoint: step {trainer.step}" in texts(view)
    assert view.plot.snapshot == view.plot.packed()
    assert_takes_nothing(view)
    assert not trainer.is_live
    displayed.clear()
    view.show()
    assert kinds(displayed) == SHOWN
    assert ">taken over by a newer trainer<" in texts(view)


def stopped_run(runs: Path, loader: MemoryLoader, wait_until: WaitUntil) -> JEPATrainer:
    """A trainer with a view that nobody else holds."""
    torch.manual_seed(0)
    trainer = create_trainer(JEPA(Encoder(8, 4, depth=1), Predictor(8, depth=1)), runs_dir=runs, log_every=1)
    view = attach(trainer)
    trainer.view = view
    run = trainer.start(loader, max_steps=10**6, wait=False)
    wait_until(lambda: trainer.step > 2)
    view.panel.buttons.press("checkpoint")
    view.panel.buttons.press("inspect")
    run.stop()
    assert trainer.ended.wait(20)
    return trainer


@pytest.mark.parametrize("closed", [True, False])
def test_what_is_shown_does_not_keep_a_trainer_alive(
    tmp_path: Path, loader: MemoryLoader, displayed: list[dict[str, Any]], wait_until: WaitUntil, closed: bool
) -> None:
    trainer = stopped_run(tmp_path / "runs", loader, wait_until)
    view, step = trainer.view, trainer.step
    assert isinstance(view, RunView)
    thread = view._publisher._thread
    if closed:
        view.close()
    freed = [weakref.ref(part) for part in (trainer, trainer.model, trainer.optimizer)]
    del trainer

    def gone() -> bool:
        gc.collect()  # the trainer's parts refer to each other
        return all(ref() is None for ref in freed)

    wait_until(gone)
    wait_until(lambda: not thread.is_alive())
    assert {view.panel.model_id, view.plot.model_id} <= set(Widget.get_manager_state()["state"])
    assert f'step-count">{step}<' in texts(view)
    assert ("taken over by a newer trainer" if closed else "its trainer is gone") in texts(view)
    assert_takes_nothing(view)
    view.show()
    view.close()


def test_a_chart_that_cannot_be_drawn_does_not_stop_panel_or_training(
    make_trainer: MakeTrainer,
    make_view: MakeView,
    loader: MemoryLoader,
    displayed: list[dict[str, Any]],
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trainer = make_trainer()
    view = make_view(trainer)

    def fail() -> None:
        raise ValueError("no chart today")

    monkeypatch.setattr(view.plot, "flush", fail)
    trainer.start(loader, num_epochs=2, wait=False).wait(30)
    wait_until(lambda: ">finished<" in view.panel.status.value)
    assert "the live view could not be updated" in caplog.text


def test_epochs_of_a_few_milliseconds_do_not_speed_up_the_updates(
    make_trainer: MakeTrainer,
    make_view: MakeView,
    loader: MemoryLoader,
    displayed: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    wait_until: WaitUntil,
) -> None:
    trainer = make_trainer()
    view = make_view(trainer)
    flushes: list[int] = []
    real = view.plot.flush
    monkeypatch.setattr(view.plot, "flush", lambda: (flushes.append(trainer.step), real()))
    interval = view._publisher._interval
    run = trainer.start(loader, max_steps=10**6, wait=False)
    wait_until(lambda: len(flushes) >= 3)
    first = len(flushes)
    assert not trainer.ended.wait(4 * interval)
    assert len(flushes) - first <= 5
    assert trainer.epoch > 1  # each with a checkpoint, which is an event too
    run.stop()


def test_the_interval_of_a_view_is_half_a_second(make_trainer: MakeTrainer, make_view: MakeView) -> None:
    publisher = make_view(make_trainer())._publisher
    assert isinstance(publisher, Publisher)
    assert publisher._interval == 0.5


def test_without_a_run_folder_nothing_is_written(
    make_trainer: MakeTrainer,
    make_view: MakeView,
    loader: MemoryLoader,
    displayed: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    trainer = make_trainer(run=False)
    make_view(trainer)
    trainer.start(loader, num_epochs=1, wait=False).wait(30)
    assert kinds(displayed)[-1] == "figure*"
    assert not (tmp_path / "runs").exists()
