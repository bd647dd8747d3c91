"""Widgets that show a live run and talk to it; the library knows nothing of them but `attach`."""

from jepa_widgets.answers import Answers
from jepa_widgets.batch_tab import BatchTab
from jepa_widgets.checkpoint_list import CheckpointList
from jepa_widgets.choice import Choice
from jepa_widgets.control_panel import ControlPanel
from jepa_widgets.embeddings_tab import EmbeddingsTab
from jepa_widgets.figure_view import FigureView
from jepa_widgets.history_tab import HistoryTab
from jepa_widgets.hyper_parameters import HyperParameters
from jepa_widgets.inspector import Inspector
from jepa_widgets.live_plot import LivePlot
from jepa_widgets.model_tab import ModelTab
from jepa_widgets.run_buttons import RunButtons
from jepa_widgets.run_view import RunView, attach
from jepa_widgets.static_figure import StaticFigure, figure_bundle
from jepa_widgets.status_line import StatusLine

__all__ = [
    "Answers",
    "BatchTab",
    "CheckpointList",
    "Choice",
    "ControlPanel",
    "EmbeddingsTab",
    "FigureView",
    "HistoryTab",
    "HyperParameters",
    "Inspector",
    "LivePlot",
    "ModelTab",
    "RunButtons",
    "RunView",
    "StaticFigure",
    "StatusLine",
    "attach",
    "figure_bundle",
]
