"""Curves of a live run: one bounded, self-contained snapshot that every page can draw at any time.

The snapshot is a single synced trait, written anew with each update, so a page that reloads, joins late or misses an
update shows the complete curves with the next one, and the kernel's state shows them without any.
"""

from __future__ import annotations

import json
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
PANELS = {"loss": 0, "val_loss": 0, "learning_rate": 1, "ema_momentum": 2, "embedding_std": 3, "effective_rank": 4}
POINTS = 320
MARKS = 40


class LivePlot(anywidget.AnyWidget):
    """Loss, learning rate, EMA momentum, embedding deviation and effective rank against the step.

    It is a sink: subscribe it to a trainer, and call `flush` (on one thread, not too often) to show what is new.
    """

    _esm = SCRIPT + (FOLDER / "live_plot.js").read_text(encoding="utf-8")
    _css = FOLDER / "widgets.css"
    snapshot = Bytes().tag(sync=True)
    library = Instance(PlotlyLibrary).tag(sync=True, **widget_serialization)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(library=plotly_library(), **kwargs)
        self._curves = {name: MinMaxCurve(POINTS) for name in PANELS}
        self._marks: deque[dict[str, Any]] = deque(maxlen=MARKS)

    def __call__(self, event: events.Event) -> None:
        """Take one event: costs microseconds, sends nothing."""
        if isinstance(event, events.MetricsLogged | events.Evaluated):
            for name, curve in self._curves.items():
                value = event.metrics.get(name)
                if value is not None:
                    curve.add(event.step, value)
        elif isinstance(event, events.CommandApplied) and event.command["type"] == "Set" and event.error is None:
            result = event.result
            text = f"{result['name']}: {result['old']:.4g} to {result['new']:.4g}"
            self._marks.append({"step": event.step, "text": text})

    def load(self, history: Any) -> None:
        """Take up what was recorded before this widget existed."""
        for name, curve in self._curves.items():
            if name in history:
                for step, value in zip(history.steps(name), history[name], strict=True):
                    curve.add(step, value)

    def flush(self) -> None:
        """Send the curves as they are now."""
        self.snapshot = self.packed()

    def packed(self) -> bytes:
        """Header length (uint32), JSON header, and for each curve its steps (uint32) and values (float32)."""
        curves, arrays = [], []
        for name, curve in self._curves.items():
            steps, values = curve.points()
            if steps:
                curves.append({"name": name, "panel": PANELS[name], "length": len(steps)})
                arrays += [np.asarray(steps, "<u4").tobytes(), np.asarray(values, "<f4").tobytes()]
        header = json.dumps({"uid": self.model_id, "curves": curves, "marks": list(self._marks)}).encode()
        return b"".join([len(header).to_bytes(4, "little"), header, *arrays])
