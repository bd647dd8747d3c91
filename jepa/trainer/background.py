"""Loggers on threads of their own: a service that does not answer must not hold the training."""

from __future__ import annotations

import threading
import warnings
from collections import deque

from jepa.trainer.events import Event, RunEnded, RunFailed, RunStarted, Sink

CAPACITY = 10_000  # events
PATIENCE = 10.0  # seconds


def in_background(sink: Sink) -> Sink:
    """The sink on a thread of its own, unless it has a true attribute `immediate`."""
    return sink if getattr(sink, "immediate", False) else BackgroundSink(sink)


class BackgroundSink:
    """Takes events at once and gives them to another sink, in order, on a daemon thread.

    The thread lives from a run's first event to its end. When a run ends, and at each event outside of a run, the
    caller waits until the sink has taken everything, but not for a sink that hangs: that is said by a warning, and
    what it has not taken waits for it. A sink that raises gets no more events. Warnings are given on the calling
    thread.

    Args:
        sink: What gets the events.
        capacity: Events that may wait; further ones are dropped and counted.
        patience: Seconds to wait for the sink when a run ends; 10 by default.
    """

    def __init__(self, sink: Sink, *, capacity: int = CAPACITY, patience: float | None = None) -> None:
        self._sink = sink
        self._capacity = capacity
        self._patience = PATIENCE if patience is None else patience
        self._waiting: deque[Event] = deque()  # the first one is with the sink
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._in_run = False
        self._hangs = False
        self._dropped = 0
        self._failure: tuple[Event, BaseException] | None = None
        self._given_up = False

    def __repr__(self) -> str:
        return repr(self._sink)

    def __eq__(self, other: object) -> bool:
        """It is the sink that it wraps, to those who look for that one."""
        return self is other or self._sink == other

    def __hash__(self) -> int:
        return hash(self._sink)

    def __call__(self, event: Event) -> None:
        """Take one event; the sink gets it when it can."""
        if self._given_up:
            return
        if isinstance(event, RunStarted):
            self._in_run = True
        elif isinstance(event, RunEnded | RunFailed):
            self._in_run = False
        self._put(event)
        if not self._in_run:
            self._wait()
        self._report_failure()

    def _put(self, event: Event) -> None:
        with self._changed:
            full = len(self._waiting) >= self._capacity and self._in_run  # the end of a run is never dropped
            if full:
                self._dropped += 1
            elif self._failure is None:
                self._waiting.append(event)
                self._start()
            self._changed.notify_all()
        if full and self._dropped == 1:
            self._warn(f"is slower than the run: {self._capacity} events wait for it, further ones are dropped")

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="jepa-logger", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while (event := self._next()) is not None:
            try:
                self._sink(event)
            except BaseException as error:  # the calling thread tells of it
                self._stop(event, error)
                return
            with self._changed:
                self._waiting.popleft()
                self._hangs = False
                self._changed.notify_all()

    def _next(self) -> Event | None:
        """The event whose turn it is, or `None` when the run is over and everything is taken."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self._in_run)
            if self._waiting:
                return self._waiting[0]
            self._thread = None
            return None

    def _stop(self, event: Event, error: BaseException) -> None:
        with self._changed:
            self._failure, self._thread = (event, error), None
            self._waiting.clear()
            self._changed.notify_all()

    def _wait(self) -> None:
        """Until everything is taken; no second time for a sink that has not moved since the first."""
        with self._changed:
            taken = self._changed.wait_for(lambda: not self._waiting, 0.0 if self._hangs else self._patience)
            left, dropped = len(self._waiting), self._dropped
            self._hangs, self._dropped = not taken, 0
        if not taken:
            self._warn(f"hangs: {left} events wait for it since {self._patience:g} s or more; training goes on without")
        if dropped:
            self._warn(f"was slower than the run: {dropped} events were dropped")

    def _warn(self, what: str) -> None:
        warnings.warn(f"{self!r} {what}", RuntimeWarning, stacklevel=6)

    def _report_failure(self) -> None:
        if self._failure is None:
            return
        (event, error), self._failure, self._given_up = self._failure, None, True
        warnings.warn(f"{self!r} failed on {type(event).__name__} ({error!r}) and gets no more events", stacklevel=4)
