"""How commands reach a process that trains alone; `tests/distributed` has those that train together."""

from __future__ import annotations

import threading
import time

import pytest

from jepa.trainer.control import Control, Pause, Stop
from jepa.trainer.ranks import CommandExchange, DistributedCommandExchange, command_exchange, on_rank_zero


def test_alone_the_queue_itself_is_read() -> None:
    control = Control()
    exchange = command_exchange(control)
    assert type(exchange) is CommandExchange
    assert not isinstance(exchange, DistributedCommandExchange)
    assert not exchange.pending()
    tickets = [control.submit(Pause()), control.submit(Stop())]
    assert exchange.pending()
    assert exchange.take() == tickets
    assert not exchange.pending()
    exchange.close(finish=True)


def test_waiting_ends_with_the_first_command_or_the_time() -> None:
    control = Control()
    exchange = command_exchange(control)
    start = time.monotonic()
    assert exchange.wait(0.05) == []
    assert time.monotonic() - start >= 0.05
    thread = threading.Thread(target=lambda: control.submit(Stop()))
    thread.start()
    assert [ticket.command for ticket in exchange.wait(30)] == [Stop()]
    thread.join()


def test_alone_the_function_is_called_and_its_error_raised() -> None:
    assert on_rank_zero(lambda: 3) == 3

    def fail() -> None:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        on_rank_zero(fail)
