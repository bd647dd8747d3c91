"""One thread writes what widgets show, at most four times a second; whoever has news only says so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

INTERVAL_SECONDS = 0.25


class Publisher:
    """Calls `flush` soon after `soon()` and at once after `now()`, on a thread of its own; the latest state wins.

    Args:
        flush: Writes the widgets' traits.
        interval: Seconds between two calls that nobody asked for at once.
    """

    def __init__(self, flush: Callable[[], None], interval: float = INTERVAL_SECONDS) -> None:
        self._flush = flush
        self._interval = interval
        self._news = threading.Event()
        self._urgent = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="jepa-publisher", daemon=True)
        self._thread.start()

    def soon(self) -> None:
        """There is something new; costs about a microsecond."""
        if not self._news.is_set():
            self._news.set()

    def now(self) -> None:
        """There is something new that must not wait."""
        self._urgent.set()
        self._news.set()

    def close(self) -> None:
        """Write a last time and end the thread."""
        self._closed = True
        self.now()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._closed:
            self._news.wait()
            self._news.clear()
            self._urgent.clear()
            started = time.monotonic()
            self._flush()
            self._urgent.wait(max(self._interval - (time.monotonic() - started), 0))
