"""The numbers of a run that may be changed while it trains, as a panel shows them and `status.json` carries them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast, get_args

from jepa.objectives.base import HyperParameter
from jepa.trainer.control import Mode

MOST, LONGEST = 100, 200  # numbers of a run, and letters of a text, that are taken from a file


@dataclass(frozen=True, slots=True)
class Number:
    """One that may be changed.

    Attributes:
        spec: Its range and unit.
        value: What it is now.
        course: How it goes on at present, such as `rescaled x 0.5`.
        modes: Ways in which it may go on from a new value, the usual one first.
    """

    spec: HyperParameter
    value: float
    course: str
    modes: tuple[Mode, ...]

    def as_data(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return {**asdict(self.spec), "value": self.value, "course": self.course, "modes": list(self.modes)}


def parse_numbers(data: Any) -> dict[str, Number]:
    """Numbers by name from what `as_data` gave for each.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(data, Mapping) or len(data) > MOST:
        raise ValueError(f"numbers are a mapping of at most {MOST} names, got {type(data).__name__}")
    return {_text(name): _parse(row) for name, row in data.items()}


def _parse(row: Any) -> Number:
    fields = {"default", "low", "high", "unit", "whole", "value", "course", "modes"}
    if not isinstance(row, Mapping) or row.keys() != fields:
        raise ValueError(f"a number has the fields {', '.join(sorted(fields))}, got {str(row)[:LONGEST]!r}")
    default, low, high, value = (_real(row[name]) for name in ("default", "low", "high", "value"))
    modes, known = row["modes"], get_args(Mode)
    if not isinstance(modes, list) or not modes or not all(mode in known for mode in modes):
        raise ValueError(f"modes must be some of {', '.join(known)}, got {str(modes)[:LONGEST]!r}")
    spec = HyperParameter(default, low, high, _text(row["unit"]), row["whole"] is True)
    return Number(spec, value, _text(row["course"]), cast("tuple[Mode, ...]", tuple(dict.fromkeys(modes))))


def _real(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise ValueError(f"expected a number, got {str(value)[:LONGEST]!r}")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > LONGEST:
        raise ValueError(f"expected a text of at most {LONGEST} letters, got {str(value)[:LONGEST]!r}")
    return value
