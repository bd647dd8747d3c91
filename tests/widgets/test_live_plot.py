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
from jepa_widgets.live_plot import PANELS, LivePlot

from jepa.trainer import events
from jepa.trainer.history import History

LIMIT = 20_000
Curves = dict[str, tuple[list[int], list[float]]]


def logged(step: int, **metrics: float) -> events.MetricsLogged:
    return events.MetricsLogged(step, 0, metrics, 0.0, 0)


def edited(step: int, name: str = "learning_rate", old: float = 0.1, new: float = 0.2) -> events.CommandApplied:
    command = {"type": "Set", "name": name, "value": new}
    return events.CommandApplied(step, 0, command, "panel", {"name": name, "old": old, "new": new, "mode": "scale"})


def decode(snapshot: bytes) -> tuple[dict[str, Any], Curves]:
    """Read a snapshot as the page does."""
    (length,) = struct.unpack_from("<I", snapshot)
    header = json.loads(snapshot[4 : 4 + length])
    offset, curves = 4 + length, {}
    for curve in header["curves"]:
        count = curve["length"]
        steps = np.frombuffer(snapshot, "<u4", count, offset)
        values = np.frombuffer(snapshot, "<f4", count, offset + 4 * count)
        curves[curve["name"]] = (steps.tolist(), values.tolist())
        offset += 8 * count
    assert offset == len(snapshot)
    return header, curves


def filled(points: int) -> LivePlot:
    """A plot with every curve and every mark there can be, and a peak in the first tenth."""
    plot = LivePlot()
    steps = torch.arange(1, points + 1)
    values = torch.sin(steps.double())
    values[points // 10 - 1] = 1e6
    history = History()
    history.load_state_dict({name: {"steps": steps, "values": values} for name in PANELS})
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
    assert [curve["panel"] for curve in header["curves"]] == [0, 1, 5]


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
    assert max(sizes.values()) <= LIMIT - 500, sizes  # the rest is for the message around it


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
    _, curves = decode(plot.packed())
    assert curves == {"loss": ([1, 4], [1.0, 0.25]), "val_loss": ([3], [0.5]), "effective_rank": ([1, 3], [3.0, 5.0])}


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


def test_loading_replaces_what_was_shown() -> None:
    plot = LivePlot()
    for step in range(1, 4):
        plot(logged(step, loss=float(step)))
    history = History()
    history.append(1, {"loss": 9.0})
    plot.load(history)
    assert decode(plot.packed())[1] == {"loss": ([1], [9.0])}


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
