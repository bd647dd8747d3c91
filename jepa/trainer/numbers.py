"""The numbers of a run that may be changed while it trains, as a panel shows them and `status.json` carries them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
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
        of_views: Whether it decides what the views are, such as the scale of a mask.
    """

    spec: HyperParameter
    value: float
    course: str
    modes: tuple[Mode, ...]
    of_views: bool = False

    def as_data(self) -> dict[str, Any]:
        """Plain values, for a file; what is not finite becomes `None`, since JSON has no word for it."""
        spec = self.spec
        numbers = {"default": spec.default, "low": spec.low, "high": spec.high, "value": self.value}
        return {
            **{name: float(number) if math.isfinite(number) else None for name, number in numbers.items()},
            "unit": spec.unit,
            "whole": bool(spec.whole),
            "course": self.course,
            "modes": list(self.modes),
            "of_views": self.of_views,
        }


def parse_numbers(data: Any) -> dict[str, Number]:
    """Numbers by name from what `as_data` gave for each, without those that are not to be understood.

    Raises:
        ValueError: It is no mapping, or too large.
    """
    if not isinstance(data, Mapping) or len(data) > MOST:
        raise ValueError(f"numbers are a mapping of at most {MOST} names, got {type(data).__name__}")
    numbers: dict[str, Number] = {}
    for name, row in data.items():
        with suppress(ValueError):
            numbers[_text(name)] = _parse(row)
    return numbers


def _parse(row: Any) -> Number:
    fields = {"default", "low", "high", "unit", "whole", "value", "course", "modes", "of_views"}
    if not isinstance(row, Mapping) or row.keys() != fields:
        raise ValueError(f"a number has the fields {', '.join(sorted(fields))}, got {str(row)[:LONGEST]!r}")
    low = -math.inf if row["low"] is None else _real(row["low"])
    high = math.inf if row["high"] is None else _real(row["high"])
    modes, known = row["modes"], get_args(Mode)
    if not isinstance(modes, list) or not modes or not all(mode in known for mode in modes):
        raise ValueError(f"modes must be some of {', '.join(known)}, got {str(modes)[:LONGEST]!r}")
    spec = HyperParameter(_real(row["default"]), low, high, _text(row["unit"]), row["whole"] is True)
    modes = cast("tuple[Mode, ...]", tuple(dict.fromkeys(modes)))
    return Number(spec, _real(row["value"]), _text(row["course"]), modes, row["of_views"] is True)


def _real(value: Any) -> float:
    with suppress(OverflowError):
        if isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value):
            return float(value)
    raise ValueError(f"expected a number that a float can hold, got {str(value)[:LONGEST]!r}")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a text, got {str(value)[:LONGEST]!r}")
    return value[:LONGEST]
