"""What one update of the live view costs: bounded bytes and time, however long the run has been."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence

import pytest
from jepa_widgets.live_plot import PANELS, LivePlot

from jepa.trainer.events import MetricsLogged

METRICS = [*PANELS, "val_loss"]
LENGTHS: tuple[int, ...] = (10**2, 10**4, 10**6)
CURVES = (7, 50, 200, 400)
UPDATES = 60
REPEATS = 7
Report = Callable[[str, str, list[str], list[list[str]]], None]


def filled(length: int, names: Sequence[str] = METRICS) -> LivePlot:
    """A plot that has seen a run of `length` records, and shows all there is."""
    plot = LivePlot(folded=[])
    for step in range(length):
        record(plot, step, names)
    return plot


def record(plot: LivePlot, step: int, names: Sequence[str] = METRICS) -> None:
    metrics = {name: 1.0 / (1 + step % 97) + 0.01 * number for number, name in enumerate(names)}
    plot(MetricsLogged(step, 0, metrics, 0.0, 0))


def updates(plot: LivePlot, length: int, names: Sequence[str] = METRICS, *, with_records: bool = True) -> list[float]:
    """CPU milliseconds of each of the next updates, each after ten new records."""
    taken = []
    for number in range(UPDATES):
        start = time.thread_time()
        for extra in range(10):
            record(plot, length + 10 * number + extra, names)
        if not with_records:
            start = time.thread_time()
        plot.flush()
        taken.append((time.thread_time() - start) * 1e3)
    return taken


@pytest.mark.benchmark
@pytest.mark.timeout(600)
def test_an_update_of_the_live_view_stays_small_and_fast_at_any_length(report: Report) -> None:
    plots = {length: filled(length) for length in LENGTHS}
    curves = {length: copy.deepcopy(plot._runs) for length, plot in plots.items()}
    taken: dict[int, list[list[float]]] = {length: [] for length in LENGTHS}
    size = dict.fromkeys(LENGTHS, 0)
    for _ in range(REPEATS):
        for length, plot in plots.items():
            plot._runs = copy.deepcopy(curves[length])
            taken[length].append(updates(plot, length))
            size[length] = len(plot.snapshot)
    # Updates differ by how full the curves happen to be, repeats of one update only by what else the machine does.
    median = {length: statistics.median(map(min, zip(*taken[length], strict=True))) for length in LENGTHS}
    rows = [[f"{length:,}", f"{size[length]:,}", f"{median[length]:.2f}"] for length in LENGTHS]
    report(
        "live_view", "One update of the live view", ["records so far", "bytes", "CPU ms, 10 new records included"], rows
    )
    assert max(size.values()) <= 20_000
    assert max(median.values()) <= 2.5
    # Against the shortest run: a thinned curve holds between half and all of its points, and 10^4 is near the half.
    assert median[10**6] / median[10**2] <= 1.3


@pytest.mark.benchmark
def test_an_update_stays_small_and_fast_with_any_number_of_curves(report: Report) -> None:
    length, rows, median = 400, [], {}
    for count in CURVES:
        names = [f"metric_{number}" for number in range(count)]
        plot = filled(length, names)
        plot.flush()
        rounds = [updates(plot, length + 10 * UPDATES * turn, names, with_records=False) for turn in range(3)]
        median[count] = min(map(statistics.median, rounds))  # neighbours only ever add to it
        rows.append([f"{count}", f"{len(plot.snapshot):,}", f"{median[count]:.2f}"])
        assert len(plot.snapshot) <= 20_000
    report("live_view_curves", "One update of the live view, all curves visible", ["curves", "bytes", "CPU ms"], rows)
    assert max(median.values()) <= 2.5
