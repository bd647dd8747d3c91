"""Windows of time series in a pandas DataFrame: cut, checked, split in time and normalised.

Axes: N windows, C channels, T time steps of a window, L time steps of a series.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from jepa.data.lazy import LazyDataset, position
from jepa.data.optional import optional

Fill = Literal["forward", "linear"] | float | None


class SeriesWindows(LazyDataset):
    """Windows of one or several series; none crosses from one into another. A sample is a tensor (C, T).

    Args:
        series: Tensors (C, L) of equal C; L may differ.
        length: Time steps of a window, T.
        stride: Steps from the start of one window to that of the next; `length` (no overlap) by default.
        names: Of the series, for messages.
        channels: Names of the channels.
        mean: (C,) that was subtracted, if the series are normalised.
        std: (C,) by which they were divided.

    Raises:
        ValueError: No series is as long as a window. Where only some are shorter, a warning says how many.
    """

    deterministic: ClassVar[bool] = True

    def __init__(
        self,
        series: Sequence[Tensor],
        length: int,
        *,
        stride: int | None = None,
        names: Sequence[str] | None = None,
        channels: Sequence[str] = (),
        mean: Tensor | None = None,
        std: Tensor | None = None,
    ) -> None:
        self.series = list(series)
        self.length = length
        self.stride = length if stride is None else stride
        if length < 1 or self.stride < 1:
            raise ValueError(f"length and stride must be at least 1, got {length} and {stride}")
        self.names = list(names) if names is not None else [str(number) for number in range(len(self.series))]
        self.channels = list(channels)
        self.mean = mean
        self.std = std
        counts = [max(0, (each.shape[1] - length) // self.stride + 1) for each in self.series]
        self._ends = np.cumsum(counts)
        self._refuse_short(counts)

    def _refuse_short(self, counts: list[int]) -> None:
        short = [number for number, count in enumerate(counts) if count == 0]
        if not short and counts:
            return
        example = f", e.g. {self.names[short[0]]!r} with {self.series[short[0]].shape[1]}" if short else ""
        told = f"{len(short)} of {len(counts)} series are shorter than a window of {self.length} steps{example}"
        if len(short) == len(counts):
            raise ValueError(f"no window: {told}; use a smaller length, or a larger share of the data")
        warnings.warn(f"{told}; they give no window", stacklevel=4)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Tensor:
        index = position(index, len(self))
        number = int(np.searchsorted(self._ends, index, side="right"))
        first = int(self._ends[number - 1]) if number else 0
        start = (index - first) * self.stride
        return self.series[number][:, start : start + self.length]

    @property
    def nbytes(self) -> int:
        """Bytes of all windows, which overlap where `stride` is smaller than `length`."""
        return len(self) * self[0].numel() * self.series[0].element_size()

    def load(self) -> TensorDataset:
        """All windows (N, C, T) in memory."""
        long = [each for each in self.series if each.shape[1] >= self.length]
        return TensorDataset(torch.cat([each.unfold(1, self.length, self.stride).movedim(0, 1) for each in long]))

    def split(self, train: float, *, normalise: bool = True) -> tuple[SeriesWindows, SeriesWindows]:
        """The earlier and the later part of each series; no window crosses the cut.

        Args:
            train: Share of the time steps in the first part, between 0 and 1.
            normalise: Whether both parts are brought to mean 0 and deviation 1 per channel, by the numbers of the
                first part alone.

        Raises:
            ValueError: One part would have no window.
        """
        if not 0 < train < 1:
            raise ValueError(f"train must lie between 0 and 1, got {train}")
        cuts = [round(train * each.shape[1]) for each in self.series]
        before = self._like([each[:, :cut] for each, cut in zip(self.series, cuts, strict=True)])
        after = self._like([each[:, cut:] for each, cut in zip(self.series, cuts, strict=True)])
        if not normalise:
            return before, after
        before = before.normalised()
        return before, after.normalised(before.mean, before.std)

    def normalised(self, mean: Tensor | None = None, std: Tensor | None = None) -> SeriesWindows:
        """The same windows with (x - mean) / std per channel.

        Args:
            mean: (C,) of the training data; of these series themselves by default.
            std: (C,) of the training data, likewise; a channel that does not vary is divided by 1.

        Raises:
            ValueError: Only one of the two is given, or these windows are normalised already.
        """
        if self.mean is not None:
            raise ValueError("these windows are normalised already; start from those that are not")
        if (mean is None) != (std is None):
            raise ValueError("pass both mean and std, or neither")
        if mean is None or std is None:
            values = torch.cat([each.double() for each in self.series], dim=1)
            mean, std = values.mean(dim=1), values.std(dim=1, correction=0)
            std = torch.where(std > 0, std, 1.0)
        shifted = [((each.double() - mean[:, None]) / std[:, None]).to(each.dtype) for each in self.series]
        return self._like(shifted, mean=mean, std=std)

    def _like(self, series: list[Tensor], **statistics: Tensor) -> SeriesWindows:
        if not statistics and self.mean is not None and self.std is not None:
            statistics = {"mean": self.mean, "std": self.std}
        return SeriesWindows(
            series, self.length, stride=self.stride, names=self.names, channels=self.channels, **statistics
        )


def series_windows(
    frame: Any,
    length: int,
    *,
    stride: int | None = None,
    columns: Sequence[str] | None = None,
    id: str | None = None,
    time: str | None = None,
    fill: Fill = None,
) -> SeriesWindows:
    """Windows (C, T) of a DataFrame: one channel a column, one time step a row.

    Args:
        frame: A `pandas.DataFrame`.
        length: Time steps of a window.
        stride: Steps from the start of one window to that of the next; `length` by default.
        columns: The channels; all columns but `id` and `time` by default.
        id: Column that tells which series a row belongs to; without it all rows are one series.
        time: Column with the time of each row; without it the index, where that holds dates. Each series must be in
            the order of time; steps that are not equal are reported by a warning.
        fill: What takes the place of missing values, within each series: `"forward"` (the last known value),
            `"linear"` (between known values) or a number. Without it they are refused.

    Raises:
        TypeError: `frame` is no DataFrame.
        ValueError: A column is unknown or not numeric, a value is missing or infinite, or rows are not in the order of
            time.
        ImportError: pandas is not installed.
    """
    pandas = optional("pandas", "data frames", "data")
    if not isinstance(frame, pandas.DataFrame):
        raise TypeError(f"expected a pandas.DataFrame, got a {type(frame).__name__}; wrap it: pandas.DataFrame(data)")
    if fill not in (None, "forward", "linear") and (not isinstance(fill, int | float) or not np.isfinite(fill)):
        raise ValueError(f"fill must be 'forward', 'linear', a number or None, got {fill!r}")
    channels = _channels(frame, columns, id, time)
    groups = [("", frame)] if id is None else frame.groupby(id, sort=False, dropna=False)
    series, names = [], []
    for name, rows in groups:
        _check_time(rows.index if time is None else pandas.Index(rows[time]), time is not None, str(name))
        series.append(_values(rows[channels], fill, str(name)))
        names.append(str(name))
    return SeriesWindows(series, length, stride=stride, names=names, channels=channels)


def _channels(frame: Any, columns: Sequence[str] | None, *others: str | None) -> list[str]:
    wanted = [column for column in frame.columns if column not in others] if columns is None else list(columns)
    unknown = [name for name in [*wanted, *others] if name is not None and name not in frame.columns]
    if unknown or not wanted:
        raise ValueError(
            f"no column {', '.join(map(repr, unknown)) or 'is left as a channel'}; the frame has "
            f"{', '.join(map(repr, frame.columns))}"
        )
    for name in wanted:
        if frame[name].dtype.kind not in "biuf":
            raise ValueError(
                f"column {name!r} holds {frame[name].dtype}, not numbers; leave it out with columns=, or name it as "
                "id= or time="
            )
    return wanted


def _values(rows: Any, fill: Fill, name: str) -> Tensor:
    """(C, L) of one series, without a hole."""
    rows = rows.astype("float64")
    if fill == "forward":
        rows = rows.ffill()
    elif fill == "linear":
        rows = rows.interpolate(limit_area="inside")
    elif fill is not None:
        rows = rows.fillna(fill)
    values = rows.to_numpy("float64", na_value=np.nan)
    holes = np.argwhere(~np.isfinite(values))
    if len(holes):
        row, column = holes[0]
        where = f"column {rows.columns[column]!r} is {values[row, column]} in row {rows.index[row]}"
        where += f" of series {name!r}" if name else ""
        done = "" if fill is None else f" in spite of fill={fill!r}"
        raise ValueError(
            f"{where} ({len(holes)} such values){done}; pass fill='forward', 'linear' or a number, or drop those rows"
        )
    return torch.from_numpy(np.array(values.T, order="C")).to(torch.get_default_dtype())


def _check_time(times: Any, given: bool, name: str) -> None:
    """Refuse times that go backwards, and report steps that are not equal; a plain numbered index says nothing."""
    pandas = optional("pandas", "data frames", "data")
    dates = isinstance(times, pandas.DatetimeIndex)
    if not (dates or given) or len(times) < 2:
        return
    series = f" of series {name!r}" if name else ""
    steps = times[1:] - times[:-1]
    zero = pandas.Timedelta(0) if dates else 0
    wrong = np.flatnonzero(~(steps > zero))
    if len(wrong):
        at = int(wrong[0])
        raise ValueError(
            f"the rows{series} are not in the order of time: {times[at]} is followed by {times[at + 1]}; sort them and "
            "drop those that are there twice"
        )
    usual = steps.value_counts().index[0]
    odd = np.flatnonzero(steps != usual)
    if len(odd) == 0 or (dates and len(times) > 2 and pandas.infer_freq(times) is not None):  # e.g. months
        return
    at = int(odd[0])
    warnings.warn(
        f"the times{series} are irregular: {len(odd)} of {len(steps)} steps are not {usual}, the first from "
        f"{times[at]} to {times[at + 1]}; a window takes every row for one step, so resample the data, or name the "
        "parts between gaps with id=",
        stacklevel=3,
    )
