"""The last batch as the model sees it, the model itself, its embeddings, and what happened to the run."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from ipywidgets import HTML, Button, HBox, Layout, VBox, Widget

from jepa_widgets.batch_tab import BatchTab
from jepa_widgets.embeddings_tab import EmbeddingsTab
from jepa_widgets.history_tab import HistoryTab
from jepa_widgets.inspector_tab import InspectorTab
from jepa_widgets.model_tab import ModelTab


class Inspector(VBox):
    """Shows one inspection: a line of statistics, and one tab at a time, which is drawn when it is opened.

    The tabs are switched by buttons: what ipywidgets' own tabs send arrives only once while a cell awaits.

    Args:
        *more: Widgets beside the names of the tabs.

    Attributes:
        tabs: The tabs by name.
        history: The one of the journal.
        on_turn: Called when another tab was opened.
        opened: Name of the one that is seen.
        inspection: What is shown; `None` where it is the journal alone.
    """

    def __init__(self, *more: Widget) -> None:
        self._text = HTML(layout=Layout(flex="1 1 auto"))
        self._hide = Button(icon="times", tooltip="Hide this", layout=Layout(width="34px", flex="0 0 auto"))
        self._hide.add_class("jepa-hide")
        self._hide.on_click(lambda _: self.hide())
        self.inspection: Any = None
        self.history = HistoryTab()
        self.on_turn: Callable[[], None] = lambda: None
        self.tabs: dict[str, InspectorTab] = {
            "Batch": BatchTab(),
            "Model": ModelTab(),
            "Embeddings": EmbeddingsTab(),
            "History": self.history,
        }
        self.buttons = {name: self._button(name) for name in self.tabs}
        self.opened = "Batch"
        row = HBox([*self.buttons.values(), *more])
        row.add_class("jepa-tab-row")
        super().__init__([HBox([self._text, self._hide]), row, *self.tabs.values()])
        self.add_class("jepa-inspector")
        self._reveal()
        self.hide()

    def _button(self, name: str) -> Button:
        button = Button(description=name, layout=Layout(width="auto"))
        button.add_class(f"jepa-tab-{name.lower()}")
        button.on_click(lambda _: self.turn_to(name))
        return button

    def show(self, inspection: Any) -> None:
        """Show what `run.inspect()` gave."""
        self.inspection = inspection
        items = [f"last batch at step {inspection.step}"]
        items += [f"{escape(name.replace('_', ' '))} <b>{value:.4g}</b>" for name, value in inspection.stats.items()]
        items.append(f"looked at for {1000 * inspection.seconds:.0f} ms")
        self._text.value = '<div class="jepa-line">' + "".join(f"<span>{item}</span>" for item in items) + "</div>"
        self._reveal()
        self.layout.display = ""
        self._draw()

    def show_history(self, folder: Path | None) -> None:
        """Show the journal of a run as it is now, whether something was inspected or not."""
        self.history.show_folder(folder)
        self.opened = "History"
        self._reveal()
        self.layout.display = ""

    @property
    def is_open(self) -> bool:
        """Whether it is seen."""
        return self.layout.display != "none"

    def turn_to(self, name: str) -> None:
        """Show another tab.

        Raises:
            ValueError: There is none of that name.
        """
        if name not in self.tabs:
            raise ValueError(f"there is no tab {name!r}; there are {', '.join(self.tabs)}")
        self.opened = name
        self._reveal()
        self._draw()
        self.on_turn()

    def _reveal(self) -> None:
        for name, tab in self.tabs.items():
            tab.layout.display = "" if name == self.opened else "none"
            self.buttons[name].button_style = "info" if name == self.opened else ""
            self.buttons[name].disabled = self.inspection is None and name != "History"

    def _draw(self) -> None:
        """Only what is seen, and only if it is not that already."""
        tab = self.tabs[self.opened]
        if self.inspection is not None and tab.inspection is not self.inspection:
            tab.show(self.inspection)

    def hide(self) -> None:
        """Take no room until the next `show`."""
        self.layout.display = "none"
