"""The curves of a run as a picture that stays: in the notebook without a kernel, and in the run folder."""

from __future__ import annotations

import base64
import json
import uuid
import weakref
from typing import TYPE_CHECKING, Any

from IPython.display import display, publish_display_data, update_display

from jepa.figures import history_figure, to_png
from jepa.files import atomic_path
from jepa.trainer import events

if TYPE_CHECKING:
    from jepa.trainer import JEPATrainer


# What a notebook has room for in a window of 1280 pixels: front ends show a picture uncut only if it fits.
PNG_WIDTH = 840


def figure_bundle(figure: Any) -> dict[str, Any]:
    """A plotly figure for front ends that know plotly, a PNG for all others, and text."""
    return {
        "application/vnd.plotly.v1+json": json.loads(figure.to_json()),
        "image/png": base64.b64encode(to_png(figure, width=PNG_WIDTH)).decode(),
        "text/plain": "curves of the run",
    }


class StaticFigure:
    """A sink that, when a run ends, shows its curves once and writes them to the run folder (`figures/`).

    Args:
        trainer: Whose run it is.
        stands_for: A live chart that has its place while the run trains; without one the figure appears in the cell
            that is running when the run ends.
    """

    def __init__(self, trainer: JEPATrainer, *, stands_for: Any = None) -> None:
        self._trainer = weakref.ref(trainer)
        self._live = stands_for
        self._place = uuid.uuid4().hex
        self._placed = False
        self._ended = False

    def place(self) -> None:
        """Show the live chart in the present cell, or what has taken its place."""
        display(self._live, display_id=self._place)
        self._placed = True
        trainer = self._trainer()
        if trainer is not None and not trainer.is_live:
            self.render()

    def __call__(self, event: events.Event) -> None:
        """Take one event."""
        if isinstance(event, events.RunEnded | events.RunFailed):
            self._ended = True
            self.render()
        elif isinstance(event, events.RunStarted):
            if self._ended and self._placed:
                update_display(self._live, display_id=self._place)
            self._ended = False

    def render(self) -> None:
        """Draw, write and show the curves."""
        trainer = self._trainer()
        if trainer is None or not len(trainer.history):
            return
        run = trainer.run
        figure = history_figure(trainer.history, title=run.name if run else None)
        bundle = figure_bundle(figure)
        if run is not None:
            with atomic_path(run.path / "figures" / "curves.png") as temporary:
                temporary.write_bytes(base64.b64decode(bundle["image/png"]))
            with atomic_path(run.path / "figures" / "curves.json") as temporary:
                temporary.write_text(json.dumps(bundle["application/vnd.plotly.v1+json"]), encoding="utf-8")
        if self._placed:
            update_display(bundle, display_id=self._place, raw=True)
        elif self._live is None:
            publish_display_data(bundle)
