"""Turn the first interrupt or termination signal into a stop at a step boundary, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

from jepa.trainer.control import Control, Stop


class TrainingInterrupted(KeyboardInterrupt):
    """Training was interrupted and ended cleanly; the message says where and how to go on."""


class StopOnSignal:
    """While active on the main thread, SIGINT and SIGTERM ask the run to stop; a second SIGINT interrupts at once.

    On any other thread it does nothing: signals reach the main thread only.
    """

    def __init__(self, control: Control) -> None:
        self._control = control
        self._previous: dict[int, signal.Handlers | int | object | None] = {}
        self.received: int | None = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        self._control.submit(Stop(), source="signal")

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.getsignal(number)
                signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()

    def reraise(self, sentence: str) -> None:
        """After a clean end: raise what the signal meant, so that a script or a notebook stops here.

        Args:
            sentence: Where the run stands and how to go on.

        Raises:
            TrainingInterrupted: After SIGINT.
            SystemExit: After SIGTERM, with the conventional code 143.
        """
        if self.received == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        if self.received is not None:
            raise TrainingInterrupted(sentence)
