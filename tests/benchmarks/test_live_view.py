"""What one update of the live view costs: bounded bytes and time, however long the run has been."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
from jepa_widgets.live_plot import PANELS, LivePlot

from jepa.trainer.events import MetricsLogged

LENGTHS = (10**2, 10**4, 10**6)
UPDATES = 60
Report = Callable[[str, str, list[str], list[list[str]]], None]


def filled(length: int) -> LivePlot:
    """A plot that has seen a run of `length` records."""
    plot = LivePlot()
    for step in range(length):
        record(plot, step)
    return plot


def record(plot: LivePlot, step: int) -> None:
    metrics = {name: 1.0 / (1 + step % 97) + 0.01 * number for number, name in enumerate(PANELS)}
    plot(MetricsLogged(step, 0, metrics, 0.0, 0))


@pytest.mark.benchmark
@pytest.mark.timeout(600)
def test_an_update_of_the_live_view_stays_small_and_fast_at_any_length(
    report: Callable[[str, str, list[str], list[list[str]]], None],
) -> None:
    plots = {length: filled(length) for length in LENGTHS}
    taken: dict[int, list[float]] = {length: [] for length in LENGTHS}
    for number in range(UPDATES):
        for length, plot in plots.items():
            start = time.process_time()
            for extra in range(10):
                record(plot, length + 10 * number + extra)
            plot.flush()
            taken[length].append((time.process_time() - start) * 1e3)
    median = {length: statistics.median(values) for length, values in taken.items()}
    size = {length: len(plot.snapshot) for length, plot in plots.items()}
    rows = [[f"{length:,}", f"{size[length]:,}", f"{median[length]:.2f}"] for length in LENGTHS]
    report(
        "live_view", "One update of the live view", ["records so far", "bytes", "CPU ms, 10 new records included"], rows
    )
    assert max(size.values()) <= 20_000
    assert median[10**6] <= 2.5
    # The shortest run has fewer points than the bound, so equal cost is asked of runs that have reached it.
    assert median[10**6] / median[10**4] <= 1.3
