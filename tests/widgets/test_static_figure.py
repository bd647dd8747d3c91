"""The picture of a run that stays."""

from __future__ import annotations

import base64
import contextvars
import json
import random
import threading
from collections.abc import Callable
from typing import Any

import jepa_widgets.static_figure
import plotly.graph_objects as go
import pytest
from jepa_widgets import StaticFigure, figure_bundle
from jepa_widgets.static_figure import METRICS, Loaded

from jepa.data.memory import MemoryLoader
from jepa.figures import history_figure
from jepa.trainer import Callback, History, JEPATrainer, events

MakeTrainer = Callable[..., JEPATrainer]
PLOTLY = "application/vnd.plotly.v1+json"


def test_a_bundle_holds_plotly_png_and_text() -> None:
    bundle = figure_bundle(go.Figure().add_scatter(x=[0, 1], y=[2.0, 3.0]))
    assert bundle.keys() == {PLOTLY, "image/png", "text/plain"}
    assert bundle[PLOTLY]["data"][0]["y"] == [2.0, 3.0]
    assert base64.b64decode(bundle["image/png"])[:4] == b"\x89PNG"
    json.dumps(bundle)


def test_the_end_of_a_run_publishes_one_bundle_and_writes_the_same_into_the_run_folder(
    make_trainer: MakeTrainer, loader: MemoryLoader, displayed: list[dict[str, Any]]
) -> None:
    trainer = make_trainer()
    trainer.subscribe(StaticFigure(trainer))
    history = trainer.train(loader, num_epochs=2)
    (message,) = displayed
    bundle, folder = message["data"], trainer.run.path / "figures"
    assert bundle.keys() == {PLOTLY, "image/png", "text/plain"}
    assert sorted(file.name for file in folder.iterdir()) == ["curves.json", "curves.png"]
    assert (folder / "curves.png").read_bytes() == base64.b64decode(bundle["image/png"])
    assert json.loads((folder / "curves.json").read_text()) == bundle[PLOTLY]
    loss = next(trace for trace in bundle[PLOTLY]["data"] if trace["name"] == "training")
    assert loss["x"] == history.steps("loss")
    assert loss["y"] == pytest.approx(history["loss"])


def test_a_bundle_of_the_noisiest_curves_holds_at_most_100_kilobytes(
    make_trainer: MakeTrainer, displayed: list[dict[str, Any]]
) -> None:
    trainer, draw = make_trainer(), random.Random(0)
    for step in range(1, 4001):
        trainer.history.append(step, {name: draw.random() for name in METRICS})
    figure = StaticFigure(trainer)
    figure.load(trainer.history)
    figure.complete()
    (message,) = displayed
    assert len(message["data"][PLOTLY]["data"]) == len(METRICS)
    assert 30_000 < len(json.dumps(message["data"])) <= 100_000


def test_a_renewal_is_exact_in_both_forms_and_made_only_where_there_is_news(
    make_trainer: MakeTrainer, displayed: list[dict[str, Any]]
) -> None:
    figure = StaticFigure(make_trainer())
    figure.place()
    for step in (1, 2, 3):
        figure(events.MetricsLogged(step, 0, {"loss": 1.0 / step}, 0.0, 0))
        figure.renew()
        figure.renew()
    bundles = [message["data"] for message in displayed[2:]]
    assert [bundle[PLOTLY]["data"][0]["x"][-1] for bundle in bundles] == [1, 2, 3]
    assert len({bundle["image/png"] for bundle in bundles}) == 3


def test_a_figure_whose_points_were_exchanged_is_the_one_that_plotly_would_make_anew(
    make_trainer: MakeTrainer, displayed: list[dict[str, Any]]
) -> None:
    trainer, history = make_trainer(run=False), History()
    figure = StaticFigure(trainer)
    figure.place()
    for step, metrics in (
        (1, {"loss": 3.0}),
        (2, {"loss": 2.0}),
        (3, {"loss": 1.0, "val_loss": 4.0}),
        (4, {"loss": 0.5}),
    ):
        history.append(step, metrics)
        figure(events.MetricsLogged(step, 0, metrics, 0.0, 0))
        figure.renew()
        wanted = json.loads(history_figure(history).to_json())
        assert displayed[-1]["data"][PLOTLY] == wanted


