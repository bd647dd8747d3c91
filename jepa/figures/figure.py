"""A plotly figure that can also be seen where plotly is not: on code hosts, in exported pages, in documentation."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import Any

import plotly.graph_objects as go

from jepa.figures.files import to_png


class Figure(go.Figure):
    """A `plotly.graph_objects.Figure` whose notebook output holds a PNG beside plotly's own format."""

    # plotly's own answers: with these, notebooks would not look further, and pages would need its script.
    _ipython_display_ = None  # pyright: ignore[reportAssignmentType]
    _repr_html_ = None  # pyright: ignore[reportAssignmentType]

    def _repr_mimebundle_(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        bundle = dict(super()._repr_mimebundle_(*args, **kwargs) or {})
        with suppress(ImportError, ValueError):  # without matplotlib, or with a trace that it cannot draw
            bundle["image/png"] = base64.b64encode(to_png(self)).decode()
        return bundle
