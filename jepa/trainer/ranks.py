"""How ranks agree on commands: rank 0 decides, every rank applies the same command before the same step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from jepa import distributed
from jepa.trainer.control import Command, Control, Stop, Ticket

T = TypeVar("T")


class CommandExchange:
    """Commands of one process: whatever is in its queue.

    Args:
        control: The queue that handles, panels and signals write to.
    """

    def __init__(self, control: Control) -> None:
        self._control = control

    def pending(self) -> bool:
        """Whether `take` will return commands now; asked once before every step."""
        return not self._control.empty

    def take(self) -> list[Ticket]:
        """The commands to apply now, oldest first."""
        return list(self._control.drain())

    def wait(self, seconds: float) -> list[Ticket]:
        """Wait up to `seconds` for commands, while paused."""
        return list(self._control.drain(timeout=seconds))

    def close(self, *, finish: bool) -> None:
        """The run has ended; `finish` what was begun with the other ranks, where they do so too."""


class DistributedCommandExchange(CommandExchange):
    """Commands of N ranks, over a gloo group of their own so that training collectives are never mixed with them.

    One flag is reduced between two steps while the step runs, so a command takes effect one step after it was seen
    and on every rank at once. Any rank may ask to stop (it got a signal); all other commands come from rank 0.

    The same notebook runs on every rank, so the others ask for the same commands: their handles are passive, and the
    n-th command of theirs gets the answer to the n-th command of rank 0's handle.
    """

    def __init__(self, control: Control) -> None:
        super().__init__(control)
        self._group = dist.new_group(backend="gloo")
        self._flag = torch.zeros(1)
        self._work: dist.Work | None = None
        self._leading: list[Ticket] = []  # of rank 0's handle, since the beginning
        self._following: list[Ticket] = []  # of this rank's, not yet paired with one of those
        self._paired = 0

    def pending(self) -> bool:
        """Whether any rank had commands before the step that has just ended."""
        flagged = self._finish_reduction()
        self._flag.fill_(0.0 if self._control.empty else 1.0)
        self._work = dist.all_reduce(self._flag, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return flagged

    def _finish_reduction(self) -> bool:
        if self._work is None:
            return False
        self._work.wait()
        self._work = None
        return bool(self._flag.item())

    def take(self) -> list[Ticket]:
        """Rank 0's commands and anybody's wish to stop, the same list on every rank."""
        me, mine = distributed.rank(), []
        for ticket in self._control.drain():
            (mine if me == 0 or isinstance(ticket.command, Stop) else self._following).append(ticket)
        said: list[list[tuple[Command, str]]] = [[] for _ in range(distributed.world_size())]
        dist.all_gather_object(said, [(ticket.command, ticket.source) for ticket in mine], group=self._group)
        own = iter(mine)
        tickets = [next(own) if rank == me else Ticket(*line) for rank, lines in enumerate(said) for line in lines]
        self._leading += [
            t for t in tickets[: len(said[0])] if t.source == "handle" and not isinstance(t.command, Stop)
        ]
        self._pair()
        return tickets

    def _pair(self) -> None:
        while self._following and self._paired < len(self._leading):
            leader, follower = self._leading[self._paired], self._following.pop(0)
            self._paired += 1
            if leader.command == follower.command:
                leader.answer_also(follower)
            else:
                follower.refuse(None, RuntimeError(f"{follower.command} here, but rank 0 asked for {leader.command}"))

    def wait(self, seconds: float) -> list[Ticket]:
        """Look once, after a short sleep; the repeated reduction is also the heartbeat of paused ranks."""
        time.sleep(min(seconds, 0.05))
        return self.take() if self.pending() else []

    def close(self, *, finish: bool) -> None:
        """Complete the last reduction, so that no rank is left inside it, and answer who still waits."""
        if finish:
            self._finish_reduction()
        for ticket in self._following:
            ticket.refuse(None, RuntimeError(f"{ticket.command} was not asked for on rank 0, which the others follow"))
        self._following.clear()


def command_exchange(control: Control) -> CommandExchange:
    """The exchange for this process, alone or in a group."""
    return DistributedCommandExchange(control) if distributed.world_size() > 1 else CommandExchange(control)


def on_every_rank(function: Callable[[], T]) -> list[T]:
    """Run `function` on all ranks at once; every rank gets all results in their order, or raises the first error."""
    result: Any = None
    failure: Exception | None = None
    try:
        result = function()
    except Exception as error:
        failure = error
    outcomes = distributed.gather_objects((result, failure))
    for _, failure in outcomes:
        if failure is not None:
            raise failure
    return [result for result, _ in outcomes]


def on_rank_zero(function: Callable[[], T]) -> T:
    """Run `function` on rank 0 and return its result on every rank; its error is raised on every rank too.

    The result must be picklable when there is more than one rank.
    """
    if distributed.world_size() == 1:
        return function()
    result: Any = None
    failure: Exception | None = None
    if distributed.rank() == 0:
        try:
            result = function()
        except Exception as error:
            failure = error
    result, failure = distributed.broadcast_object((result, failure))
    if failure is not None:
        raise failure
    return result
