"""Numbers that say whether a model learns or collapses: one a file."""

from jepa.diagnostics.effective_rank import effective_rank
from jepa.diagnostics.embedding_std import embedding_std

__all__ = ["effective_rank", "embedding_std"]
