"""One thread writes what widgets show, at most twice a second; whoever has news only says so."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.5
ANSWER_SECONDS = 0.05
IDLE_SECONDS = 1.0


class Publisher:
    """Calls `flush` soon after `soon()`, on a thread of its own; the latest state wins.

    What must not wait for the interval goes through `now()` and `answer`, which should write little. A call that
    raises is logged, once for each error, and the next ones are made all the same.

    Args:
        flush: Writes everything.
        answer: Writes what must be seen at once.
        interval: Least seconds between two calls of `flush`.
        wanted: Asked about once a second while there is no news; once it is false the thread ends as after `close()`.
    """

    def __init__(
        self,
        flush: Callable[[], None],
        answer: Callable[[], None] = lambda: None,
        interval: float = INTERVAL_SECONDS,
        wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        self._flush = flush
        self._answer = answer
        self._interval = interval
        self._wanted = wanted
        self._news = threading.Event()
        self._urgent = threading.Event()
        self._closing = threading.Event()
        self._reported: set[str] = set()
        # In the context of the cell: kernels look there for what messages answer to, and some send none without it.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="jepa-publisher", daemon=True)
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
        self._closing.set()
        self.now()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._closing.is_set():
            if not self._news.wait(IDLE_SECONDS):
                if not self._wanted():
                    break
                continue
            self._news.clear()
            self._urgent.clear()
            due = time.monotonic() + self._interval
            self._call(self._flush)
            self._answer_until(due)
        self._call(self._flush)

    def _answer_until(self, due: float) -> None:
        while (left := due - time.monotonic()) > 0 and not self._closing.is_set():
            if self._urgent.wait(left) and not self._closing.is_set():
                self._urgent.clear()
                self._call(self._answer)
                self._closing.wait(ANSWER_SECONDS)  # a script may ask a thousand times a second

    def _call(self, function: Callable[[], None]) -> None:
        try:
            function()
        except Exception as error:
            if repr(error) not in self._reported:
                self._reported.add(repr(error))
                logger.exception("the live view could not be updated")
