"""Windows of time series: cut within series, checked, and normalised by the training part alone."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jepa.data import SeriesWindows, series_windows


def frame(length: int = 10, **more: Any) -> pandas.DataFrame:
    """Channel a counts up, channel b by tens."""
    return pandas.DataFrame({"a": np.arange(length) * 1.0, "b": np.arange(length) * 10, **more})


def starts(windows: SeriesWindows) -> list[int]:
    return [int(windows[number][0, 0]) for number in range(len(windows))]


def test_a_window_has_one_channel_a_column() -> None:
    windows = series_windows(frame(), 4, stride=3)
    assert windows.channels == ["a", "b"]
    assert starts(windows) == [0, 3, 6]
    assert windows[1].tolist() == [[3, 4, 5, 6], [30, 40, 50, 60]]
    assert windows[1].dtype == torch.float32
    assert torch.equal(windows[-1], windows[2])
    assert series_windows(frame(), 5, columns=["b"])[1].tolist() == [[50, 60, 70, 80, 90]]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(1, 8), st.integers(1, 9))
def test_no_window_crosses_from_one_series_into_another(lengths: list[int], length: int, stride: int) -> None:
    if max(lengths) < length:
        return
    parts = [frame(each, id=number, a=np.arange(each) + 100 * number) for number, each in enumerate(lengths)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # short series are the next test's
        windows = series_windows(pandas.concat(parts), length, stride=stride, id="id")
    expected = [
        list(range(100 * number + start, 100 * number + start + length))
        for number, each in enumerate(lengths)
        for start in range(0, each - length + 1, stride)
    ]
    assert [windows[number][0].tolist() for number in range(len(windows))] == expected
    (kept,) = windows.load().tensors
    assert kept[:, 0].tolist() == expected
    assert kept.nbytes == windows.nbytes


def test_series_may_be_interleaved_row_by_row() -> None:
    rows = pandas.concat([frame(4, id="y"), frame(4, id="x", a=[7, 8, 9, 10])]).sort_values("b", kind="stable")
    windows = series_windows(rows, 2, id="id")
    assert windows.names == ["y", "x"], "as they come"
    assert [window[0].tolist() for window in (windows[0], windows[3])] == [[0, 1], [9, 10]]


def test_series_that_are_too_short_are_reported_and_refused_where_none_is_left() -> None:
    rows = pandas.concat([frame(9, id="x"), frame(3, id="y")])
    with pytest.warns(UserWarning, match=r"1 of 2 series are shorter than a window of 4 steps, e.g. 'y' with 3; they"):
        assert len(series_windows(rows, 4, id="id")) == 2
    with pytest.raises(ValueError, match=r"no window: 2 of 2 series are shorter than a window of 10 steps, e.g. 'x'"):
        series_windows(rows, 10, id="id")


def test_parts_are_earlier_and_later_and_normalised_by_the_earlier_alone() -> None:
    values = np.random.default_rng(0).normal(5, 3, (100, 2))
    values[60:] += 1000  # what comes later must not be known
    windows = series_windows(pandas.DataFrame(values, columns=["a", "b"]), 10, stride=5)
    train, later = windows.split(0.6)
    mean, std = values[:60].mean(0), values[:60].std(0)
    assert len(train) == 11
    assert len(later) == 7
    for part, whole in ((train, values[:60]), (later, values[60:])):
        np.testing.assert_allclose(part.series[0].numpy(), ((whole - mean) / std).T, rtol=1e-4, atol=1e-5)
    assert train.mean is not None
    assert train.std is not None
    np.testing.assert_allclose(torch.stack([train.mean, train.std]), [mean, std])
    plain = windows.split(0.6, normalise=False)
    np.testing.assert_allclose(plain[1][0], values[60:70].T, rtol=1e-6)
    again = windows.normalised(train.mean, train.std)
    assert torch.equal(again[0], train[0])


def test_a_channel_that_does_not_vary_stays_finite() -> None:
    windows = series_windows(frame(8, b=3.0), 4).normalised()
    assert windows[0][1].tolist() == [0, 0, 0, 0]


def test_each_series_is_split_in_time() -> None:
    rows = pandas.concat([frame(10, id="x"), frame(20, id="y")])
    train, later = series_windows(rows, 5, id="id").split(0.5, normalise=False)
    assert [starts(train), starts(later)] == [[0, 0, 5], [5, 10, 15]]


@pytest.mark.parametrize(("index", "row"), [(None, "3"), (pandas.date_range("2020-01-01", periods=10), "2020-01-04")])
def test_a_missing_value_is_named_by_column_and_row(index: Any, row: str) -> None:
    rows = frame()
    rows.loc[3, "b"] = np.nan
    rows.loc[5, "a"] = np.inf
    rows = rows if index is None else rows.set_index(index)
    with pytest.raises(ValueError, match=rf"column 'b' is nan in row {row}.* \(2 such values\); pass fill='forward'"):
        series_windows(rows, 4)
    with pytest.raises(ValueError, match=r"column 'a' is inf in row .* in spite of fill=0"):
        series_windows(rows, 4, fill=0)


def test_missing_values_are_filled_within_their_series_when_asked() -> None:
    rows = pandas.concat([frame(5, id="x"), frame(5, id="y")], ignore_index=True)
    rows.loc[[2, 3, 7], "a"] = np.nan
    for fill, expected in [
        ("forward", [0, 1, 1, 1, 4, 0, 1, 1, 3, 4]),
        ("linear", [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]),
        (-1, [0, 1, -1, -1, 4, 0, 1, -1, 3, 4]),
    ]:
        windows = series_windows(rows, 5, id="id", fill=fill)  # type: ignore[arg-type]
        assert torch.cat([windows[0][0], windows[1][0]]).tolist() == expected
    rows.loc[5, "a"] = np.nan  # the first of series y
    for fill in ("forward", "linear"):
        with pytest.raises(ValueError, match=rf"is nan in row 5 of series 'y' .* in spite of fill='{fill}'"):
            series_windows(rows, 5, id="id", fill=fill)  # type: ignore[arg-type]


def test_irregular_times_are_reported() -> None:
    hours = pandas.date_range("2020-01-01", periods=12, freq="h").delete([5, 8])
    message = (
        r"times are irregular: 2 of 9 steps are not 0 days 01:00:00, the first from 2020-01-01 04:00:00 to .* 06:0"
    )
    with pytest.warns(UserWarning, match=message):
        series_windows(frame().set_index(hours), 4)
    with pytest.warns(UserWarning, match=r"times of series 'x' are irregular: 1 of 9"):
        series_windows(frame(id="x", t=[0, 1, 2, 3, 4, 5, 6, 7, 8, 10]), 4, id="id", time="t")


def test_equal_steps_and_months_are_regular_and_numbers_of_rows_say_nothing() -> None:
    for freq in ("h", "MS"):
        assert len(series_windows(frame().set_index(pandas.date_range("2020", periods=10, freq=freq)), 5)) == 2
    assert len(series_windows(frame().set_index(np.arange(10) ** 2), 5)) == 2
    windows = series_windows(frame(t=np.arange(10) / 4), 5, time="t")
    assert windows.channels == ["a", "b"]


@pytest.mark.parametrize("order", [[0, 2, 1, 3], [0, 1, 1, 2]])
def test_rows_out_of_order_are_refused(order: list[int]) -> None:
    rows = frame(4).set_index(pandas.date_range("2020-01-01", periods=4)[order])
    with pytest.raises(ValueError, match=r"not in the order of time: .* is followed by .*; sort them and drop those"):
        series_windows(rows, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": ["c"]}, "no column 'c'; the frame has 'a', 'b', 'name'"),
        ({"columns": ["a"], "id": "series"}, "no column 'series'"),
        ({"columns": []}, "no column is left as a channel"),
        ({}, "column 'name' holds .*, not numbers; leave it out with columns="),
        ({"columns": ["a"], "fill": "backward"}, "fill must be 'forward', 'linear', a number or None, got 'backward'"),
        ({"columns": ["a"], "fill": float("nan")}, "fill must be 'forward', 'linear', a number or None, got nan"),
        ({"columns": ["a"], "length": 0}, "length and stride must be at least 1, got 0 and None"),
        ({"columns": ["a"], "stride": 0}, "length and stride must be at least 1, got 4 and 0"),
    ],
)
def test_what_does_not_fit_the_frame_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        series_windows(frame(name="x"), **{"length": 4, **options})


def test_splits_and_statistics_that_make_no_sense_are_refused() -> None:
    windows = series_windows(frame(), 4)
    with pytest.raises(ValueError, match="train must lie between 0 and 1, got 1"):
        windows.split(1)
    with pytest.raises(ValueError, match="no window: 1 of 1 series are shorter"):
        windows.split(0.9)
    with pytest.raises(ValueError, match="pass both mean and std, or neither"):
        windows.normalised(torch.zeros(2))
    with pytest.raises(ValueError, match="normalised already"):
        windows.normalised().normalised()
    with pytest.raises(TypeError, match=r"expected a pandas.DataFrame, got a list; wrap it"):
        series_windows([1, 2], 1)
