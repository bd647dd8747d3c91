"""A drop-down list that sends what was chosen as a message, which arrives also while a cell awaits; see `RunPart`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anywidget
from traitlets import List, Unicode

FOLDER = Path(__file__).parent


class Choice(anywidget.AnyWidget):
    """One of several names.

    Args:
        label: Before the list.
        choose: Gets the name that was chosen.
    """

    _esm = FOLDER / "choice.js"
    _css = FOLDER / "widgets.css"
    label = Unicode().tag(sync=True)
    title = Unicode(help="what is chosen, in more words").tag(sync=True)
    options = List(Unicode()).tag(sync=True)
    value = Unicode(help="the present choice").tag(sync=True)

    def __init__(self, label: str, choose: Callable[[str], None], **kwargs: Any) -> None:
        super().__init__(label=label, **kwargs)
        self._choose = choose
        self.on_msg(self._receive)

    def offer(self, options: Sequence[str]) -> None:
        """Offer these; the present choice stays if it is among them, and is the first otherwise."""
        value = self.value if self.value in options else next(iter(options), "")
        with self.hold_sync():
            self.options, self.value = list(options), value

    def _receive(self, _: Any, content: Any, __: Any) -> None:
        if isinstance(content, dict) and content.get("event") == "choose" and content.get("value") in self.options:
            self.value = content["value"]
            self._choose(self.value)
