"""The thread that writes widgets: seldom, at once when asked, a last time, and whatever fails."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import jepa_widgets.publisher
import pytest
from jepa_widgets.publisher import INTERVAL_SECONDS, Publisher

WaitUntil = Callable[[Callable[[], Any]], None]


class Clock:
    """Counts calls and when they came."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self) -> None:
        self.times.append(time.monotonic())


def test_a_flood_of_news_is_written_at_most_four_times_a_second() -> None:
    assert INTERVAL_SECONDS == 0.5
    calls = Clock()
    publisher = Publisher(calls, interval=0.05)
    end = time.monotonic() + 0.4
    said = 0
    while time.monotonic() < end:
        publisher.soon()
        said += 1
    publisher.close()
    gaps = [after - before for before, after in zip(calls.times, calls.times[1:], strict=False)]
    assert said > 1000
    assert len(calls.times) >= 3
    assert min(gaps[:-1]) >= 0.05 - 1e-3  # the last gap is cut short by close


def test_what_is_written_is_written_in_the_context_of_who_asked_for_it() -> None:
    cell = contextvars.ContextVar[str]("cell")
    cell.set("third cell")
    seen: list[str] = []
    publisher = Publisher(lambda: seen.append(cell.get()))
    cell.set("fourth cell")
    publisher.close()
    assert set(seen) == {"third cell"}


def test_without_news_nothing_is_written(wait_until: WaitUntil) -> None:
    calls = Clock()
    publisher = Publisher(calls, interval=0.01)
    publisher.soon()
    wait_until(lambda: len(calls.times) == 1)
    assert not threading.Event().wait(0.1)
    assert len(calls.times) == 1
    publisher.close()


def test_what_is_urgent_is_answered_at_once_and_the_rest_in_its_turn(wait_until: WaitUntil) -> None:
    flushes, answers = Clock(), Clock()
    publisher = Publisher(flushes, answers, interval=2.0)
    publisher.soon()
    wait_until(lambda: flushes.times)
    asked = time.monotonic()
    publisher.now()
    wait_until(lambda: answers.times)
    assert answers.times[0] - asked < 1.0  # far less than the interval, on a busy machine too
    wait_until(lambda: len(flushes.times) == 2)
    assert flushes.times[1] - flushes.times[0] >= 2.0 - 1e-3
    publisher.close()


def test_a_flood_of_commands_is_answered_some_twenty_times_a_second() -> None:
    flushes, answers = Clock(), Clock()
    publisher = Publisher(flushes, answers, interval=30.0)
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        publisher.now()
    publisher.close()
    assert 2 <= len(answers.times) <= 12
    assert len(flushes.times) == 2


def test_close_writes_the_last_state_and_ends_the_thread() -> None:
    state, shown = [0], []
    publisher = Publisher(lambda: shown.append(state[0]), interval=30.0)
    publisher.now()
    state[0] = 42
    publisher.close()
    assert shown[-1] == 42
    assert not publisher._thread.is_alive()


def test_close_from_the_publishing_thread_does_not_wait_for_itself(wait_until: WaitUntil) -> None:
    publisher = Publisher(lambda: publisher.close(), interval=0.01)
    publisher.soon()
    wait_until(lambda: not publisher._thread.is_alive())


def test_the_thread_ends_with_a_last_write_once_it_is_not_wanted(
    monkeypatch: pytest.MonkeyPatch, wait_until: WaitUntil
) -> None:
    monkeypatch.setattr(jepa_widgets.publisher, "IDLE_SECONDS", 0.01)
    calls, wanted = Clock(), threading.Event()
    wanted.set()
    publisher = Publisher(calls, interval=0.01, wanted=wanted.is_set)
    publisher.soon()
    wait_until(lambda: len(calls.times) == 1)
    assert not threading.Event().wait(0.1)
    assert publisher._thread.is_alive()
    wanted.clear()
    wait_until(lambda: not publisher._thread.is_alive())
    assert len(calls.times) == 2
    publisher.soon()
    publisher.now()
    publisher.close()
    assert len(calls.times) == 2


def test_a_failing_write_is_reported_once_and_the_next_ones_are_made(
    wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    calls = Clock()

    def fails() -> None:
        calls()
        raise ValueError("the comm is closed")

    with caplog.at_level(logging.ERROR, "jepa_widgets.publisher"):
        publisher = Publisher(fails, interval=0.01)
        for count in range(1, 4):
            publisher.soon()
            wait_until(lambda count=count: len(calls.times) >= count)
        publisher.close()
    assert [record.message for record in caplog.records] == ["the live view could not be updated"]
    assert "the comm is closed" in str(caplog.records[0].exc_info)
