"""The JEPA methods, one a file, found by name."""

from __future__ import annotations

import difflib

from jepa.objectives.base import Draw, HyperParameter, Losses, Objective, Views
from jepa.objectives.ijepa import IJEPA
from jepa.objectives.state_pair import StatePair

OBJECTIVES: dict[str, type[Objective]] = {cls.name: cls for cls in (StatePair, IJEPA)}


def get_objective(name: str) -> type[Objective]:
    """The objective of that name.

    Raises:
        ValueError: There is none; the message names the nearest.
    """
    if name not in OBJECTIVES:
        nearest = difflib.get_close_matches(str(name), OBJECTIVES, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(OBJECTIVES)}"
        raise ValueError(f"unknown objective {name!r}; {hint}")
    return OBJECTIVES[name]


__all__ = [
    "IJEPA",
    "OBJECTIVES",
    "Draw",
    "HyperParameter",
    "Losses",
    "Objective",
    "StatePair",
    "Views",
    "get_objective",
]
