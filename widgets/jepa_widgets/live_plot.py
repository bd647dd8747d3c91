"""Curves of a live run: one bounded, self-contained snapshot that every page can draw at any time.

The snapshot is a single synced trait, written anew with each update, so a page that reloads, joins late or misses an
update shows the complete curves with the next one, and the kernel's state shows them without any.
"""

from __future__ import annotations

import json
import math
import threading
from collections import deque
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
from ipywidgets import widget_serialization
from traitlets import Bytes, Instance

from jepa.figures.thinning import MinMaxCurve
from jepa.trainer import events
from jepa_widgets.plotly_library import SCRIPT, PlotlyLibrary, plotly_library

FOLDER = Path(__file__).parent
PANELS = {
    "loss": 0,
    "val_loss": 0,
    "learning_rate": 1,
    "ema_momentum": 2,
    "embedding_std": 3,
    "effective_rank": 4,
    "grad_norm": 5,
}
# Together below 20 kB: 7 curves of 280 points at 8 bytes, and marks of about 100 bytes.
POINTS = 280
MARKS = 30
TEXT = 64


class LivePlot(anywidget.AnyWidget):
    """Loss, learning rate, EMA momentum, embedding deviation, effective rank and gradient norm against the step.

    It is a sink: subscribe it to a trainer, and call `flush` (not too often) to show what is new. Events may come from
    one thread while another one flushes.
    """

    _esm = SCRIPT + (FOLDER / "live_plot.js").read_text(encoding="utf-8")
    _css = FOLDER / "widgets.css"
    snapshot = Bytes().tag(sync=True)
    library = Instance(PlotlyLibrary).tag(sync=True, **widget_serialization)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(library=plotly_library(), **kwargs)
        self._lock = threading.Lock()
        self._curves = {name: MinMaxCurve(POINTS) for name in PANELS}
        self._marks: deque[dict[str, Any]] = deque(maxlen=MARKS)

    def __call__(self, event: events.Event) -> None:
        """Take one event: costs microseconds, sends nothing."""
        with self._lock:
            if isinstance(event, events.MetricsLogged | events.Evaluated):
                for name, curve in self._curves.items():
                    _add(curve, event.step, event.metrics.get(name))
            elif isinstance(event, events.CommandApplied) and event.command["type"] == "Set" and event.error is None:
                result = event.result
                text = f"{result['name']}: {result['old']:.4g} to {result['new']:.4g}"
                self._marks.append({"step": event.step, "text": text[-TEXT:]})

    def load(self, history: Any) -> None:
        """Show a history instead of the curves so far; what happens next is added to it."""
        curves = {name: MinMaxCurve(POINTS) for name in PANELS}
        for name, curve in curves.items():
            if name in history:
                # a run that trains in another thread may add a point in between
                for step, value in zip(history.steps(name), history[name], strict=False):
                    _add(curve, step, value)
        with self._lock:
            self._curves = curves

    def flush(self) -> None:
        """Send the curves as they are now."""
        self.snapshot = self.packed()

    def packed(self) -> bytes:
        """Header length (uint32), JSON header, and for each curve its steps (uint32) and values (float32)."""
        curves, arrays = [], []
        with self._lock:
            thinned = {name: curve.points() for name, curve in self._curves.items()}
            marks = list(self._marks)
        for name, (steps, values) in thinned.items():
            if steps:
                curves.append({"name": name, "panel": PANELS[name], "length": len(steps)})
                arrays += [np.asarray(steps, "<u4").tobytes(), np.asarray(values, "<f4").tobytes()]
        header = json.dumps({"uid": self.model_id, "curves": curves, "marks": marks}).encode()
        return b"".join([len(header).to_bytes(4, "little"), header, *arrays])


def _add(curve: MinMaxCurve, step: int, value: float | None) -> None:
    if value is not None and math.isfinite(value):  # nothing else has a place on an axis
        curve.add(step, value)
