"""Run a sweep on this machine: some runs at a time, each in processes of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from jepa.batch.devices import share_out
from jepa.batch.launch import KERNEL, BatchResult, run_notebook
from jepa.batch.plan import Plan
from jepa.batch.processes import termination_as_interrupt
from jepa.batch.sweep import Point, Sweep
from jepa.batch.tally import Tally
from jepa.files import write_text

SWEEP = "sweep.yaml"  # the copy of what was asked for, in the sweep's folder
LOOK_SECONDS = 0.5


class Queue(Protocol):
    """Which run is next. Calls never overlap."""

    def next(self) -> Point | None:
        """The next run, `None` when there is none left."""

    def ended(self, point: Point, result: BatchResult) -> None:
        """A run has ended."""


class FixedQueue:
    """Runs that were all known before."""

    def __init__(self, points: Iterable[Point]) -> None:
        self._points = iter(points)

    def next(self) -> Point | None:
        """The next run in order."""
        return next(self._points, None)

    def ended(self, point: Point, result: BatchResult) -> None:
        """What came of one changes nothing of the others."""


def run_plan(
    plan: Plan,
    *,
    jobs: int = 1,
    engine: str = KERNEL,
    force: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> list[BatchResult]:
    """Run all of a sweep that is not finished; the same again goes on with what is left.

    A run that fails leaves the others alone. Ctrl-C stops those that run, each with a checkpoint. Where there are GPUs,
    each process of each run has one of its own.

    Args:
        plan: From `plan_sweep`.
        jobs: Runs at a time.
        engine: What executes the cells, see `run_notebook`.
        force: Run again what has finished; finished run folders are kept under other names.
        say: Gets lines on the progress.

    Returns:
        What came of each run, in the order in which they ended. Those that a stop kept from beginning are not in it.

    Raises:
        ValueError: There are not enough GPUs for that many at a time; nothing was started then.
    """
    places = share_out(jobs, plan.nproc_per_node)
    queue = queue_of(plan.sweep, plan.folder)
    plan.folder.mkdir(parents=True, exist_ok=True)
    write_text(plan.folder / SWEEP, plan.sweep.source)

    def execute(point: Point, place: Mapping[str, str], stop: threading.Event) -> BatchResult:
        return run_notebook(
            plan.notebook,
            point.parameters,
            name=point.name,
            runs_dir=plan.folder,
            nproc_per_node=plan.nproc_per_node,
            engine=engine,
            force=force,
            stop=stop,
            environment=place,
        )

    return Team(execute, queue, places, Tally(len(plan.sweep), plan.folder, say)).work()


def queue_of(sweep: Sweep, folder: Path) -> Queue:
    """The runs of a sweep in the order in which they begin."""
    if sweep.search is None:
        return FixedQueue(sweep.points)
    from jepa.batch.optuna_search import OptunaQueue

    return OptunaQueue(sweep, folder)


class Team:
    """Threads that take runs from a queue until there are none left, or they are stopped.

    Args:
        execute: Executes a run at a place until it has ended, or the event is set.
        queue: Of runs.
        places: Variables that give each run that goes on at the same time devices and threads of its own.
        tally: Is told what happens.
    """

    def __init__(
        self,
        execute: Callable[[Point, Mapping[str, str], threading.Event], BatchResult],
        queue: Queue,
        places: Sequence[Mapping[str, str]],
        tally: Tally,
    ) -> None:
        self._execute = execute
        self._queue = queue
        self._tally = tally
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._threads = [threading.Thread(target=self._work, args=(place,), daemon=True) for place in places]

    def work(self) -> list[BatchResult]:
        """Do all of them; returns what came of each.

        Raises:
            Exception: What the queue raised.
        """
        with termination_as_interrupt():
            for thread in self._threads:
                thread.start()
            while any(thread.is_alive() for thread in self._threads):
                try:
                    time.sleep(LOOK_SECONDS)
                    self._tally.tell()
                except KeyboardInterrupt:
                    if not self._stop.is_set():
                        self._tally.say(
                            "stopping: each run ends with a checkpoint, the same command goes on from there"
                        )
                    self._stop.set()
        if self._error is not None:
            raise self._error
        return self._tally.results

    def _work(self, place: Mapping[str, str]) -> None:
        try:
            while (point := self._take()) is not None:
                result = self._execute(point, place, self._stop)
                with self._lock:
                    self._tally.ended(point, result)
                    self._queue.ended(point, result)
        except BaseException as error:
            self._error = error
            self._stop.set()

    def _take(self) -> Point | None:
        with self._lock:
            point = None if self._stop.is_set() else self._queue.next()
            if point is not None:
                self._tally.begun(point)
            return point
