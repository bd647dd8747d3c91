"""Sweeps: every value is checked before a run begins, and every run keeps its name as the sweep grows."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jepa.batch import Parameter, ParameterError, SweepError, check_parameters, read_parameters, read_sweep
from jepa.batch.parameters import as_text
from jepa.batch.sweep import LONGEST_NAME, Range, Sweep, point_name

ROOT = Path(__file__).parents[2]
SCHEMA = {
    name: Parameter(name, default)
    for name, default in {
        "rate": 1e-3,
        "epochs": 10,
        "shape": (16, 3),
        "kind": "ijepa",
        "seed": 0,
        "extra": None,
    }.items()
}


@pytest.fixture
def sweep(tmp_path: Path) -> Callable[..., Sweep]:
    """`sweep(text)` reads a sweep from a file with this text, or this content."""

    def read(content: str | Mapping[str, Any], **given: Any) -> Sweep:
        path = tmp_path / "rates.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
        return read_sweep(path, SCHEMA, given)

    return read


def test_a_grid_has_all_combinations_and_what_is_fixed(sweep: Callable[..., Sweep]) -> None:
    found = sweep("parameters: {epochs: 2}\ngrid: {rate: [1e-4, 1e-3], seed: [0, 1]}")
    assert found.name == "rates"
    assert [point.parameters for point in found.points] == [
        {"epochs": 2, "rate": rate, "seed": seed} for rate in (1e-4, 1e-3) for seed in (0, 1)
    ]
    assert found.points[0].name == "rate=0.0001,seed=0"


def test_a_list_has_the_runs_that_it_lists(sweep: Callable[..., Sweep]) -> None:
    found = sweep("name: two\nlist: [{rate: 1e-2, shape: [8, 3]}, {kind: vicreg}]")
    assert found.name == "two"
    assert {point.name: point.parameters for point in found.points} == {
        "rate=0.01,shape=8x3": {"rate": 0.01, "shape": (8, 3)},
        "kind=vicreg": {"kind": "vicreg"},
    }


def test_values_given_for_all_runs_replace_those_of_the_file(sweep: Callable[..., Sweep]) -> None:
    found = sweep("parameters: {epochs: 20}\ngrid: {seed: [0, 1]}", epochs=1)
    assert [point.parameters["epochs"] for point in found.points] == [1, 1]


def random_sweep(runs: int, **space: Any) -> dict[str, Any]:
    return {"random": {"runs": runs, "seed": 3, "space": space}}


def test_random_runs_stay_as_they_are_when_more_are_asked_for(sweep: Callable[..., Sweep]) -> None:
    space = {"rate": {"low": 1e-5, "high": 1e-1, "log": True}, "epochs": {"low": 1, "high": 5}, "kind": ["a", "b"]}
    few, many = sweep(random_sweep(4, **space)), sweep(random_sweep(9, **space))
    assert few.points == many.points[:4]
    assert len({point.name for point in many.points}) == 9
    for point in many.points:
        assert point.name == point_name(point.parameters)
        assert 1e-5 <= point.parameters["rate"] <= 1e-1
        assert point.parameters["epochs"] in range(1, 6)


def test_a_random_search_of_a_small_space_finds_each_run_once(sweep: Callable[..., Sweep]) -> None:
    found = sweep(random_sweep(6, kind=["a", "b", "c"], seed=[0, 1]))
    assert len({point.name for point in found.points}) == 6
    with pytest.raises(SweepError, match="fewer than 7 different runs, 6 were found"):
        sweep(random_sweep(7, kind=["a", "b", "c"], seed=[0, 1]))


@given(low=st.floats(1e-6, 1e3), factor=st.floats(1.01, 1e6), log=st.booleans(), seed=st.integers(0, 99))
def test_draws_lie_in_their_range(low: float, factor: float, log: bool, seed: int) -> None:
    drawn = Range(low, low * factor, log).draw(random.Random(seed))
    assert low <= drawn <= low * factor


def test_whole_numbers_are_drawn_evenly_or_by_their_order_of_magnitude() -> None:
    generator = random.Random(0)
    even = [Range(1, 100, whole=True).draw(generator) for _ in range(3000)]
    by_magnitude = [Range(1, 100, log=True, whole=True).draw(generator) for _ in range(3000)]
    assert {type(value) for value in even + by_magnitude} == {int}
    assert (min(even), max(even)) == (min(by_magnitude), max(by_magnitude)) == (1, 100)
    assert sum(value <= 10 for value in even) / 3000 == pytest.approx(0.10, abs=0.02)
    ten = math.log(10.5 / 0.5) / math.log(100.5 / 0.5)
    assert sum(value <= 10 for value in by_magnitude) / 3000 == pytest.approx(ten, abs=0.03)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a sweep must be a mapping of names to values, got None"),
        ("- 1", "a sweep must be a mapping"),
        ("gird: {seed: [0]}", "unknown key 'gird'; did you mean 'grid'?"),
        ("parameters: {seed: 1}", "exactly one of grid, list, random, optuna; this one has none"),
        ("grid: {seed: [0]}\nlist: [{seed: 0}]", "this one has grid and list"),
        ("name: ../out\ngrid: {seed: [0]}", "name must be a plain folder name, got '../out'"),
        ("grid: {}", "the grid is empty"),
        ("grid: {seed: 3}", "seed needs a list of values, got 3"),
        ("grid: {seed: []}", "seed needs a list of values"),
        ("grid: {sed: [1]}", "unknown parameter 'sed'; did you mean 'seed'?"),
        ("grid: {seed: [1.5]}", "seed must be a whole number like its default 0, got 1.5"),
        ("grid: {seed: [0, 0]}", "the run seed=0 is there twice"),
        ("parameters: {seed: 1}\ngrid: {seed: [0, 1]}", "seed both varied and fixed under parameters"),
        ("list: {seed: 0}", "list must hold the parameters of each run"),
        ("list: [3]", "run 1 of the list must be a mapping"),
        ("random: {space: {seed: [0]}}", "random needs runs, a whole number of at least 1, got None"),
        ("random: {runs: 3}", "random needs a space"),
        ("random: {runs: 3, space: {rate: {low: 1}}}", "rate has no high; a range is"),
        ("random: {runs: 3, space: {rate: {low: 2, high: 1}}}", "rate must go from a low to a higher number, got 2.0"),
        ("random: {runs: 3, space: {rate: {low: 0, high: 1, log: true}}}", "a higher number, above 0, got 0.0"),
        ("random: {runs: 3, space: {kind: {low: a, high: b}}}", "kind is no number, so it has no range"),
        ("random: {runs: 3, metric: loss, space: {seed: [0]}}", "unknown key 'metric'"),
        ("optuna: {runs: 3, space: {seed: [0]}}", "optuna needs a metric, as named in the run's records"),
        ("optuna: {runs: 3, metric: loss, direction: down, space: {seed: [0]}}", "direction must be one of minimize"),
        ("grid: {seed: [0", "is not YAML that can be read"),
    ],
)  # fmt: skip
def test_a_wrong_sweep_is_an_error_that_names_the_file(sweep: Callable[..., Sweep], content: str, message: str) -> None:
    with pytest.raises((SweepError, ParameterError)) as raised:
        sweep(content)
    assert message in str(raised.value)
    assert "rates.yaml" in str(raised.value)


values = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(), st.none())


@given(value=st.one_of(values, st.lists(values, max_size=3)), default=values)
def test_a_value_survives_the_command_line(value: Any, default: Any) -> None:
    schema = {"x": Parameter("x", default)}
    try:
        wanted = check_parameters({"x": value}, schema)
    except ParameterError:
        return
    assert check_parameters([("x", as_text(wanted["x"], default))], schema) == wanted


@given(
    st.dictionaries(
        st.sampled_from(list(SCHEMA)), st.one_of(st.text(), st.floats(), st.lists(st.integers())), max_size=6
    )
)
def test_the_name_of_a_run_is_a_plain_folder_name(varied: dict[str, Any]) -> None:
    name = point_name(varied)
    assert name
    assert "/" not in name
    assert not name.startswith(".")
    assert len(name.encode()) <= 2 * LONGEST_NAME + 9
    assert name == point_name(dict(reversed(varied.items())))


def test_the_sweeps_of_the_documentation_fit_the_quickstart(tmp_path: Path) -> None:
    schema = read_parameters(ROOT / "notebooks" / "00_quickstart.ipynb")
    page = (ROOT / "docs" / "concepts" / "batch.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    methods = []
    for block in blocks:
        (tmp_path / "sweep.yaml").write_text(block, encoding="utf-8")
        methods.append(read_sweep(tmp_path / "sweep.yaml", schema).method)
    assert methods == ["grid", "list", "random", "optuna"]
