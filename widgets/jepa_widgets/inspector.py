"""The last batch as the model sees it, and what its embeddings look like."""

from __future__ import annotations

from html import escape
from typing import Any

from ipywidgets import HTML, Button, HBox, Layout, VBox

from jepa.figures import batch_figure
from jepa_widgets.figure_view import FigureView


class Inspector(VBox):
    """Shows one inspection: a picture of the views, and a line of statistics."""

    def __init__(self) -> None:
        self._text = HTML(layout=Layout(flex="1 1 auto"))
        self._hide = Button(icon="times", tooltip="Hide this", layout=Layout(width="34px", flex="0 0 auto"))
        self._hide.add_class("jepa-hide")
        self._hide.on_click(lambda _: self.hide())
        self._picture = FigureView()
        super().__init__([HBox([self._text, self._hide]), self._picture])
        self.add_class("jepa-inspector")
        self.hide()

    def show(self, inspection: Any) -> None:
        """Show what `run.inspect()` gave."""
        items = [f"last batch at step {inspection.step}"]
        items += [f"{escape(name.replace('_', ' '))} <b>{value:.4g}</b>" for name, value in inspection.stats.items()]
        self._text.value = '<div class="jepa-line">' + "".join(f"<span>{item}</span>" for item in items) + "</div>"
        self._picture.show(batch_figure(inspection))
        self.layout.display = ""

    def hide(self) -> None:
        """Take no room until the next `show`."""
        self.layout.display = "none"
