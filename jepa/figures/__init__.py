"""Functions that return plotly figures; plotly is imported when one is called."""

from jepa.figures.batch import batch_figure
from jepa.figures.branches import branches_figure
from jepa.figures.embeddings import embedding_map, probe_figure, project
from jepa.figures.files import save_figure, to_png
from jepa.figures.history import history_figure
from jepa.figures.images import coverage_figure, image_row, mask_figure
from jepa.figures.inspection import losses_figure, nearest_figure, tensors_figure
from jepa.figures.journal import journal_figure, journal_lines
from jepa.figures.model import attention_figure, dead_units_figure, module_figure
from jepa.figures.runs import compare_figure, parallel_figure
from jepa.figures.samples import sample_inputs, sample_row, worst_samples_figure
from jepa.figures.spectrum import neighbours_figure, spectrum_figure
from jepa.figures.table import table_figure

__all__ = [
    "attention_figure",
    "batch_figure",
    "branches_figure",
    "compare_figure",
    "coverage_figure",
    "dead_units_figure",
    "embedding_map",
    "history_figure",
    "image_row",
    "journal_figure",
    "journal_lines",
    "losses_figure",
    "mask_figure",
    "module_figure",
    "nearest_figure",
    "neighbours_figure",
    "parallel_figure",
    "probe_figure",
    "project",
    "sample_inputs",
    "sample_row",
    "save_figure",
    "spectrum_figure",
    "table_figure",
    "tensors_figure",
    "to_png",
    "worst_samples_figure",
]
