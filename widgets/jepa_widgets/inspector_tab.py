"""What the tabs of the inspector have in common: figures, and a place where it is said what cannot be drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from ipywidgets import HTML, VBox, Widget

from jepa_widgets.figure_view import FigureView


class InspectorTab(VBox):
    """Shows one side of an inspection; a figure that cannot be drawn leaves the others as they are.

    Args:
        *names: Of its figures, in their order.
        controls: Widgets above the figure of that name.
    """

    def __init__(self, *names: str, controls: Mapping[str, Widget] | None = None) -> None:
        self.figures = {name: FigureView() for name in names}
        self.error = HTML()
        self.inspection: Any = None
        self._troubles: dict[str, str] = {}
        above = controls or {}
        parts = [part for name, view in self.figures.items() for part in (above.get(name), view) if part is not None]
        super().__init__([self.error, *parts])

    def show(self, inspection: Any) -> None:
        """Show what `run.inspect()` gave."""
        self.inspection = inspection
        self.draw_all()

    def draw_all(self) -> None:
        """Draw every figure of `self.inspection`."""
        raise NotImplementedError

    def draw(self, name: str, make: Callable[[], Any]) -> None:
        """Draw one figure, or say why not."""
        self._troubles.pop(name, None)
        try:
            self.figures[name].show(make())
        except Exception as error:  # shown where the user looks; a handler has nobody to raise to
            self.figures[name].figure = ""
            self._troubles[name] = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        lines = "<br>".join(f"{escape(one)}: {escape(why)}" for one, why in self._troubles.items())
        self.error.value = f'<div class="jepa-error" role="alert">{lines}</div>' if lines else ""
