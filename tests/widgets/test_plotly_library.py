"""The chart library that travels with the first plot."""

from __future__ import annotations

import gzip
from pathlib import Path

import plotly
from jepa_widgets import FigureView, LivePlot
from jepa_widgets.plotly_library import plotly_library


def test_it_is_the_installed_plotly_compressed() -> None:
    script = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    source = plotly_library().source
    assert gzip.decompress(source) == script.read_bytes()
    assert len(source) < 2_000_000


def test_all_plots_of_a_kernel_share_one_copy() -> None:
    libraries = {widget.library.model_id for widget in (LivePlot(), LivePlot(), FigureView())}
    assert libraries == {plotly_library().model_id}


def test_a_plot_sends_a_reference_and_not_the_library() -> None:
    state = LivePlot().get_state()
    assert state["library"] == f"IPY_MODEL_{plotly_library().model_id}"
