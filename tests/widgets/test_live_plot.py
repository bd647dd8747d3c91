"""The snapshot of the curves: bounded, complete, decodable, and safe to take while a run trains."""

from __future__ import annotations

import json
import math
import statistics
import struct
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch
from jepa_widgets.live_plot import GROUPS, LIMIT, OWN_RUN, PANELS, LivePlot

from jepa.figures.thinning import Curve
from jepa.trainer import events
from jepa.trainer.history import History

Curves = dict[str, tuple[list[int], list[float]]]


def logged(step: int, **metrics: float) -> events.MetricsLogged:
    return events.MetricsLogged(step, 0, metrics, 0.0, 0)


def edited(step: int, name: str = "learning_rate", old: float = 0.1, new: float = 0.2) -> events.CommandApplied:
    command = {"type": "Set", "name": name, "value": new}
    return events.CommandApplied(step, 0, command, "panel", {"name": name, "old": old, "new": new, "mode": "scale"})


def decode(snapshot: bytes) -> tuple[dict[str, Any], Curves]:
    """Read a snapshot as the page does; other runs' curves and older parts have longer names."""
    (length,) = struct.unpack_from("<I", snapshot)
    header = json.loads(snapshot[4 : 4 + length])
    offset, curves = 4 + length, {}

    def column(count: int, kind: str) -> list[Any]:
        nonlocal offset
        offset += 4 * count
        return np.frombuffer(snapshot, kind, count, offset - 4 * count).tolist()

    header["clocks"] = [
        (since, column(count, "<u4"), column(count, "<f4"), column(count, "<f4")) for count, since in header["clocks"]
    ]
    header["means"] = {}
    for number, points, means, old in header["curves"]:
        _, metric, run = header["traces"][number]
        name, run = header["metrics"][metric], header["runs"][run][0]
        name = (name if run == OWN_RUN else f"{name}, {run}") + (", given up" if old else "")
        curves[name] = (column(points, "<u4"), column(points, "<f4"))
        header["means"][name] = (column(means, "<u4"), column(means, "<f4"))
    assert offset == len(snapshot)
    return header, curves


