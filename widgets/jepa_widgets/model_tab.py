"""The model: its modules, its dead units, and the attention of one block."""

from __future__ import annotations

from ipywidgets import HBox

from jepa.figures import attention_figure, dead_units_figure, module_figure
from jepa_widgets.choice import Choice
from jepa_widgets.inspector_tab import InspectorTab


class ModelTab(InspectorTab):
    """The tree of modules, the share of dead units of each MLP, and where the heads of a block look."""

    def __init__(self) -> None:
        self.block = Choice("attention of", lambda _: self._draw_attention())
        self.sample = Choice("sample", lambda _: self._draw_attention())
        controls = {"attention": HBox([self.block, self.sample])}
        super().__init__("modules", "dead units", "attention", controls=controls)

    def draw_all(self) -> None:
        """Draw every figure."""
        seen = self.inspection
        self.block.offer(list(seen.attention))
        noted = len(next(iter(seen.attention.values())).queries) if seen.attention else 0
        self.sample.offer([str(number) for number in range(noted)])
        missing = seen.missing.get("update_norm")
        title = f"no last update: {missing}" if missing else None
        self.draw("modules", lambda: module_figure(seen.modules, title=title, most=14))
        self.draw("dead units", lambda: dead_units_figure(seen.dead_units))
        self._draw_attention()

    def _draw_attention(self) -> None:
        seen = self.inspection
        self.draw(
            "attention", lambda: attention_figure(seen.attention, self.block.value, sample=int(self.sample.value or 0))
        )
