"""What a run has recorded so far: one column of numbers a metric, each against the step."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch


class Moment(NamedTuple):
    """When a record was made: `step` updates were done, in which epoch, and in seconds since 1970."""

    step: int
    epoch: int
    time: float


class History(Mapping[str, list[float]]):
    """Recorded metrics by name: `history["loss"]` are the values, `history.steps("loss")` where they were taken.

    Example:
        >>> history = History()
        >>> history.append(10, {"loss": 0.5})
        >>> history["loss"], history.steps("loss")
        ([0.5], [10])
    """

    def __init__(self) -> None:
        self._steps: dict[str, array[int]] = {}
        self._values: dict[str, array[float]] = {}
        self._moments = _no_moments()

    def append(self, step: int, metrics: Mapping[str, float], when: tuple[int, float] | None = None) -> None:
        """Record `metrics` after `step` completed updates.

        Args:
            step: Completed updates.
            metrics: Numbers by name.
            when: Epoch, and seconds since 1970; of several records of a step the first one's is kept.
        """
        for name, value in metrics.items():
            if name not in self._steps:
                self._steps[name], self._values[name] = array("q"), array("d")
            self._steps[name].append(step)
            self._values[name].append(value)
        steps, epochs, times = self._moments
        if when is not None and (not steps or steps[-1] < step):
            steps.append(step)
            epochs.append(when[0])
            times.append(when[1])

    def truncate(self, step: int) -> None:
        """Forget what was recorded after `step`."""
        for name, steps in self._steps.items():
            end = bisect_right(steps, step)
            del steps[end:]
            del self._values[name][end:]
        end = bisect_right(self._moments[0], step)
        for column in self._moments:
            del column[end:]

    def __getitem__(self, name: str) -> list[float]:
        if name not in self._values:
            raise KeyError(f"no metric {name!r} was recorded; recorded: {', '.join(sorted(self._values)) or 'none'}")
        return list(self._values[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        last = ", ".join(f"{name}={self._values[name][-1]:.4g}" for name in self._values if self._values[name])
        return f"History(step={self.last_step}, {last})" if last else "History(empty)"

    @property
    def last_step(self) -> int:
        """Step of the newest record, 0 if there is none."""
        return max((steps[-1] for steps in self._steps.values() if steps), default=0)

    def steps(self, name: str) -> list[int]:
        """Steps at which the metric `name` was recorded."""
        self[name]  # raises the error that lists what there is
        return list(self._steps[name])

    def moments(self, most: int | None = None) -> list[Moment]:
        """Epoch and time of the records that are known of, in order.

        Args:
            most: Give so many at most, 2 or more: the first and the newest, and others spread evenly between them.
        """
        steps, epochs, times = self._moments
        count = len(times)  # the last to get longer, where a run that trains in another thread is adding one
        shown = count if most is None else min(count, most)
        rows = (number * (count - 1) // max(shown - 1, 1) for number in range(shown))
        return [Moment(steps[row], epochs[row], times[row]) for row in rows]

    @property
    def records(self) -> list[dict[str, float]]:
        """One mapping a step, with `step` and every metric recorded there, in order."""
        rows: dict[int, dict[str, float]] = {}
        for name, steps in self._steps.items():
            for step, value in zip(steps, self._values[name], strict=True):
                rows.setdefault(step, {"step": step})[name] = value
        return [rows[step] for step in sorted(rows)]

    def state_dict(self) -> dict[str, Any]:
        """Columns as tensors."""
        return {
            name: {"steps": _as_tensor(self._steps[name]), "values": _as_tensor(self._values[name])}
            for name in self._steps
        }

    def moments_state(self) -> dict[str, Any]:
        """Epochs and times as tensors; beside `state_dict`, since they differ between runs that are equal."""
        return dict(zip(MOMENTS, map(_as_tensor, self._moments), strict=True))

    def load_state_dict(self, state: Mapping[str, Any], moments: Mapping[str, Any] | None = None) -> None:
        """Replace everything by what a checkpoint holds."""
        self._moments = _no_moments()
        if moments is not None:
            for column, name in zip(self._moments, MOMENTS, strict=True):
                column.frombytes(_as_bytes(moments[name]))
        self._steps = {name: array("q", _as_bytes(column["steps"])) for name, column in state.items()}
        self._values = {name: array("d", _as_bytes(column["values"])) for name, column in state.items()}


MOMENTS = ("steps", "epochs", "times")
KINDS = {"q": torch.int64, "i": torch.int32, "d": torch.float64}


def _as_tensor(column: array[Any]) -> torch.Tensor:
    """A copy in memory of its own; a million numbers one by one would take half a second."""
    kind = KINDS[column.typecode]
    return torch.frombuffer(bytearray(column), dtype=kind) if column else torch.empty(0, dtype=kind)


def _as_bytes(column: torch.Tensor) -> bytes:
    return column.contiguous().numpy().tobytes()


def _no_moments() -> tuple[array[int], array[int], array[float]]:
    return array("q"), array("i"), array("d")
