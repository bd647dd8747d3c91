"""Widgets that show a live run and talk to it; the library knows nothing of them but `attach`."""

from jepa_widgets.control_panel import ControlPanel
from jepa_widgets.figure_view import FigureView
from jepa_widgets.inspector import Inspector
from jepa_widgets.live_plot import LivePlot
from jepa_widgets.rate_field import RateField
from jepa_widgets.run_view import RunView, attach
from jepa_widgets.static_figure import StaticFigure, figure_bundle

__all__ = [
    "ControlPanel",
    "FigureView",
    "Inspector",
    "LivePlot",
    "RateField",
    "RunView",
    "StaticFigure",
    "attach",
    "figure_bundle",
]
