"""What a run has recorded so far: one column of numbers a metric, each against the step."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import Any

import torch


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

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record `metrics` after `step` completed updates."""
        for name, value in metrics.items():
            if name not in self._steps:
                self._steps[name], self._values[name] = array("q"), array("d")
            self._steps[name].append(step)
            self._values[name].append(value)

    def truncate(self, step: int) -> None:
        """Forget what was recorded after `step`."""
        for name, steps in self._steps.items():
            end = bisect_right(steps, step)
            del steps[end:]
            del self._values[name][end:]

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
            name: {
                "steps": torch.tensor(self._steps[name], dtype=torch.int64),
                "values": torch.tensor(self._values[name], dtype=torch.float64),
            }
            for name in self._steps
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace everything by what a checkpoint holds."""
        self._steps = {name: array("q", column["steps"].tolist()) for name, column in state.items()}
        self._values = {name: array("d", column["values"].tolist()) for name, column in state.items()}
