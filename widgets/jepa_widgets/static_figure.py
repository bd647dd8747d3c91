"""The curves of a run as a picture that stays: in the notebook without a kernel, and in the run folder."""

from __future__ import annotations

import base64
import contextvars
import json
import threading
import uuid
from typing import Any

from IPython.display import display, publish_display_data, update_display

from jepa.figures import history_figure, to_png
from jepa.figures.history import PANELS
from jepa.figures.sketch import sketch
from jepa.files import atomic_path
from jepa.trainer import events
from jepa.trainer.history import History, Moment
from jepa.trainer.steering import Watched
from jepa_widgets.run_curves import RunCurves

# What a notebook has room for in a window of 1280 pixels: front ends show a picture uncut only if it fits.
PNG_WIDTH = 840
PNG_HEIGHT = 480
# Together below 100 kB in a notebook: 7 curves of 200 points as JSON, and the PNG.
POINTS = 200
METRICS = [metric for _, metrics in PANELS for metric in metrics]
PLOTLY = "application/vnd.plotly.v1+json"
MEASURED: dict[type[events.Event], str] = {events.Evaluated: "val_loss", events.EpochEnded: "epoch_loss"}
Points = tuple[list[int], list[float]]
EMPTY = {"text/plain": "no step was recorded yet"}
# Stands after the live view and the figure. A page without a kernel has no live view but the complaint about it; where
# there is one, the style that comes with the widgets hides the figure.
WHICH_IS_SHOWN = """<div class="jepa-which-is-shown"><style>
.jp-OutputArea-child:has(.jepa-which-is-shown),
.jp-OutputArea-child:not(:has(.jepa-run-view)):has(+ .jp-OutputArea-child + .jp-OutputArea-child .jepa-which-is-shown) {
  display: none;
}
</style></div>"""


def figure_bundle(figure: Any) -> dict[str, Any]:
    """A plotly figure for front ends that know plotly, a PNG for all others, and text.

    Args:
        figure: A `plotly.graph_objects.Figure`.
    """
    return _bundle(json.loads(figure.to_json()), to_png(figure, width=PNG_WIDTH))


def _bundle(figure: dict[str, Any], png: bytes) -> dict[str, Any]:
    return {PLOTLY: figure, "image/png": base64.b64encode(png).decode(), "text/plain": "curves of the run"}


class Loaded:
    """What a chart has loaded, and need not be told again: a record may come with the history and as an event, too.

    Args:
        history: That was loaded.
    """

    def __init__(self, history: History) -> None:
        self._last = (history.moments(2) or [Moment(-1, 0, 0.0)])[-1]
        self._measured = {
            kind: max(history.steps(name), default=-1) for kind, name in MEASURED.items() if name in history
        }

    def holds(self, event: events.Event) -> bool:
        """Whether the history held what an event tells; events are asked for in order."""
        if isinstance(event, events.MetricsLogged):
            # A step that comes again after going back comes later; a clock that was set back comes with later steps.
            held = event.step <= self._last.step and event.time <= self._last.time
            if not held:
                self._measured = {}  # so all that follows is new
            return held
        if isinstance(event, events.CommandApplied) and event.command.get("type") in ("Rewind", "Fork"):
            self._measured = {}
        return event.step <= self._measured.get(type(event), -1)


