"""A field for a new learning rate, with a button.

While a cell awaits, kernels answer no widget state of a page with the "idle" that ipywidgets waits for before it sends
the next one, so the value of a `FloatText` would arrive once and never again. This field sends messages instead.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
from traitlets import Bool, Unicode

FOLDER = Path(__file__).parent


class RateField(anywidget.AnyWidget):
    """Shows the present rate in grey until somebody types a new one.

    Args:
        apply: Gets the text that was typed when Apply or Enter is pressed.
    """

    _esm = FOLDER / "rate_field.js"
    _css = FOLDER / "widgets.css"
    rate = Unicode(help="the present learning rate").tag(sync=True)
    enabled = Bool(False).tag(sync=True)

    def __init__(self, apply: Callable[[str], None], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._on_apply = apply
        self.on_msg(self._receive)

    def _receive(self, _: Any, content: Any, __: Any) -> None:
        if isinstance(content, dict) and content.get("event") == "apply":
            self._on_apply(str(content.get("value", "")))
