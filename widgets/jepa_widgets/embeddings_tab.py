"""The embeddings of the last batch: where they lie, how many directions they use, and what is close to what."""

from __future__ import annotations

from jepa.figures import embedding_map, nearest_figure, spectrum_figure
from jepa_widgets.choice import Choice
from jepa_widgets.inspector_tab import InspectorTab


class EmbeddingsTab(InspectorTab):
    """Map, spectrum, and the nearest neighbours of a sample."""

    def __init__(self) -> None:
        self.sample = Choice("neighbours of sample", lambda _: self._draw_neighbours())
        super().__init__("map", "spectrum", "neighbours", controls={"neighbours": self.sample})

    def draw_all(self) -> None:
        """Draw every figure."""
        embedding = self.inspection.embedding
        self.sample.offer([str(number) for number in range(len(embedding))])
        self.draw("map", lambda: embedding_map(embedding))
        self.draw("spectrum", lambda: spectrum_figure(embedding))
        self._draw_neighbours()

    def _draw_neighbours(self) -> None:
        self.draw("neighbours", lambda: nearest_figure(self.inspection, int(self.sample.value or 0)))
