"""The history: columns of numbers against the step."""

from __future__ import annotations

from itertools import pairwise

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


def test_moments_of_records_are_kept_cut_and_restored() -> None:
    history, copy = History(), History()
    for step in range(1, 11):
        history.append(step, {"loss": 1.0}, (step // 4, 1.7e9 + step / 7))
    history.append(10, {"epoch_loss": 1.0}, (3, 1.8e9))  # the same step again
    history.append(11, {"val_loss": 1.0})
    assert history.moments() == [(step, step // 4, 1.7e9 + step / 7) for step in range(1, 11)]
    copy.append(99, {"old": 1.0}, (9, 9.0))
    copy.load_state_dict(history.state_dict(), history.moments_state())
    assert copy.moments() == history.moments()
    copy.truncate(5)
    assert [moment.step for moment in copy.moments()] == [1, 2, 3, 4, 5]
    copy.load_state_dict(history.state_dict())
    assert copy.moments() == []
    copy.append(12, {"loss": 1.0}, (3, 1.8e9))
    assert copy.moments(3) == [(12, 3, 1.8e9)]


@given(st.integers(0, 50), st.integers(2, 60))
def test_as_many_moments_as_are_wanted_are_spread_from_the_first_to_the_newest(count: int, most: int) -> None:
    history = History()
    for step in range(count):
        history.append(step, {"loss": 1.0}, (0, 0.0))
    steps = [moment.step for moment in history.moments(most)]
    assert len(steps) == min(count, most)
    assert steps[:1] == list(range(count))[:1]
    assert steps[-1:] == list(range(count))[-1:]
    gaps = [second - first for first, second in pairwise(steps)]
    assert not gaps or 1 <= min(gaps) <= max(gaps) <= min(gaps) + 1


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
