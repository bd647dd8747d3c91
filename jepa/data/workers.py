"""Reading on when a worker process of a `DataLoader` is killed, by the system for want of memory, say."""

from __future__ import annotations

import multiprocessing.connection
import threading
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any

from torch._C import _remove_worker_pids, _set_worker_pids
from torch.utils.data import DataLoader

LOSSES = 3  # in a row, without a batch in between
NOTICE_SECONDS = 0.5  # from an error in reading until the death that caused it can be seen
ADVICE = (
    "workers are most often killed for want of memory: use fewer of them, a smaller prefetch_factor or batch_size, or "
    "num_workers=0"
)

Aim = Callable[[int, int], None]


class SteadyLoader:
    """A `DataLoader` with workers over a repeatable order, made anew, and read on from where it was, when one dies.

    Args:
        make: Makes the loader; each one has workers of its own.
        report: Told what happened, each time.
    """

    def __init__(self, make: Callable[[], DataLoader[Any]], report: Callable[[str], None] | None = None) -> None:
        self._make = make
        self._report = report
        self._loader = make()

    def batches(self, aim: Aim, epoch: int, start: int) -> Iterator[Any]:
        """The batches of an epoch from number `start` on.

        Args:
            aim: `aim(epoch, start)` tells the loader's sampler where the next pass begins.
            epoch: Which epoch.
            start: The first batch.

        Raises:
            RuntimeError: Workers die again and again before they have given one batch.
        """
        losses, number = 0, start
        batches: Iterator[Any] | None = None
        while True:
            try:
                batches = batches or self._open(aim, epoch, number)
                _check(batches)
                batch = _read(batches)
            except StopIteration:
                return
            except Exception as error:
                death = _death(error, batches or getattr(self._loader, "_iterator", None))
                if death is None:
                    raise
                losses += 1
                self._begin_again(f"{death}, before batch {number} of epoch {epoch} was there", losses, error)
                batches = None
            else:
                losses, number = 0, number + 1
                yield batch

    def close(self) -> None:
        """End workers that persist; the next pass starts others."""
        self._loader = self._make()

    def _open(self, aim: Aim, epoch: int, start: int) -> Iterator[Any]:
        _check(getattr(self._loader, "_iterator", None))  # workers that persist
        aim(epoch, start)
        batches = iter(self._loader)
        _unwatch(batches)
        return batches

    def _begin_again(self, what: str, losses: int, error: Exception) -> None:
        if losses > LOSSES:
            raise RuntimeError(f"{what}, {losses} times in a row; {ADVICE}") from error
        if self._report is not None:
            self._report(what)
        self.close()
        warnings.warn(f"{what}; new workers read on from there ({ADVICE})", RuntimeWarning, stacklevel=4)


def _read(batches: Iterator[Any]) -> Any:
    """The next batch; the death of a worker is raised here and nowhere else.

    PyTorch raises it from a signal handler, which breaks off waiting at once, but does so in the main thread wherever
    that is: in the middle of an update, or in a notebook's cell while another thread trains. So the handler is told of
    the workers only while the main thread reads. Any other thread finds a death within seconds.
    """
    if threading.current_thread() is threading.main_thread():
        _watch(batches)
    try:
        return next(batches)
    finally:
        _unwatch(batches)


def _watch(batches: Any) -> None:
    if getattr(batches, "_worker_pids_set", True) is False:
        _set_worker_pids(id(batches), tuple(worker.pid or 0 for worker in _workers(batches)))
        batches._worker_pids_set = True


def _unwatch(batches: Any) -> None:
    if getattr(batches, "_worker_pids_set", False):
        _remove_worker_pids(id(batches))
        batches._worker_pids_set = False


def _workers(batches: Iterator[Any] | None) -> list[BaseProcess]:
    return getattr(batches, "_workers", [])


def _check(batches: Iterator[Any] | None) -> None:
    """Raise if a worker has died, rather than wait for what it will never give."""
    if any(not worker.is_alive() for worker in _workers(batches)):
        raise RuntimeError("a DataLoader worker has died")


def _death(error: Exception, batches: Iterator[Any] | None) -> str | None:
    """Which worker's death is behind an error of reading, or `None` if all are alive."""
    workers = _workers(batches)
    # The connection to a dying process may break a moment before the process has ended.
    multiprocessing.connection.wait([worker.sentinel for worker in workers], timeout=NOTICE_SECONDS)
    for worker in workers:
        if not worker.is_alive():
            code = worker.exitcode or 0
            fate = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            return f"DataLoader worker {worker.pid} {fate}"
    return str(error).strip() if str(error).startswith("DataLoader worker (pid") else None
