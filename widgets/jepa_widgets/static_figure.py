"""The curves of a run as a picture that stays: in the notebook without a kernel, and in the run folder."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
import uuid
import weakref
from typing import TYPE_CHECKING, Any

from IPython.display import display, publish_display_data, update_display

from jepa.figures import history_figure, to_png
from jepa.figures.history import PANELS
from jepa.files import atomic_path
from jepa.trainer import events
from jepa_widgets.run_curves import RunCurves

if TYPE_CHECKING:
    from jepa.trainer import JEPATrainer


# What a notebook has room for in a window of 1280 pixels: front ends show a picture uncut only if it fits.
PNG_WIDTH = 840
# Together below 100 kB in a notebook: 7 curves of 200 points as JSON, and a PNG of few colours.
POINTS = 200
PNG_COLOURS = 16
# Drawing a PNG holds the interpreter for half a second, which a step in another thread waits for.
PNG_SHARE = 0.01
METRICS = [metric for _, metrics in PANELS for metric in metrics]
PLOTLY = "application/vnd.plotly.v1+json"
EMPTY = {"text/plain": "no step was recorded yet"}
# Stands after the live view and the figure. A page without a kernel has no live view but the complaint about it; where
# there is one, the style that comes with the widgets hides the figure.
WHICH_IS_SHOWN = """<div class="jepa-which-is-shown"><style>
.jp-OutputArea-child:has(.jepa-which-is-shown),
.jp-OutputArea-child:not(:has(.jepa-run-view)):has(+ .jp-OutputArea-child + .jp-OutputArea-child .jepa-which-is-shown) {
  display: none;
}
</style></div>"""


def figure_bundle(figure: Any, png: str | None = None) -> dict[str, Any]:
    """A plotly figure for front ends that know plotly, a PNG for all others, and text.

    Args:
        figure: A `plotly.graph_objects.Figure`.
        png: The picture, base64; drawn from the figure by default.
    """
    return {
        PLOTLY: json.loads(figure.to_json()),
        "image/png": _small_png(figure) if png is None else png,
        "text/plain": "curves of the run",
    }


def _small_png(figure: Any) -> str:
    """A PNG in base64, of as many colours as curves on white need."""
    from PIL import Image

    picture, small = Image.open(io.BytesIO(to_png(figure, width=PNG_WIDTH))).convert("RGB"), io.BytesIO()
    picture.quantize(PNG_COLOURS, dither=Image.Dither.NONE).save(small, format="png", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


class StaticFigure:
    """A sink that shows a run's curves as a figure of at most 100 kB, and writes them to the run folder at the end.

    Unless it has been given a place, it appears once, when the run ends, in the cell that is running then. In a place
    beside the live view it is hidden while that one is alive, and `renew` keeps it up to date.

    Args:
        trainer: Whose run it is.
    """

    def __init__(self, trainer: JEPATrainer) -> None:
        self._trainer = weakref.ref(trainer)
        self._taking = threading.Lock()
        self._drawing = threading.Lock()
        self._curves = RunCurves(METRICS)
        self._place = uuid.uuid4().hex
        self._placed = False
        self._changed = False  # since the figure was shown
        self._png_lags = False
        self._bundle: dict[str, Any] = EMPTY
        self._png: str | None = None
        self._png_due = 0.0
        self.load(trainer.history)

    def place(self) -> None:
        """Show the figure in the present cell, right after the live view has been shown there."""
        display(self._bundle, raw=True, display_id=self._place)
        publish_display_data({"text/html": WHICH_IS_SHOWN, "text/plain": ""})
        self._placed = True

    def __call__(self, event: events.Event) -> None:
        """Take one event."""
        if isinstance(event, events.MetricsLogged | events.Evaluated):
            with self._taking:
                self._curves.add(event.step, event.metrics)
                self._changed = True
        elif isinstance(event, events.RunStarted) and (trainer := self._trainer()) is not None:
            self.load(trainer.history)  # a checkpoint may just have brought one
        elif isinstance(event, events.RunEnded | events.RunFailed):
            self.complete()

    def load(self, history: Any) -> None:
        """Show a history instead of the curves so far; what happens next is added to it."""
        with self._taking:
            self._curves.load(history)
            self._changed = True

    def renew(self) -> None:
        """Bring the figure in its place up to date; while the run trains, its PNG lags to take 1 % of the time."""
        trainer = self._trainer()
        if not self._placed or trainer is None:
            return
        at_rest = trainer.state != "running"
        if self._changed or (at_rest and self._png_lags):
            self._render(exact=at_rest)

    def complete(self) -> None:
        """Bring figure and PNG up to date, show them, and write them to the run folder."""
        bundle, trainer = self._render(exact=True), self._trainer()
        if bundle is None or trainer is None or trainer.run is None:
            return
        with atomic_path(trainer.run.path / "figures" / "curves.png") as temporary:
            temporary.write_bytes(base64.b64decode(bundle["image/png"]))
        with atomic_path(trainer.run.path / "figures" / "curves.json") as temporary:
            temporary.write_text(json.dumps(bundle[PLOTLY]), encoding="utf-8")

    def _render(self, *, exact: bool) -> dict[str, Any] | None:
        """Draw and show the curves; `None` if there are none."""
        with self._drawing:  # what was begun earlier must not be shown later
            records, trainer = self._records(), self._trainer()
            if not records or trainer is None:
                return None
            figure = history_figure(records, title=trainer.run.name if trainer.run else None)
            self._png_lags = not exact and time.monotonic() < self._png_due
            if not self._png_lags:
                self._draw(figure)
            self._bundle = figure_bundle(figure, self._png)
            if self._placed:
                update_display(self._bundle, display_id=self._place, raw=True)
            else:
                publish_display_data(self._bundle)
            return self._bundle

    def _records(self) -> list[dict[str, float]]:
        with self._taking:
            self._changed = False
            curves = {name: curve.thinned(POINTS) for name, curve in self._curves.curves.items()}
        rows: dict[int, dict[str, float]] = {}
        for name, curve in curves.items():
            for step, value in zip(curve.steps.tolist(), curve.values.tolist(), strict=True):
                rows.setdefault(step, {"step": step})[name] = value
        return [rows[step] for step in sorted(rows)]

    def _draw(self, figure: Any) -> None:
        begin = time.monotonic()
        self._png = _small_png(figure)
        end = time.monotonic()
        self._png_due = end + (end - begin) / PNG_SHARE
