"""When a front end may look at a run of its own accord: as often as a share of the training's time allows."""

from __future__ import annotations

import time
from collections.abc import Callable

SHARE = 0.02  # of the training's time


class InspectionBudget:
    """Keeps inspections that nobody asked for within a share of the time that a run trains.

    Each inspection is paid for by the training after it: one of 0.1 s allows the next one after 4.9 s of training, with
    a share of 0.02. What was not used before is not saved up, and time in which the run is paused does not count. For
    one thread; the first inspection is free to go, since nothing tells yet what it will take.

    Args:
        share: Largest part of the training's time, between 0 and 1.
        clock: Seconds, from anywhere on.

    Raises:
        ValueError: The share is not between 0 and 1.

    Example:
        >>> budget = InspectionBudget()
        >>> budget.trains(True)
        >>> budget.may_refresh()
        True
        >>> budget.took(0.1)
        >>> budget.may_refresh()
        False
    """

    def __init__(self, share: float = SHARE, *, clock: Callable[[], float] = time.monotonic) -> None:
        if not 0 < share < 1:
            raise ValueError(f"share must lie between 0 and 1, such as {SHARE} for 2 %, got {share!r}")
        self.share = share
        self._clock = clock
        self._owed = 0.0
        self._trains_since: float | None = None

    def trains(self, running: bool) -> None:
        """Say whether the run goes on from now on, or holds."""
        self._owed = self.seconds_left
        self._trains_since = self._clock() if running else None

    def took(self, seconds: float) -> None:
        """Say what an inspection that has just been made took: `Inspection.seconds`. In a pause it holds up nothing."""
        if self._trains_since is not None:
            self._owed = self.seconds_left + seconds * (1 / self.share - 1)
            self._trains_since = self._clock()

    @property
    def seconds_left(self) -> float:
        """Seconds of training until the next inspection may be made."""
        trained = 0.0 if self._trains_since is None else self._clock() - self._trains_since
        return max(self._owed - trained, 0.0)

    def may_refresh(self) -> bool:
        """Whether an inspection may be made now. Ask for one at a time, and wait for it."""
        return self.seconds_left == 0.0