def test_a_renewal_on_another_thread_is_sent_in_the_context_of_the_cell_that_shows_the_figure(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, displayed: list[dict[str, Any]]
) -> None:
    cell = contextvars.ContextVar("cell", default="none")
    sent: list[str] = []
    monkeypatch.setattr(jepa_widgets.static_figure, "update_display", lambda *_, **__: sent.append(cell.get()))
    figure = StaticFigure(make_trainer())
    cell.set("third cell")
    figure.place()
    figure(events.MetricsLogged(1, 0, {"loss": 1.0}, 0.0, 0))
    thread = threading.Thread(target=figure.renew)
    thread.start()
    thread.join(30)
    assert sent == ["third cell"]


def told(history: History, kind: type[events.Event], step: int, time: float = 0.0) -> events.Event:
    """Record a step as a run does; the event that tells of it."""
    if kind is events.MetricsLogged:
        history.append(step, {"loss": 1.0}, (0, time))
        return events.MetricsLogged(step, 0, {"loss": 1.0}, time, 0)
    name = "val_loss" if kind is events.Evaluated else "epoch_loss"
    history.append(step, {name: 1.0}, (0, time))
    return events.Evaluated(step, 0, {name: 1.0}) if kind is events.Evaluated else events.EpochEnded(step, 0, {})


def test_what_was_loaded_is_known_when_it_is_told_and_what_comes_after_going_back_is_not() -> None:
    history = History()
    early = [
        told(history, events.MetricsLogged, 10, 100.0),
        told(history, events.Evaluated, 10, 101.0),
        told(history, events.EpochEnded, 10, 101.0),
        told(history, events.MetricsLogged, 20, 102.0),
    ]
    loaded = Loaded(history)
    assert [loaded.holds(event) for event in early] == [True] * 4
    assert not loaded.holds(told(history, events.Evaluated, 20))
    assert not loaded.holds(events.CommandApplied(20, 0, {"type": "Rewind"}, "remote"))
    assert not loaded.holds(told(history, events.Evaluated, 5))
    assert not loaded.holds(told(history, events.MetricsLogged, 6, 103.0))
    assert not loaded.holds(told(history, events.MetricsLogged, 21, 50.0)), "a clock may be set back"
    assert not Loaded(History()).holds(early[0])
    history.truncate(0)
    assert not Loaded(history).holds(early[1])


def test_steps_after_going_back_bring_their_evaluations_with_them() -> None:
    history = History()
    for kind in (events.MetricsLogged, events.Evaluated, events.EpochEnded):
        told(history, kind, 20, 100.0)
    loaded = Loaded(history)
    assert not loaded.holds(told(history, events.MetricsLogged, 6, 101.0))
    assert not loaded.holds(told(history, events.Evaluated, 6))
    assert not loaded.holds(told(history, events.EpochEnded, 6))


def test_a_second_part_renews_the_picture(
    make_trainer: MakeTrainer, loader: MemoryLoader, displayed: list[dict[str, Any]]
) -> None:
    trainer = make_trainer()
    trainer.subscribe(StaticFigure(trainer))
    trainer.train(loader, num_epochs=1)
    trainer.train(loader, num_epochs=2)
    assert len(displayed) == 2
    kept = json.loads((trainer.run.path / "figures" / "curves.json").read_text())
    assert max(kept["data"][0]["x"]) == 12


def test_a_failed_run_leaves_its_curves_too(
    make_trainer: MakeTrainer, loader: MemoryLoader, displayed: list[dict[str, Any]]
) -> None:
    class Fault(Callback):
        def on_epoch_ended(self, trainer: JEPATrainer, event: events.EpochEnded) -> None:
            raise OSError("disk full")

    trainer = make_trainer(callbacks=[Fault()])
    trainer.subscribe(StaticFigure(trainer))
    with pytest.raises(OSError, match="disk full"):
        trainer.train(loader, num_epochs=2)
    assert len(displayed) == 1
    assert (trainer.run.path / "figures" / "curves.png").exists()


def test_a_run_without_a_record_publishes_nothing(make_trainer: MakeTrainer, displayed: list[dict[str, Any]]) -> None:
    figure = StaticFigure(make_trainer())
    figure(events.RunEnded(0, 0, "stopped", None))
    assert displayed == []
