"""Commands, tickets and the queue between those who ask and the training thread."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from jepa.trainer import control
from jepa.trainer.control import Control, Pause, SaveCheckpoint, Set, Step, Stop, Ticket


@pytest.mark.parametrize(
    ("command", "data"),
    [
        (Pause(), {"type": "Pause"}),
        (Step(3), {"type": "Step", "n": 3}),
        (Set("learning_rate", 0.1, "hold"), {"type": "Set", "name": "learning_rate", "value": 0.1, "mode": "hold"}),
        (SaveCheckpoint(Path("a") / "b.pt"), {"type": "SaveCheckpoint", "path": str(Path("a") / "b.pt")}),
        (SaveCheckpoint(), {"type": "SaveCheckpoint", "path": None}),
    ],
)
def test_commands_are_plain_data(command: control.Command, data: dict[str, object]) -> None:
    assert json.loads(json.dumps(command.as_data())) == data


def test_every_command_says_its_name() -> None:
    kinds = [kind for kind in vars(control).values() if isinstance(kind, type) and issubclass(kind, control.Command)]
    assert len(kinds) == 14
    arguments: dict[type, tuple[object, ...]] = {
        Set: ("learning_rate", 1.0),
        control.Rewind: ("initial.pt",),
        control.Fork: ("branch",),
        control.Settle: (1,),
        control.EditedByHand: ("edited.pt",),
    }
    for kind in kinds:
        command = kind(*arguments.get(kind, ()))
        assert command.as_data()["type"] == kind.__name__


def test_steps_are_counted_from_one() -> None:
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        Step(0)


def test_commands_come_out_in_order_and_once() -> None:
    queue = Control()
    assert queue.empty
    tickets = [queue.submit(Pause()), queue.submit(Stop(), source="panel")]
    assert not queue.empty
    assert list(queue.drain()) == tickets
    assert [ticket.source for ticket in tickets] == ["handle", "panel"]
    assert queue.empty
    assert list(queue.drain()) == []


def test_draining_waits_for_the_first_command_only() -> None:
    queue = Control()
    start = time.monotonic()
    assert list(queue.drain(timeout=0.05)) == []
    assert time.monotonic() - start >= 0.05
    thread = threading.Thread(target=lambda: queue.submit(Pause()))
    thread.start()
    start = time.monotonic()
    assert [ticket.command for ticket in queue.drain(timeout=30)] == [Pause()]
    assert time.monotonic() - start < 20
    thread.join()


def test_many_threads_lose_no_command() -> None:
    queue = Control()
    threads = [
        threading.Thread(target=lambda: [queue.submit(Step(n + 1), source="x") for n in range(200)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    got: list[Ticket] = []
    while any(thread.is_alive() for thread in threads) or not queue.empty:
        got += queue.drain()
    assert len(got) == 1600
    assert sum(ticket.command.n for ticket in got) == 8 * 200 * 201 // 2  # type: ignore[attr-defined]


def test_a_ticket_is_answered_once_for_everybody_who_waits() -> None:
    ticket = Ticket(Pause(), "handle")
    results: list[object] = []
    threads = [threading.Thread(target=lambda: results.append(ticket.result(30))) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert not ticket.done
    ticket.complete(7, {"new": 1}, value="kept")
    for thread in threads:
        thread.join()
    assert results == [{"new": 1}] * 4
    assert (ticket.done, ticket.step, ticket.value) == (True, 7, "kept")


def test_a_refused_ticket_raises_its_reason_every_time() -> None:
    ticket = Ticket(Pause(), "handle")
    with pytest.raises(TimeoutError, match=r"Pause\(\) was not applied within 0 s; the step in progress is longer"):
        ticket.result(0)
    ticket.refuse(3, ValueError("not now"))
    for _ in range(2):
        with pytest.raises(ValueError, match="not now"):
            ticket.result()
    assert ticket.step == 3


def test_a_ticket_says_what_became_of_it() -> None:
    asked, done, refused = Ticket(Pause(), "handle"), Ticket(Step(2), "handle"), Ticket(Stop(), "handle")
    done.complete(7)
    refused.refuse(7, ValueError("too late"))
    assert repr(asked) == "<Pause(): asked for>"
    assert repr(done) == "<Step(n=2): took effect after step 7>"
    assert repr(refused) == "<Stop(): refused: too late>"
