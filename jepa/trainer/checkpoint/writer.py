"""Writes checkpoints beside the training: one at a time, on a thread of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jepa.trainer.checkpoint.staging import Staging, beside


@dataclass(frozen=True, slots=True)
class Written:
    """What became of one checkpoint.

    Attributes:
        path: The file.
        step: Updates done in the state that it holds.
        epoch: Passes over the data completed in it.
        seconds: From the copy to the complete file.
        error: Why there is no such file, or `None`.
    """

    path: Path
    step: int
    epoch: int
    seconds: float
    error: Exception | None = None


class BackgroundWriter:
    """Copies a state while the caller waits, and writes the copy while the caller goes on.

    The thread is not a daemon: a process that ends waits for the file.
    """

    def __init__(self) -> None:
        self._staging = Staging()
        self._wait: Callable[[], None] | None = None
        self._written: Written | None = None

    def begin(
        self,
        state: Mapping[str, Any],
        path: Path,
        step: int,
        epoch: int,
        write: Callable[[dict[str, Any], Callable[[], None]], object],
        then: Callable[[], object],
    ) -> None:
        """Copy `state` and write it; one that is still being written is awaited first.

        Args:
            state: As `Staging.copy` takes it.
            path: The file, for the outcome.
            step: Updates done, for the outcome.
            epoch: Passes over the data completed, for the outcome.
            write: Gets the copy and what waits until it is complete; runs on the thread.
            then: Called on the thread at the end.
        """
        self.result()
        start = time.perf_counter()
        staged = self._staging.copy(state)

        def run() -> None:
            error = None
            try:
                write(staged, self._staging.wait)
            except Exception as failure:  # handed over to who asks for the result
                error = failure
            self._written = Written(path, step, epoch, time.perf_counter() - start, error)
            then()

        self._wait = beside(run, "jepa-checkpoint")

    def note(self, written: Written) -> None:
        """What became of a checkpoint that the caller has written itself, for the next `result`."""
        self._written = written

    def result(self) -> Written | None:
        """Wait for what was begun last; `None` if nothing was, or its result has been taken."""
        if self._wait is not None:
            self._wait()
        self._wait, written, self._written = None, self._written, None
        return written

    def close(self) -> None:
        """Wait for what was begun, and give the memory of the copies back."""
        self.result()
        self._staging.clear()
