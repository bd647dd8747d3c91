"""The last batch as the model sees it, and what its embeddings look like."""

from __future__ import annotations

from html import escape
from typing import Any

from ipywidgets import HTML, VBox

from jepa.figures import batch_figure
from jepa_widgets.figure_view import FigureView


class Inspector(VBox):
    """Shows one inspection: a picture of the views, and a line of statistics."""

    def __init__(self) -> None:
        self._text = HTML()
        self._picture = FigureView()
        super().__init__([self._text, self._picture])
        self.add_class("jepa-inspector")
        self.layout.display = "none"

    def show(self, inspection: Any) -> None:
        """Show what `run.inspect()` gave."""
        numbers = " &nbsp; ".join(f"{escape(name)} <b>{value:.4g}</b>" for name, value in inspection.stats.items())
        self._text.value = f"<div>last batch at step {inspection.step}: {numbers}</div>"
        self._picture.show(batch_figure(inspection))
        self.layout.display = ""