class StaticFigure:
    """A sink that shows a run's curves as a figure of at most 100 kB, and writes them to the run folder at the end.

    It shows what happens from now on; `load` gives it what was recorded before. Unless it has been given a place, it
    appears once, when the run ends, in the cell that is running then. In a place beside the live view it is hidden
    while that one is alive, and `renew` keeps it up to date.

    Args:
        run: A trainer, the handle of a run, or what `jepa.attach` gave for one that trains elsewhere, whose folder
            is left as it is.

    Attributes:
        taking: Held while a record is added or a history loaded; who holds it lets events wait.
    """

    def __init__(self, run: Watched) -> None:
        self._run = run.ref()
        self.taking = threading.RLock()
        self._drawing = threading.Lock()
        self._curves = RunCurves(METRICS)
        self._loaded = Loaded(History())
        self._place = uuid.uuid4().hex
        self._cell: contextvars.Context | None = None  # that it was placed in: some kernels publish nothing without it
        self._changed = False  # since the figure was shown
        self._bundle: dict[str, Any] = EMPTY
        self._parts: Any = None  # what the figure was made of, which only its points change
        self._made: dict[str, Any] = {}

    def place(self) -> None:
        """Show the figure in the present cell, right after the live view has been shown there."""
        display(self._bundle, raw=True, display_id=self._place)
        publish_display_data({"text/html": WHICH_IS_SHOWN, "text/plain": ""})
        self._cell = contextvars.copy_context()

    def __call__(self, event: events.Event) -> None:
        """Take one event."""
        with self.taking:
            if not self._loaded.holds(event) and isinstance(event, events.MetricsLogged | events.Evaluated):
                if isinstance(event, events.MetricsLogged) and event.step < self._curves.last:
                    self._curves.go_back(event.step)  # of metrics that are recorded now and then, too
                self._curves.add(event.step, event.metrics)
                self._changed = True
        if isinstance(event, events.RunStarted) and (run := self._run()) is not None:
            self.load(run.history)  # a checkpoint may just have brought one
        elif isinstance(event, events.RunEnded | events.RunFailed):
            self.complete()

    def load(self, history: History) -> None:
        """Show a history instead of the curves so far; what happens next is added to it."""
        with self.taking:
            self._loaded = Loaded(history)  # first: what a run records meanwhile is rather shown twice than not
            self._curves.load(history)
            self._changed = True

    def renew(self) -> None:
        """Bring the figure in its place up to date."""
        run = self._run()
        if self._cell is not None and self._changed and run is not None:
            self._render()

    def complete(self) -> None:
        """Bring figure and PNG up to date, show them, and write them to the run folder."""
        bundle, run = self._render(), self._run()
        if bundle is None or run is None or run.path is None or run.is_remote:
            return
        with atomic_path(run.path / "figures" / "curves.png") as temporary:
            temporary.write_bytes(base64.b64decode(bundle["image/png"]))
        with atomic_path(run.path / "figures" / "curves.json") as temporary:
            temporary.write_text(json.dumps(bundle[PLOTLY]), encoding="utf-8")

    def _render(self) -> dict[str, Any] | None:
        """Draw and show the curves; `None` if there are none."""
        with self._drawing:  # what was begun earlier must not be shown later
            curves, run = self._thinned(), self._run()
            if not curves or run is None:
                return None
            figure = self._figure(curves, run.path.name if run.path else None)
            self._bundle = _bundle(figure, sketch(figure, PNG_WIDTH, PNG_HEIGHT))
            if self._cell is not None:
                self._cell.run(update_display, self._bundle, display_id=self._place, raw=True)
            else:
                publish_display_data(self._bundle)
            return self._bundle

    def _thinned(self) -> dict[str, Points]:
        """Steps and values of the metrics that there are, in the order of the figure."""
        with self.taking:
            self._changed = False
            known = self._curves.curves
            thinned = {name: known[name].thinned(POINTS) for name in METRICS if name in known}
        return {name: (of.steps.tolist(), of.values.tolist()) for name, of in thinned.items() if len(of.steps)}

    def _figure(self, curves: dict[str, Points], title: str | None) -> dict[str, Any]:
        """The JSON of the figure. Plotly makes it only when its parts change: it checks all that it is given."""
        parts = title, tuple((name, len(steps) < 3) for name, (steps, _) in curves.items())
        if parts != self._parts:
            rows: dict[int, dict[str, float]] = {}
            for name, (steps, values) in curves.items():
                for step, value in zip(steps, values, strict=True):
                    rows.setdefault(step, {"step": step})[name] = value
            made = history_figure([rows[step] for step in sorted(rows)], title=title)
            self._parts, self._made = parts, json.loads(made.to_json())
        traces = zip(self._made["data"], curves.values(), strict=True)
        return self._made | {"data": [trace | {"x": steps, "y": values} for trace, (steps, values) in traces]}