class Page:
    """What a page sends, and what it is sent."""

    def __init__(self, plot: LivePlot, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plot = plot
        self.got: list[tuple[dict[str, Any], list[bytes]]] = []
        monkeypatch.setattr(plot, "send", lambda content, buffers=(): self.got.append((content, list(buffers))))

    def send(self, **content: Any) -> None:
        self.plot._handle_custom_msg(content, [])


def long_history(points: int, names: list[str]) -> History:
    history = History()
    steps, values = torch.arange(points), torch.randn(points).double()
    history.load_state_dict({name: {"steps": steps, "values": values} for name in names})
    return history


def filled(points: int) -> LivePlot:
    """A plot with every curve and every mark there can be, and a peak in the first tenth."""
    plot = LivePlot()
    steps = torch.arange(1, points + 1)
    values = torch.sin(steps.double())
    values[points // 10 - 1] = 1e6
    history = History()
    history.load_state_dict({name: {"steps": steps, "values": values} for name in [*PANELS, "val_loss"]})
    plot.load(history)
    for number in range(100):
        plot(edited(points, "a_hyper_parameter_with_quite_a_long_name", -1.2345e-10, -1.2345e-10 * number))
    return plot


@pytest.fixture(scope="module")
def plots() -> dict[int, LivePlot]:
    return {points: filled(points) for points in (100, 10_000, 1_000_000)}


def test_a_short_run_is_shown_point_by_point() -> None:
    plot = LivePlot()
    for step in range(10, 210, 10):
        plot(logged(step, loss=1 / step, learning_rate=step * 1e-4, grad_norm=2.0))
    plot.flush()
    header, curves = decode(plot.snapshot)
    steps = list(range(10, 210, 10))
    assert curves["loss"] == (steps, [float(np.float32(1 / step)) for step in steps])
    assert curves["learning_rate"][1] == [float(np.float32(step * 1e-4)) for step in steps]
    assert curves.keys() == {"loss", "learning_rate", "grad_norm"}
    assert [panel for panel, _ in header["panels"]] == ["loss", "learning rate", "gradient norm"]


def test_a_new_plot_has_an_empty_but_readable_snapshot() -> None:
    plot = LivePlot()
    plot.flush()
    header, curves = decode(plot.snapshot)
    assert curves == {}
    assert header["marks"] == []
    assert header["uid"] == plot.model_id


@pytest.mark.slow
def test_an_update_has_at_most_20_kilobytes_whatever_the_length(plots: dict[int, LivePlot]) -> None:
    sizes = {points: len(plot.packed()) for points, plot in plots.items()}
    assert max(sizes.values()) <= LIMIT < 19_500, sizes  # the rest is for the message around it


@pytest.mark.slow
def test_a_peak_survives_thinning(plots: dict[int, LivePlot]) -> None:
    for points, plot in plots.items():
        _, curves = decode(plot.packed())
        steps, values = curves["loss"]
        assert values[steps.index(points // 10)] == 1e6
        assert steps == sorted(steps)
        assert steps[-1] > points * 0.98
        assert min(values) == pytest.approx(-1, abs=0.01)


@pytest.mark.slow
def test_the_time_of_an_update_does_not_grow_with_the_length(plots: dict[int, LivePlot]) -> None:
    def once(plot: LivePlot) -> float:
        start = time.thread_time()
        plot.packed()
        return time.thread_time() - start

    rounds = [(once(plots[10_000]), once(plots[1_000_000])) for _ in range(60)]
    ratio = statistics.median(long for _, long in rounds) / statistics.median(short for short, _ in rounds)
    print(f"an update at 1e6 points / at 1e4: {ratio:.2f}")
    assert ratio < 2.0


def test_metrics_that_are_absent_or_not_finite_leave_no_point() -> None:
    plot = LivePlot()
    plot(logged(1, loss=1.0, effective_rank=3.0))
    plot(logged(2, loss=math.nan))
    plot(logged(3, loss=math.inf, effective_rank=5.0))
    plot(events.Evaluated(3, 1, {"val_loss": 0.5, "val_accuracy": 0.9}))
    plot(logged(4, loss=0.25))
    plot.folded = []
    _, curves = decode(plot.packed())
    assert curves == {
        "loss": ([1, 4], [1.0, 0.25]),
        "val_loss": ([3], [0.5]),
        "effective_rank": ([1, 3], [3.0, 5.0]),
        "val_accuracy": ([3], [float(np.float32(0.9))]),
    }


def test_edits_are_marked_and_other_commands_are_not() -> None:
    plot = LivePlot()
    plot(edited(7, old=0.001, new=0.01))
    plot(events.CommandApplied(8, 0, {"type": "Pause"}, "panel"))
    plot(events.CommandApplied(9, 0, {"type": "Set", "name": "x", "value": 1}, "panel", error="unknown"))
    header, _ = decode(plot.packed())
    assert header["marks"] == [{"step": 7, "text": "learning_rate: 0.001 to 0.01"}]


def test_a_history_is_taken_up_and_goes_on() -> None:
    history = History()
    for step in range(1, 6):
        history.append(step, {"loss": float(step)})
    plot = LivePlot()
    plot.load(history)
    plot(logged(6, loss=6.0))
    assert decode(plot.packed())[1] == {"loss": ([1, 2, 3, 4, 5, 6], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])}


def test_loading_replaces_what_was_shown_and_keeps_what_is_later_as_an_older_part() -> None:
    plot = LivePlot()
    for step in range(1, 5):
        plot(logged(step, loss=float(step)))
    history = History()
    history.append(1, {"loss": 9.0})
    history.append(2, {"loss": 8.0})
    plot.load(history)
    curves = decode(plot.packed())[1]
    assert curves == {"loss": ([1, 2], [9.0, 8.0]), "loss, given up": ([2, 3, 4], [2.0, 3.0, 4.0])}


def test_after_going_back_the_given_up_part_stays_from_the_point_where_it_left() -> None:
    plot = LivePlot()
    for step in (10, 20, 30, 40):
        plot(logged(step, loss=float(step)))
    plot(events.CommandApplied(40, 0, {"type": "Rewind", "checkpoint": 20}, "panel"))
    plot(events.StepEnded(21, 0, torch.zeros(()), {}))
    header, curves = decode(plot.packed())
    assert curves == {"loss": ([10, 20], [10.0, 20.0]), "loss, given up": ([20, 30, 40], [20.0, 30.0, 40.0])}
    assert header["marks"] == [{"step": 40, "text": "Rewind 20"}]
    for _ in range(5):
        plot(logged(30, loss=1.0))
        plot(logged(40, loss=1.0))
        plot(logged(20, loss=1.0))
    assert len(header["curves"]) < len(decode(plot.packed())[0]["curves"]) <= 3, "old parts do not pile up"


def test_a_checkpoint_that_is_acknowledged_late_is_no_step_back() -> None:
    plot = LivePlot()
    for step in (10, 20, 30):
        plot(logged(step, loss=1.0))
    plot(events.CommandApplied(10, 0, {"type": "SaveCheckpoint", "path": None}, "panel"))
    assert decode(plot.packed())[1]["loss"][0] == [10, 20, 30]


def test_metrics_are_grouped_and_folded_groups_are_not_sent() -> None:
    plot = LivePlot()
    metrics = {"loss": 1.0, "invariance": 2.0, "grad_norm": 1.0, "steps_per_second": 9.0, "probe": 0.5, "mine": 3.0}
    plot(logged(1, **metrics))
    plot(events.Evaluated(1, 0, {"val_loss": 1.0, "val_invariance": 2.5}))
    header, curves = decode(plot.packed())
    assert header["groups"] == [["overview", 2], ["terms", 1], ["diagnostics", 1], ["optimisation", 1], ["other", 1]]
    assert curves.keys() == {"loss", "val_loss", "grad_norm"}
    plot.folded = ["overview"]
    header, curves = decode(plot.packed())
    assert curves.keys() == {"invariance", "val_invariance", "steps_per_second", "probe", "mine"}
    assert [(panel, GROUPS[group]) for panel, group in header["panels"]] == [
        ("invariance", "terms"), ("probe", "diagnostics"), ("steps per second", "optimisation"), ("mine", "other"),
    ]  # fmt: skip


def test_buckets_carry_their_means() -> None:
    plot = LivePlot()
    plot.load(long_history(10_000, ["loss"]))
    values = plot._runs[OWN_RUN].curves["loss"].thinned(20_000).values
    steps, means = decode(plot.packed())[0]["means"]["loss"]
    width = 128
    assert means[0] == pytest.approx(values[:width].mean(), abs=1e-6)
    assert (steps[0], len(means)) == (width // 2 - 1, -(-10_000 // width))


@pytest.mark.parametrize("loaded", [False, True])
def test_any_step_can_be_dated(loaded: bool) -> None:
    plot, history = LivePlot(), History()
    for step in range(1, 5001):
        history.append(step, {"loss": 1.0}, (step // 1000, 1.7e9 + step / 10))
        if not loaded:
            plot(events.MetricsLogged(step, step // 1000, {"loss": 1.0}, 1.7e9 + step / 10, 0))
    if loaded:
        plot.load(history)
    ((since, steps, epochs, seconds),) = decode(plot.packed())[0]["clocks"]
    assert 10 < len(steps) <= 64
    assert (steps[0], steps[-1], epochs[-1]) == (1, 5000, 5)
    assert since + np.interp(2500, steps, seconds) == pytest.approx(1.7e9 + 250, abs=0.01)


def test_runs_are_compared_and_taken_out_again() -> None:
    plot = LivePlot()
    plot(logged(1, loss=1.0))
    plot.add_run("a", [{"step": 1, "epoch": 0, "time": 5.0, "segment": 0, "loss": 2.0}, {"step": 2, "loss": 3.0}])
    plot.add_run("b", long_history(3, ["loss"]))
    header, curves = decode(plot.snapshot)
    assert header["runs"] == [[OWN_RUN, 0], ["a", 1], ["b", 2]]
    assert curves["loss, a"] == ([1, 2], [2.0, 3.0])
    plot.remove_run("a")
    header, curves = decode(plot.snapshot)
    assert header["runs"] == [[OWN_RUN, 0], ["b", 2]], "colours stay"
    with pytest.raises(ValueError, match="no run 'a' was added; added: b"):
        plot.remove_run("a")
    with pytest.raises(ValueError, match="name must not be 'this run'"):
        plot.add_run(OWN_RUN, [])


def test_forty_metrics_of_five_runs_of_a_million_points_fit_into_one_snapshot() -> None:
    plot = LivePlot()
    plot.folded = []
    curve = Curve()  # one for all: they differ in nothing that matters here
    curve.extend(np.arange(10**6), np.random.default_rng(0).normal(size=10**6))
    names = [*PANELS, *(f"a_metric_with_a_long_name_{number}" * 3 for number in range(34))]
    for number in range(4):
        plot.add_run(f"run-{number}" * 20, [])
    for run in plot._runs.values():
        run.curves = dict.fromkeys(names, curve)
    for number in range(100):
        plot(edited(number, "a_hyper_parameter_with_quite_a_long_name", -1.2345e-10, -1.2345e-10 * number))
    snapshot = plot.packed()
    header, _ = decode(snapshot)
    assert len(header["curves"]) + header["left_out"] == 200
    assert len(header["curves"]) >= 150
    assert len(snapshot) <= LIMIT


def test_any_number_of_metrics_of_any_name_fits_and_what_is_left_out_is_counted() -> None:
    plot = LivePlot()
    plot.folded = []
    for step in range(3):
        plot(logged(step, **{f"{number}_\u2207" * 30: 1.0 for number in range(2000)}))
    snapshot = plot.packed()
    header, _ = decode(snapshot)
    assert len(snapshot) <= LIMIT
    assert len(header["traces"]) + header["left_out"] == 2000
    assert len(header["traces"]) > 20


def test_a_page_sets_what_all_pages_show(monkeypatch: pytest.MonkeyPatch) -> None:
    plot = LivePlot()
    plot(logged(1, loss=1.0, mine=2.0))
    page = Page(plot, monkeypatch)
    page.send(event="set", name="log_axis", value=True)
    page.send(event="set", name="smoothing", value=0.05)
    page.send(event="set", name="folded", value=["terms"])
    assert (plot.log_axis, plot.smoothing, plot.folded) == (True, 0.05, ["terms"])
    assert "mine" in decode(plot.snapshot)[1]
    assert page.got == []


@pytest.mark.parametrize(
    "content", [{"event": "set", "name": "smoothing", "value": 7}, {"event": "set", "name": "keys", "value": 1}]
)
def test_what_a_page_may_not_set_is_answered_with_an_error(
    content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Page(LivePlot(), monkeypatch)
    page.send(**content)
    ((answer, _),) = page.got
    assert answer["event"] == "error"
    assert content["name"] in answer["text"]


def test_a_zoom_is_answered_with_every_point_of_a_short_range(monkeypatch: pytest.MonkeyPatch) -> None:
    plot = LivePlot()
    plot.load(long_history(100_000, ["loss", "grad_norm"]))
    page = Page(plot, monkeypatch)
    page.send(**{"event": "range", "id": "7", "from": 500.5, "to": 900})
    ((answer, (buffer,)),) = page.got
    assert answer == {"event": "range", "id": "7", "from": 500.5, "to": 900.0}
    _, curves = decode(buffer)
    assert curves["grad_norm"][0] == list(range(500, 902))


def test_with_very_many_curves_the_last_update_shows_all_of_them_as_they_are() -> None:
    plot = LivePlot()
    plot.folded = []
    names = [f"metric_{number}" for number in range(150)]
    plot.load(long_history(5000, names))
    plot.packed()
    for step in range(5000, 5040):
        plot(logged(step, **dict.fromkeys(names, 1.0)))
        plot.packed()
    plot(events.StateChanged(5039, 0, "paused"))
    _, curves = decode(plot.packed())
    assert {steps[-1] for steps, _ in curves.values()} == {5039}


def test_snapshots_can_be_taken_while_another_thread_adds_points() -> None:
    plot = LivePlot()
    done = threading.Event()
    errors: list[BaseException] = []

    def add() -> None:
        try:
            for step in range(1, 30_000):
                plot(logged(step, loss=1.0, learning_rate=1.0))
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # meets in seconds what a long run meets in hours
    try:
        thread = threading.Thread(target=add)
        thread.start()
        while not done.is_set():
            _, curves = decode(plot.packed())
            for steps, values in curves.values():
                assert steps == sorted(steps)
                assert len(steps) == len(values)
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not errors
