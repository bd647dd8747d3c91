"""The curves of a run as a picture that stays: in the notebook without a kernel, and in the run folder."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from IPython.display import display, publish_display_data

from jepa.figures import history_figure, to_png
from jepa.files import atomic_path
from jepa.trainer import events

if TYPE_CHECKING:
    from jepa.trainer import JEPATrainer


def figure_bundle(figure: Any) -> dict[str, Any]:
    """A plotly figure for front ends that know plotly, a PNG for all others, and text."""
    return {
        "application/vnd.plotly.v1+json": json.loads(figure.to_json()),
        "image/png": base64.b64encode(to_png(figure)).decode(),
        "text/plain": "curves of the run",
    }


class StaticFigure:
    """A sink that, when a run ends, shows its curves once and writes them to the run folder (`figures/`).

    Args:
        trainer: Whose run it is.
        inline: Whether to show them in the cell that is running.
    """

    def __init__(self, trainer: JEPATrainer, *, inline: bool = True) -> None:
        self._trainer = trainer
        self._inline = inline
        self._handle: Any = None

    def place(self) -> None:
        """Keep a place in the present cell for the figure (main thread)."""
        self._handle = display({"text/plain": ""}, raw=True, display_id=True)

    def __call__(self, event: events.Event) -> None:
        """Take one event."""
        if isinstance(event, events.RunEnded | events.RunFailed) and self._inline:
            self.render()

    def render(self) -> None:
        """Draw, write and show the curves."""
        if not len(self._trainer.history):
            return
        run = self._trainer.run
        figure = history_figure(self._trainer.history, title=run.name if run else None)
        bundle = figure_bundle(figure)
        if run is not None:
            with atomic_path(run.path / "figures" / "curves.png") as temporary:
                temporary.write_bytes(base64.b64decode(bundle["image/png"]))
            with atomic_path(run.path / "figures" / "curves.json") as temporary:
                temporary.write_text(json.dumps(bundle["application/vnd.plotly.v1+json"]), encoding="utf-8")
        if self._handle is not None:
            self._handle.update(bundle, raw=True)
        else:
            publish_display_data(bundle)
