"""Many runs in one figure: the right curves, in colours that say which ended where, and an axis for what varies."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest

from jepa.figures import compare_figure, parallel_figure, to_png

Make = Callable[..., pandas.DataFrame]


@pytest.fixture
def table(tmp_path: Path) -> Make:
    """`table(last, **parameters)`: runs that ended with these losses, and their parameters."""

    def make(last: list[float], **parameters: list[Any]) -> pandas.DataFrame:
        for number, value in enumerate(last):
            metrics = tmp_path / f"run-{number}" / "metrics"
            metrics.mkdir(parents=True)
            start = {"tick": 0, "segment": 0, "step": 0, "event": "RunStarted", "continues": None, "run": str(number)}
            (metrics.parent / "journal.jsonl").write_text(json.dumps(start) + "\n")
            lines = ({"segment": 0, "step": step, "time": 1.0, "loss": value + 10 / step} for step in range(1, 101))
            (metrics / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        names = [f"run-{number}" for number in range(len(last))]
        columns = {f"parameters.{name}": values for name, values in parameters.items()}
        paths = [str(tmp_path / name) for name in names]
        return pandas.DataFrame({"path": paths, **columns, "metrics.loss": last}, index=pandas.Index(names, name="run"))

    return make


def test_a_few_runs_have_colours_and_names_of_their_own(table: Make) -> None:
    figure = compare_figure(table([1.0, 2.0, 3.0]))
    assert [trace.name for trace in figure.data] == ["run-0", "run-1", "run-2"]
    assert len({trace.line.color for trace in figure.data}) == 3
    assert all(trace.showlegend for trace in figure.data)
    assert [trace.y[-1] for trace in figure.data] == pytest.approx([1.1, 2.1, 3.1])


def test_many_runs_are_coloured_by_where_they_ended(table: Make) -> None:
    last = [3.0, 1.0, 2.0, 5.0, 4.0, 7.0, 6.0, 8.0]
    figure = compare_figure(table(last), points=20)
    brightness = [sum(int(trace.line.color[i : i + 2], 16) for i in (1, 3, 5)) for trace in figure.data]
    assert [last[i] for i in sorted(range(8), key=brightness.__getitem__)] == sorted(last)
    assert not any(trace.showlegend for trace in figure.data)
    assert max(len(trace.x) for trace in figure.data) <= 22
    assert figure.data[0].y[0] == pytest.approx(13.0), "the peak at the start is kept"


def test_folders_do_as_well_as_a_table(table: Make) -> None:
    paths = list(table([1.0, 2.0])["path"])
    assert [trace.name for trace in compare_figure(paths).data] == ["run-0", "run-1"]
    assert [trace.name for trace in compare_figure(paths[0]).data] == ["run-0"]


def test_what_cannot_be_compared_is_an_error_that_says_what_there_is(table: Make) -> None:
    runs = table([1.0, 2.0], seed=[0, 0])
    with pytest.raises(ValueError, match=r"no run here has recorded 'rank'; there are loss"):
        compare_figure(runs, "rank")
    with pytest.raises(ValueError, match="there are no runs to compare"):
        compare_figure([])
    with pytest.raises(ValueError, match=r"no run here has a number for 'rank'; there are loss"):
        parallel_figure(runs, "rank")
    with pytest.raises(ValueError, match="do not differ in any parameter"):
        parallel_figure(runs)


def test_each_line_crosses_the_axes_at_its_values(table: Make) -> None:
    runs = table(
        [1.0, 2.0, 5.0, float("nan")],
        rate=[1e-4, 1e-3, 1e-2, 1e-1],
        size=[10, 15, 20, 20],
        kind=["b", "a", "b", "c"],
        same=[3, 3, 3, 3],
    )
    figure = parallel_figure(runs)
    assert list(figure.layout.xaxis.ticktext) == ["rate", "size", "kind", "loss"]
    lines = {trace.name: list(trace.y) for trace in figure.data if trace.name}
    assert lines == {
        "run-0": pytest.approx([0, 0, 1, 0]),
        "run-1": pytest.approx([0.5, 0.5, 0, 0.25]),  # the rate by its order of magnitude
        "run-2": pytest.approx([1, 1, 1, 1]),
    }
    assert "rate 0.001" in figure.data[1].text[0]
    axes = [trace for trace in figure.data if not trace.name]
    assert [list(trace.text) for trace in axes] == [
        ["0.0001", "0.001", "0.01"],
        ["10", "15", "20"],
        ["a", "b"],
        ["1", "2", "5"],
    ]


def test_many_values_of_a_rate_are_marked_in_decades(table: Make) -> None:
    rates = [2e-5 * 3**power for power in range(8)]
    figure = parallel_figure(table([float(number) for number in range(8)], rate=rates))
    axis = next(trace for trace in figure.data if not trace.name)
    assert list(axis.text) == ["2e-05", "0.0001", "0.001", "0.01", "0.04374"]


def test_both_can_be_drawn_without_a_browser(table: Make) -> None:
    runs = table([1.0, 2.0, 3.0], kind=["a", "b", "c"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures = [to_png(compare_figure(runs)), to_png(parallel_figure(runs))]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
