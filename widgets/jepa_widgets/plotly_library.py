"""plotly.js for our widgets: taken from the installed plotly package and sent to a page once, compressed."""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path

from ipywidgets import Widget, register
from traitlets import Bytes

SCRIPT = (Path(__file__).parent / "plotly_library.js").read_text(encoding="utf-8")


@register
class PlotlyLibrary(Widget):
    """The chart library as a model of its own, which every plot refers to.

    It travels with the message that opens the first plot, so it is there also while a cell blocks the kernel, and a
    reloaded page gets it back with the state of the widgets.
    """

    source = Bytes(help="plotly.min.js, gzipped").tag(sync=True)


@cache
def plotly_library() -> PlotlyLibrary:
    """The one library model of this kernel."""
    import plotly

    script = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    return PlotlyLibrary(source=gzip.compress(script.read_bytes(), 6))
