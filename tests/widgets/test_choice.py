"""A drop-down list that talks in messages."""

from __future__ import annotations

from jepa_widgets import Choice


def test_it_takes_what_it_offered_and_keeps_it_while_it_is_offered() -> None:
    chosen: list[str] = []
    choice = Choice("sample", chosen.append)
    choice.offer(["0", "1", "2"])
    assert choice.value == "0"
    for content in ({"event": "choose", "value": "2"}, {"event": "choose", "value": "7"}, {"value": "1"}, "2"):
        choice._handle_custom_msg(content, [])
    assert chosen == ["2"]
    choice.offer(["1", "2"])
    assert choice.value == "2"
    choice.offer(["1"])
    assert choice.value == "1"
    choice.offer([])
    assert (choice.value, chosen) == ("", ["2"])
    assert {"options", "value", "label"} <= set(choice.keys)
