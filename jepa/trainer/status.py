"""What a run says of itself at any moment, to any thread."""

from __future__ import annotations

from dataclasses import dataclass

LIVE = ("running", "paused", "stopping")


@dataclass(frozen=True, slots=True)
class Status:
    """Where a run is.

    Attributes:
        state: `idle`, `running`, `paused`, `stopping`, `finished`, `stopped` or `failed`.
        step: Optimizer updates done.
        total_steps: Updates planned; 0 before the first `train`.
        epoch: Passes over the data completed.
        steps_per_second: Recent speed, pauses left out.
        seconds_left: Estimated time to the end, `None` while unknown.
        learning_rate: Of the next step.
        error: What ended the run, if it failed.
    """

    state: str
    step: int
    total_steps: int
    epoch: int
    steps_per_second: float
    seconds_left: float | None
    learning_rate: float
    error: str | None = None
