"""The history: columns of numbers against the step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa.trainer import History

ROWS = st.lists(st.dictionaries(st.sampled_from("abc"), st.floats(allow_nan=False), min_size=1), max_size=20)


def filled(rows: list[dict[str, float]]) -> History:
    history = History()
    for step, row in enumerate(rows, start=1):
        history.append(step, row)
    return history


@given(ROWS)
def test_records_are_what_was_appended(rows: list[dict[str, float]]) -> None:
    assert filled(rows).records == [{"step": step, **row} for step, row in enumerate(rows, start=1)]


@given(ROWS, st.integers(0, 20))
def test_truncating_equals_never_having_appended(rows: list[dict[str, float]], step: int) -> None:
    history = filled(rows)
    history.truncate(step)
    assert history.records == filled(rows[:step]).records
    assert history.last_step == min(step, len(rows))


@given(ROWS)
def test_state_round_trip_is_exact(rows: list[dict[str, float]]) -> None:
    history, copy = filled(rows), History()
    copy.append(99, {"old": 1.0})
    copy.load_state_dict(history.state_dict())
    assert copy.records == history.records
    copy.append(100, {"a": 0.5})
    assert copy.last_step == 100


def test_columns_have_steps_of_their_own() -> None:
    history = History()
    history.append(1, {"loss": 3.0})
    history.append(2, {"loss": 2.0, "val_loss": 5.0})
    history.append(2, {"epoch_loss": 2.5})
    assert (history["loss"], history.steps("loss")) == ([3.0, 2.0], [1, 2])
    assert (history["val_loss"], history.steps("val_loss")) == ([5.0], [2])
    assert history.records[-1] == {"step": 2, "loss": 2.0, "val_loss": 5.0, "epoch_loss": 2.5}
    assert set(history) == {"loss", "val_loss", "epoch_loss"}
    assert len(history) == 3


def test_a_returned_column_is_a_copy() -> None:
    history = filled([{"a": 1.0}])
    history["a"].append(2.0)
    assert history["a"] == [1.0]


@pytest.mark.parametrize("look", [lambda h: h["los"], lambda h: h.steps("los")])
def test_an_unknown_metric_lists_what_there_is(look: object) -> None:
    with pytest.raises(KeyError, match="no metric 'los' was recorded; recorded: loss"):
        look(filled([{"loss": 1.0}]))  # type: ignore[operator]
    with pytest.raises(KeyError, match="recorded: none"):
        look(History())  # type: ignore[operator]


def test_the_representation_shows_the_newest_values() -> None:
    assert repr(History()) == "History(empty)"
    assert repr(filled([{"a": 1.0}, {"a": 2.0}])) == "History(step=2, a=2)"
