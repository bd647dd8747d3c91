"""Panel and curves of one run, kept up to date together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from IPython.display import display
from ipywidgets import VBox

from jepa.trainer import events
from jepa_widgets.control_panel import ControlPanel
from jepa_widgets.live_plot import LivePlot
from jepa_widgets.publisher import Publisher
from jepa_widgets.static_figure import StaticFigure

if TYPE_CHECKING:
    from jepa.trainer import JEPATrainer

URGENT = (events.CommandApplied, events.StateChanged, events.CheckpointSaved, events.RunStarted)
ENDS = (events.RunEnded, events.RunFailed)


class RunView:
    """What `create_trainer` shows in a notebook.

    Args:
        trainer: Whose run it is.
        live_plot: Whether to show the curves.
        control_panel: Whether to show the panel.
    """

    def __init__(self, trainer: JEPATrainer, *, live_plot: bool = True, control_panel: bool = True) -> None:
        self._trainer = trainer
        self.panel = ControlPanel(trainer) if control_panel else None
        self.plot = LivePlot() if live_plot else None
        self.static = StaticFigure(trainer, inline=False)
        self._parts = [part for part in (self.panel, self.plot) if part is not None]
        self.box = VBox(self._parts)
        self._ended = False
        self._publisher = Publisher(self._flush)
        if self.plot is not None:
            self.plot.load(trainer.history)
        trainer.subscribe(self)

    def show(self) -> None:
        """Show panel and curves in the present cell."""
        display(self.box)
        if self.plot is not None:
            self.static.place()
        self._publisher.now()

    def close(self) -> None:
        """Show nothing new any more."""
        self._trainer.unsubscribe(self)
        self._publisher.close()

    def __call__(self, event: events.Event) -> None:
        """Take one event on the training thread."""
        for part in self._parts:
            part(event)
        if isinstance(event, ENDS):
            self._ended = True
        if isinstance(event, URGENT + ENDS):
            self._publisher.now()
        else:
            self._publisher.soon()

    def _flush(self) -> None:
        for part in self._parts:
            part.flush()
        if self._ended and self.plot is not None:
            self._ended = False
            self.static.render()


def attach(trainer: JEPATrainer, *, live_plot: bool = True, control_panel: bool = True) -> RunView:
    """Panel and curves for a trainer; `show()` displays them."""
    return RunView(trainer, live_plot=live_plot, control_panel=control_panel)
