"""Schedules are pure functions of the step; an `Adjustable` one can be edited by hand and says how it goes on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from jepa.objectives.base import HyperParameter
from jepa.trainer.control import Mode

Schedule = Callable[[int], float]


def plan_steps(batches_per_epoch: int | None, accumulate: int, num_epochs: int | None, max_steps: int | None) -> int:
    """The true number of optimizer updates: `ceil(batches / accumulate)` an epoch, at most `max_steps`."""
    for name, value in (("num_epochs", num_epochs), ("max_steps", max_steps)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be a positive whole number, got {value!r}")
    if num_epochs is None:
        if max_steps is None:
            raise ValueError("say how long to train: num_epochs=... or max_steps=...")
        return max_steps
    if batches_per_epoch is None:
        raise ValueError("the loader has no length, so epochs cannot be planned: pass max_steps=... instead")
    steps = num_epochs * -(-batches_per_epoch // accumulate)
    return steps if max_steps is None else min(steps, max_steps)


def constant(value: float) -> Schedule:
    """Always `value`."""
    return lambda step: value


def linear(start: float, end: float, total_steps: int) -> Schedule:
    """From `start` at step 0 to `end` at the last of `total_steps` steps, and `end` afterwards."""
    last = max(total_steps - 1, 1)
    return lambda step: start + (end - start) * min(step / last, 1.0)


def cosine(start: float, end: float, total_steps: int) -> Schedule:
    """Half a cosine from `start` at step 0 to `end` at the last step, and `end` afterwards."""
    last = max(total_steps - 1, 1)
    return lambda step: end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(step / last, 1.0)))


def warmup_cosine(peak: float, end: float, warmup_steps: int, total_steps: int, start: float = 0.0) -> Schedule:
    """A linear rise from `start` to `peak` over `warmup_steps` (never 0 at a step), then half a cosine to `end`."""
    descent = cosine(peak, end, total_steps - warmup_steps)

    def schedule(step: int) -> float:
        if step < warmup_steps:
            return start + (peak - start) * (step + 1) / (warmup_steps + 1)
        return descent(step - warmup_steps)

    return schedule


class Onward(NamedTuple):
    """A schedule laid by hand, from `value` after `step` steps to `end` at the last of `total_steps`."""

    step: int
    value: float
    end: float
    total_steps: int


UNEDITED: dict[str, Any] = {"scale": 1.0, "held": None, "onward": None}


class Adjustable:
    """A scheduled value that may be edited while training.

    Args:
        spec: Range and unit.
        schedule: Value as a function of the step; a constant at the default until the run is planned.
        anchor: The value that scaling keeps in place: 0 for a rate; 1 for an EMA momentum, whose distance to 1 is
            what is scaled.
        shape: Of a schedule that is laid by hand: `cosine` or `linear`.
    """

    def __init__(
        self,
        spec: HyperParameter,
        schedule: Schedule | None = None,
        *,
        anchor: float = 0.0,
        shape: Callable[[float, float, int], Schedule] = cosine,
    ) -> None:
        self.spec = spec
        self.schedule = schedule or constant(spec.default)
        self._anchor = anchor
        self._shape = shape
        self._scale = 1.0
        self._held: float | None = None
        self._onward: Onward | None = None

    def __call__(self, step: int) -> float:
        """The value to use in the step that follows `step` completed ones."""
        if self._held is not None:
            return self._held
        if self._scale == 1.0:
            return self._unscaled(step)
        value = self._anchor + self._scale * (self._unscaled(step) - self._anchor)
        return min(max(value, self.spec.low), self.spec.high)

    def _unscaled(self, step: int) -> float:
        if self._onward is None:
            return self.schedule(step)
        since, value, end, total = self._onward
        return self._shape(value, end, total - since)(max(step - since, 0))

    @property
    def course(self) -> str:
        """How the value goes on, in words: `as planned`, `held`, `rescaled x 0.5`, `cosine to 1e-05 at step 400`."""
        if self._held is not None:
            return "held"
        scaled = "" if self._scale == 1.0 else f"rescaled x {self._scale:.4g}"
        scaled = f"distance to {self._anchor:g} {scaled}" if scaled and self._anchor else scaled
        if self._onward is None:
            return scaled or "as planned"
        laid = f"{self._shape.__name__} to {self._onward.end:g} at step {self._onward.total_steps}"
        return f"{laid}, {scaled}" if scaled else laid

    @property
    def moves_by_hand(self) -> bool:
        """Whether the value follows a schedule that was laid by hand."""
        return self._onward is not None and self._held is None

    def scalable(self, step: int) -> bool:
        """Whether the schedule at `step` can be rescaled; at its anchor it can only be held."""
        return self._unscaled(step) != self._anchor

    def edit(self, step: int, value: float, mode: Mode = "scale", total_steps: int = 1) -> None:
        """Go on from `step` in another way.

        Args:
            step: Steps done.
            value: Where to go.
            mode: `"scale"`: it is `value` now, and goes on along the rescaled schedule; `"hold"`: it is `value` from
                now on; `"schedule"`: a new schedule leads from the present value to `value`.
            total_steps: Of the run: a new schedule arrives with the last one.
        """
        if mode == "scale":
            self._scale, self._held = (value - self._anchor) / (self._unscaled(step) - self._anchor), None
        elif mode == "hold":
            self._held = value
        else:
            self._onward = Onward(step, self(step), value, total_steps)
            self._scale, self._held = 1.0, None

    def replan(self, schedule: Schedule, step: int) -> None:
        """Go on along another schedule; where an edit rescales the present one, the value at `step` stays.

        A value at the anchor (the end of many schedules) tells no factor: there the new schedule starts unscaled.
        """
        value, rescaled = self(step), self._held is None and self._onward is None and self._scale != 1.0
        self.schedule = schedule
        if not rescaled:
            return
        if value == self._anchor:
            self._scale = 1.0
        else:
            self.edit(step, value, "scale" if self.scalable(step) else "hold")

    def stretch(self, step: int, total_steps: int) -> None:
        """Let a schedule that was laid by hand arrive with the last of another number of steps."""
        if self._onward is not None and self._onward.total_steps != total_steps:
            held, end = self._held, self._onward.end
            if self._scale != 1.0:  # where the rescaled one would have arrived
                end = self(self._onward.total_steps)
            self.edit(step, end, "schedule", total_steps)
            self._held = held

    def state_dict(self) -> dict[str, Any]:
        """The edits; the planned schedule itself is rebuilt from the configuration."""
        return {"scale": self._scale, "held": self._held, "onward": self._onward and list(self._onward)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Apply the edits of a checkpoint."""
        self._scale, self._held = state["scale"], state["held"]
        onward = state.get("onward")
        self._onward = Onward(*onward) if onward else None
