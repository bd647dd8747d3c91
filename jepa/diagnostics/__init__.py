"""Numbers that say whether a model learns or collapses, and what is in it: one a file."""

from jepa.diagnostics.adam_update import adam_update_norms
from jepa.diagnostics.attention import Attended, find_block, record_attention
from jepa.diagnostics.covariance_spectrum import covariance_spectrum
from jepa.diagnostics.dead_units import DeadUnits, dead_units, record_dead_units
from jepa.diagnostics.effective_rank import effective_rank
from jepa.diagnostics.embedding_std import embedding_std
from jepa.diagnostics.linear_probe import linear_probe
from jepa.diagnostics.module_summary import ModuleSummary, module_summary
from jepa.diagnostics.nearest_neighbours import nearest_neighbours
from jepa.diagnostics.regression_probe import regression_probe
from jepa.diagnostics.tensor_statistics import TensorStatistics, named_tensors, tensor_statistics

__all__ = [
    "Attended",
    "DeadUnits",
    "ModuleSummary",
    "TensorStatistics",
    "adam_update_norms",
    "covariance_spectrum",
    "dead_units",
    "effective_rank",
    "embedding_std",
    "find_block",
    "linear_probe",
    "module_summary",
    "named_tensors",
    "nearest_neighbours",
    "record_attention",
    "record_dead_units",
    "regression_probe",
    "tensor_statistics",
]
