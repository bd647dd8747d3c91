"""Functions that return plotly figures; plotly is imported when one is called."""

from jepa.figures.batch import batch_figure
from jepa.figures.branches import branches_figure
from jepa.figures.embeddings import embedding_map, probe_figure, project
from jepa.figures.files import save_figure, to_png
from jepa.figures.history import history_figure
from jepa.figures.images import coverage_figure, image_row, mask_figure

__all__ = [
    "batch_figure",
    "branches_figure",
    "coverage_figure",
    "embedding_map",
    "history_figure",
    "image_row",
    "mask_figure",
    "probe_figure",
    "project",
    "save_figure",
    "to_png",
]
