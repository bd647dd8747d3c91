"""A plotly figure shown by our own copy of plotly.js: renewed from any thread, complete after a reload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
from ipywidgets import widget_serialization
from traitlets import Instance, Unicode

from jepa_widgets.plotly_library import SCRIPT, PlotlyLibrary, plotly_library

FOLDER = Path(__file__).parent


class FigureView(anywidget.AnyWidget):
    """Shows the figure that was given to `show` last."""

    _esm = SCRIPT + (FOLDER / "figure_view.js").read_text(encoding="utf-8")
    _css = FOLDER / "widgets.css"
    figure = Unicode().tag(sync=True)
    library = Instance(PlotlyLibrary).tag(sync=True, **widget_serialization)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(library=plotly_library(), **kwargs)

    def show(self, figure: Any) -> None:
        """Show a `plotly.graph_objects.Figure`."""
        self.figure = figure.to_json()
