"""Colours and layout that all figures share. The colours are Okabe and Ito's (2008), told apart by everybody."""

from __future__ import annotations

from typing import Any

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
CONTEXT, TARGET = "#56B4E9", "#D55E00"


def finish(figure: Any, *, title: str | None = None, height: int, width: int | None = None) -> Any:
    """The figure with the common layout, as one that shows itself everywhere."""
    from jepa.figures.figure import Figure

    return Figure(figure).update_layout(
        template="plotly_white",
        height=height,
        width=width,
        margin={"l": 60, "r": 20, "t": 60 if title else 40, "b": 45},
        title={"text": title, "x": 0.01} if title else None,
        font={"size": 12},
        hoverlabel={"namelength": -1},
        legend={"orientation": "h", "y": -0.18},
    )
