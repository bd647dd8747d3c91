"""Rows of text and numbers as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from jepa.figures.style import finish

ROW_HEIGHT = 24


def table_figure(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    title: str | None = None,
    widths: Sequence[float] | None = None,
    wide: Sequence[str] = (),
    most: int = 20,
) -> Any:
    """A table; one of many rows can be scrolled.

    Args:
        columns: Their names.
        rows: Texts and numbers, one a column; `None` leaves a cell empty.
        title: Above the table.
        widths: Of the columns, relative to each other.
        wide: Columns of text, which begin at the left; numbers end at the right.
        most: Rows to show at once.

    Returns:
        A `plotly.graph_objects.Figure` with one table trace.
    """
    import plotly.graph_objects as go

    cells = [[_text(row[number]) for row in rows] for number in range(len(columns))]
    align = ["left" if name in wide else "right" for name in columns]
    look = {"align": align, "height": ROW_HEIGHT}
    figure = go.Figure(
        go.Table(
            columnwidth=list(widths) if widths else None,
            header={"values": list(columns), "fill": {"color": "#e8ecf1"}, "font": {"color": "#222"}, **look},
            cells={"values": cells, "fill": {"color": "white"}, "font": {"color": "#222"}, **look},
        )
    )
    top = 44 if title else 8
    height = (min(len(rows), most) + 1) * ROW_HEIGHT + top + 12
    return finish(figure, title=title, height=height).update_layout(margin={"l": 8, "r": 8, "t": top, "b": 8})


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value), quote=False)
