"""A figure in a widget."""

from __future__ import annotations

import json

import plotly.graph_objects as go
from jepa_widgets import FigureView


def test_it_holds_the_figure_shown_last() -> None:
    view = FigureView()
    assert view.figure == ""
    for value in (1.0, 2.0):
        view.show(go.Figure().add_scatter(x=[0, 1], y=[value, value]))
    (trace,) = json.loads(view.figure)["data"]
    assert trace["y"] == [2.0, 2.0]
    assert "figure" in view.keys  # synced, so a reloaded page gets it
