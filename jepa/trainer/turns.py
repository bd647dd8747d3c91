"""Short turns at the interpreter while a run trains beside the user's own code.

Python lets one thread at a time run its code, and another one that waits asks for its turn after
`sys.getswitchinterval()`: 5 ms unless changed. A training step calls PyTorch hundreds of times, which lets go of the
interpreter each time, and would wait as long for it again after each: beside a cell that computes in pure Python it
stands still most of the time. What short turns cost and bring is in `docs/tables/spinning_cell.md`.
"""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

TURN_SECONDS = 1e-5
ROUNDING = 5e-7  # the interpreter cuts to whole microseconds: what is read and set again would become shorter
SLACK_NANOSECONDS = 1000


class ShortTurns:
    """One run's wish for short turns; the interpreter keeps to them while any run has it, and it is not paused.

    The interval from before comes back with the end of the last wish, unless it was changed by somebody else meanwhile.
    One that was shorter already stays.
    """

    _lock: ClassVar = threading.Lock()
    _wishing: ClassVar[set[ShortTurns]] = set()
    _before: ClassVar[float] = 0.0
    _short: ClassVar[float] = 0.0

    def __init__(self) -> None:
        self._begun = False

    def begin(self) -> None:
        """From now on, for the calling thread."""
        self._begun = True
        _wake_in_time()
        self.resume()

    def pause(self) -> None:
        """Not while the run is paused."""
        cls = ShortTurns
        with cls._lock:
            was_wished = self in cls._wishing
            cls._wishing.discard(self)
            if was_wished and not cls._wishing and sys.getswitchinterval() == cls._short:
                sys.setswitchinterval(cls._before + ROUNDING)

    def resume(self) -> None:
        """The run goes on; nothing, unless it has begun."""
        cls = ShortTurns
        with cls._lock:
            if not self._begun or self in cls._wishing:
                return
            if not cls._wishing:
                cls._before = sys.getswitchinterval()
                sys.setswitchinterval(min(cls._before, TURN_SECONDS) + ROUNDING)
                cls._short = sys.getswitchinterval()
            cls._wishing.add(self)

    def end(self) -> None:
        """No more; twice is fine."""
        self._begun = False
        self.pause()


def _wake_in_time() -> None:
    """Linux lets a thread that waits sleep 50 us longer than asked for, which would be most of the wait here."""
    with suppress(OSError, AttributeError):
        Path(f"/proc/{threading.get_native_id()}/timerslack_ns").write_text(str(SLACK_NANOSECONDS))
