"""When an open inspector looks at the run again without being asked."""

from __future__ import annotations

from typing import Literal

from jepa.trainer.inspection_budget import InspectionBudget
from jepa.trainer.status import Status
from jepa_widgets.choice import Choice

What = Literal["batch", "journal"]


class Renewal:
    """At each pause, and while the run trains if that is wanted: then as often as a share of its time allows.

    For one thread, the one that writes what widgets show.

    Args:
        budget: How much of the training's time it may take; 2 % by default.

    Attributes:
        choice: The list to choose from.
    """

    def __init__(self, budget: InspectionBudget | None = None) -> None:
        self._budget = budget or InspectionBudget()
        self.asked = "when asked for"
        self.pauses = "at each pause"
        self.always = f"while it trains, in {self._budget.share:.0%} of its time".replace("%", " %")
        self.choice = Choice("renew", lambda _: None, title="When the inspector looks again")
        self.choice.offer([self.pauses, self.always, self.asked])
        self._state = ""
        self._seen: dict[What, int] = {}

    def note(self, state: str) -> None:
        """Say what the run does: only while it trains a look is paid for."""
        if state != self._state:
            self._state = state
            self._budget.trains(state == "running")

    def is_due(self, status: Status, what: What = "batch") -> bool:
        """Whether to look at batch and model, or at the journal, now; said once for each step."""
        self.note(status.state)
        wanted = self.choice.value == self.always and self._budget.may_refresh()
        if status.state == "paused":
            wanted = self.choice.value != self.asked
        if not wanted or status.state not in ("running", "paused") or status.step == self._seen.get(what):
            return False
        self._seen[what] = status.step
        return True

    def took(self, step: int, seconds: float, what: What = "batch") -> None:
        """Say at which step the run was looked at last, and what that, and drawing it, took of its time."""
        self._seen[what] = step
        self._budget.took(seconds)
