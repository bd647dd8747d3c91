"""The last batch: what the model is shown of it, which samples it finds hardest, and what is in its tensors."""

from __future__ import annotations

from jepa.figures import batch_figure, losses_figure, tensors_figure
from jepa_widgets.inspector_tab import InspectorTab


class BatchTab(InspectorTab):
    """Views, losses of the samples, and statistics of the tensors."""

    def __init__(self) -> None:
        super().__init__("views", "losses", "tensors")

    def draw_all(self) -> None:
        """Draw every figure."""
        self.draw("views", lambda: batch_figure(self.inspection))
        self.draw("losses", lambda: losses_figure(self.inspection))
        self.draw("tensors", lambda: tensors_figure(self.inspection))
