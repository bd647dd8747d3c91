"""Panel and curves of one run, kept up to date together."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from IPython.display import display

from jepa.trainer import events
from jepa_widgets.control_panel import ControlPanel
from jepa_widgets.live_plot import LivePlot
from jepa_widgets.publisher import Publisher
from jepa_widgets.static_figure import StaticFigure

if TYPE_CHECKING:
    from jepa.trainer import JEPATrainer

TAKEN_OVER = "taken over by a newer trainer"
GONE = "its trainer is gone"
URGENT = (events.CommandApplied, events.StateChanged, events.RunStarted, events.RunEnded, events.RunFailed)


class RunView:
    """What `create_trainer` shows in a notebook.

    While the run trains its curves are live. When it has ended the static figure takes their place, which stays in the
    saved notebook; a restart brings the live ones back. The view does not keep its trainer alive: widgets stay in the
    kernel's memory for ever, and a cell that is run again must not leave a model there each time.

    Args:
        trainer: Whose run it is.
        live_plot: Whether to show the curves.
        control_panel: Whether to show the panel.
    """

    def __init__(self, trainer: JEPATrainer, *, live_plot: bool = True, control_panel: bool = True) -> None:
        self._trainer = weakref.ref(trainer)
        self._closed = False
        self.panel = ControlPanel(trainer) if control_panel else None
        self.plot = LivePlot() if live_plot else None
        self.static = StaticFigure(trainer, stands_for=self.plot)
        self._publisher = Publisher(self._flush, self._answer, wanted=lambda: self._trainer() is not None)
        if self.panel is not None:
            self.panel.on_change = self._publisher.now
        trainer.subscribe(self)
        if self.plot is not None:
            self.plot.load(trainer.history)
            trainer.subscribe(self.static)

    def show(self) -> None:
        """Show panel and curves in the present cell; a start from the panel, which has no cell, shows them in place."""
        if self.panel is None or not self.panel.starting:
            if self.panel is not None:
                display(self.panel)
            if self.plot is not None:
                self.static.place()
        self._publisher.now()

    def close(self, why: str = TAKEN_OVER) -> None:
        """Write a last time, say why in the panel, and show nothing new any more; what is shown stays."""
        if self._closed:
            return
        self._closed = True
        trainer = self._trainer()
        if trainer is not None:
            trainer.unsubscribe(self)
            trainer.unsubscribe(self.static)
        self._publisher.close()
        if self.panel is not None:
            self.panel.retire(why)

    def __call__(self, event: events.Event) -> None:
        """Take one event on the training thread."""
        if self._closed:
            return
        trainer = self._trainer()
        if isinstance(event, events.RunStarted) and self.plot is not None and trainer is not None:
            self.plot.load(trainer.history)  # a checkpoint may just have brought one
        for part in (self.panel, self.plot):
            if part is not None:
                part(event)
        if isinstance(event, URGENT):
            self._publisher.now()
        else:
            self._publisher.soon()

    def _flush(self) -> None:
        self._answer()
        if self.plot is not None:
            self.plot.flush()

    def _answer(self) -> None:
        if self.panel is not None:
            if self._trainer() is None:
                self.panel.retire(GONE)
            self.panel.flush()
            if self.panel.waiting:
                self._publisher.soon()


def attach(trainer: JEPATrainer, *, live_plot: bool = True, control_panel: bool = True) -> RunView:
    """Panel and curves for a trainer; `show()` displays them."""
    return RunView(trainer, live_plot=live_plot, control_panel=control_panel)
