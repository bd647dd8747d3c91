"""Panel and curves of one run, kept up to date together."""

from __future__ import annotations

from IPython.display import display
from ipywidgets import DOMWidget, VBox

from jepa.trainer import events
from jepa.trainer.history import History
from jepa.trainer.status import LIVE
from jepa.trainer.steering import Watched
from jepa_widgets.control_panel import ControlPanel
from jepa_widgets.live_plot import LivePlot
from jepa_widgets.publisher import Publisher
from jepa_widgets.static_figure import Loaded, StaticFigure

TAKEN_OVER = "taken over by a newer trainer"
SHOWN_ANEW = "shown by a newer view"
GONE = "its trainer is gone"
FIGURE_SECONDS = 10.0
URGENT = (events.CommandApplied, events.StateChanged, events.RunStarted, events.RunEnded, events.RunFailed)


class LiveView(VBox):
    """What is alive in a cell: panel and curves, or one of them."""

    def __init__(self, parts: list[DOMWidget]) -> None:
        super().__init__(parts)
        self.add_class("jepa-run-view")

    def __repr__(self) -> str:
        """What stands in a saved notebook for front ends without widgets."""
        return f"live view of a run ({', '.join(type(part).__name__ for part in self.children)})"


class RunView:
    """What `create_trainer`, and the handle to a run that trains elsewhere, show in a notebook.

    Beside the live view stands a static figure, which stays in the saved notebook and shows itself where there is no
    kernel. The view does not keep its trainer alive: widgets stay in the kernel's memory for ever, and a cell that is
    run again must not leave a model there each time.

    Args:
        run: A trainer, the handle of a run, or what `jepa.attach` gave for one that trains elsewhere.
        live_plot: Whether to show the curves.
        control_panel: Whether to show the panel.
    """

    def __init__(self, run: Watched, *, live_plot: bool = True, control_panel: bool = True) -> None:
        self._run = run.ref()
        self._closed = False
        self.panel = ControlPanel(run) if control_panel else None
        self.plot = LivePlot() if live_plot else None
        self.widget = LiveView([part for part in (self.panel, self.plot) if part is not None])
        self.static = StaticFigure(run) if live_plot else None
        self._loaded = Loaded(History())
        self._publisher = Publisher(self._flush, self._answer, wanted=self._is_wanted)
        self._figure: Publisher | None = None
        if self.panel is not None:
            self.panel.on_change = self._publisher.now
        steered = self._run()
        assert steered is not None
        if self.plot is None or self.static is None:
            steered.subscribe(self)
        else:
            with self.static.taking:  # so that what happens meanwhile is added to what was loaded
                steered.subscribe(self)
                steered.subscribe(self.static)
                history = steered.history
                self._load(history)
                self.static.load(history)
            # on a thread of its own: drawing takes longer than an answer may
            self._figure = Publisher(self.static.renew, self.static.renew, FIGURE_SECONDS, self._is_there)

    def show(self) -> None:
        """Show panel and curves in the present cell; a start from the panel, which has no cell, shows them in place."""
        if self.panel is None or not self.panel.starting:
            display(self.widget)
            if self.static is not None:
                self.static.place()
        self._publisher.now()
        run = self._run()
        if self._figure is not None and run is not None and len(run.history):
            self._figure.soon()

    def close(self) -> None:
        """Write a last time, say in the panel what took over, and show nothing new any more; what is shown stays."""
        if self._closed:
            return
        self._closed = True
        run = self._run()
        if run is not None:
            run.unsubscribe(self)
            if self.static is not None:
                run.unsubscribe(self.static)
        self._publisher.close()
        if self._figure is not None:
            self._figure.close()
        if self.panel is not None:
            self.panel.retire(SHOWN_ANEW if run is not None and run.is_remote else TAKEN_OVER)

    def __call__(self, event: events.Event) -> None:
        """Take one event on the training thread."""
        if self._closed:
            return
        if self.panel is not None:
            self.panel(event)
        if self.static is not None:
            with self.static.taking:
                self._draw(event)
        if isinstance(event, URGENT):
            self._publisher.now()
        else:
            self._publisher.soon()
        if self._figure is not None:
            self._renew_figure(event)

    def _draw(self, event: events.Event) -> None:
        assert self.plot is not None
        run = self._run()
        if isinstance(event, events.RunStarted) and run is not None:
            self._load(run.history)  # a checkpoint may just have brought one
        if not self._loaded.holds(event):
            self.plot(event)

    def _load(self, history: History) -> None:
        assert self.plot is not None
        self._loaded = Loaded(history)  # first: what a run records meanwhile is rather shown twice than not
        self.plot.load(history)

    def _renew_figure(self, event: events.Event) -> None:
        assert self._figure is not None
        if isinstance(event, events.StateChanged) and event.state == "paused":
            self._figure.now()
        elif isinstance(event, events.MetricsLogged | events.Evaluated):
            self._figure.soon()

    def _is_there(self) -> bool:
        return self._run() is not None

    def _is_wanted(self) -> bool:
        """Asked once a second while there is no news: of a run elsewhere, not all that changes is told by an event."""
        run = self._run()
        if run is not None and run.is_remote and run.state in LIVE:
            self._publisher.soon()
        return run is not None

    def _flush(self) -> None:
        self._answer()
        if self.plot is not None:
            self.plot.flush()

    def _answer(self) -> None:
        if self.panel is not None:
            if self._run() is None:
                self.panel.retire(GONE)
            self.panel.flush()
            if self.panel.waiting:
                self._publisher.soon()


def attach(run: Watched, *, live_plot: bool = True, control_panel: bool = True) -> RunView:
    """Panel and curves for a run, by its trainer or a handle; `show()` displays them."""
    return RunView(run, live_plot=live_plot, control_panel=control_panel)
