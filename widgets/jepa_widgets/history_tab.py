"""What happened to the run so far: its journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ipywidgets import HBox

from jepa.figures import journal_figure, journal_lines
from jepa_widgets.choice import Choice
from jepa_widgets.inspector_tab import InspectorTab

ALL = "all"


class HistoryTab(InspectorTab):
    """The journal as a table, of one kind of event and of one source where that is wanted."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.event = Choice("events", lambda _: self._draw_journal())
        self.source = Choice("asked for by", lambda _: self._draw_journal())
        super().__init__("journal", controls={"journal": HBox([self.event, self.source])})

    def show(self, inspection: Any) -> None:
        """Show the journal of the run that was inspected."""
        self.folder = inspection.folder
        super().show(inspection)

    def show_folder(self, folder: Path | None) -> None:
        """Show the journal of the run in this folder."""
        self.folder = folder
        self.draw_all()

    def draw_all(self) -> None:
        """Draw the journal as it is now."""
        self.draw("journal", self._whole_journal)

    def _whole_journal(self) -> object:
        folder = self.folder
        lines = journal_lines(folder) if folder is not None else []
        self.event.offer([ALL, *dict.fromkeys(line["event"] for line in lines)])
        self.source.offer([ALL, *dict.fromkeys(line["source"] for line in lines if line.get("source"))])
        return self._journal()

    def _draw_journal(self) -> None:
        self.draw("journal", self._journal)

    def _journal(self) -> object:
        folder, event, source = self.folder, self.event.value, self.source.value
        if folder is None:
            raise ValueError("this run writes no folder, so it keeps no journal; create_trainer(..., run='name') does")
        events = None if event == ALL else (event,)
        return journal_figure(folder, events=events, source=None if source == ALL else source)
