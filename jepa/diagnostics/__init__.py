"""Numbers that say whether a model learns or collapses: one a file."""

from jepa.diagnostics.effective_rank import effective_rank
from jepa.diagnostics.embedding_std import embedding_std
from jepa.diagnostics.linear_probe import linear_probe
from jepa.diagnostics.regression_probe import regression_probe

__all__ = ["effective_rank", "embedding_std", "linear_probe", "regression_probe"]
