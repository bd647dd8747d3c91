"""The field for a new learning rate."""

from __future__ import annotations

import pytest
from jepa_widgets import RateField


def test_what_the_page_sends_reaches_the_handler_as_text() -> None:
    got: list[str] = []
    field = RateField(got.append)
    for value in ("3e-4", "abc"):
        field._handle_custom_msg({"event": "apply", "value": value}, [])
    assert got == ["3e-4", "abc"]


@pytest.mark.parametrize("message", [{"event": "other", "value": "1"}, {}, "apply", None])
def test_other_messages_do_nothing(message: object) -> None:
    got: list[str] = []
    RateField(got.append)._handle_custom_msg(message, [])
    assert got == []


def test_the_page_needs_to_send_no_state() -> None:
    # widget state of a page arrives only once while a cell awaits, so nothing may depend on it
    field = RateField(lambda text: None)
    assert {"rate", "enabled"} <= set(field.keys)
    assert "value" not in field.keys
