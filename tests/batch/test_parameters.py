"""Parameters of a notebook: read without running it, checked before anything starts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from jepa.batch import Parameter, ParameterError, check_parameters, read_parameters

CELL = """
num_epochs = 3  # passes over the data
learning_rate: float = 1e-3
name = "a"
fast = False
sizes = [1, 2]
shape = (8, 8)
options = {"depth": 1}
cache = None  # a file
offset = -1
"""


def notebook(path: Path, *sources: str, tag: str = "parameters") -> Path:
    cells = [new_code_cell("x = 1"), *(new_code_cell(source, metadata={"tags": [tag]}) for source in sources)]
    nbformat.write(new_notebook(cells=cells), path)
    return path


@pytest.fixture
def schema(tmp_path: Path) -> dict[str, Parameter]:
    return read_parameters(notebook(tmp_path / "n.ipynb", CELL))


def test_names_defaults_and_comments_are_read_in_order(schema: dict[str, Parameter]) -> None:
    assert list(schema.values()) == [
        Parameter("num_epochs", 3, "passes over the data"),
        Parameter("learning_rate", 0.001),
        Parameter("name", "a"),
        Parameter("fast", False),
        Parameter("sizes", [1, 2]),
        Parameter("shape", (8, 8)),
        Parameter("options", {"depth": 1}),
        Parameter("cache", None, "a file"),
        Parameter("offset", -1),
    ]


def test_reading_executes_nothing_and_passes_over_what_is_no_assignment(tmp_path: Path) -> None:
    source = f"import os\nopen({str(tmp_path / 'executed')!r}, 'w')\nos.x = 1\na, b = 1, 2\nseed: int\nseed = 4\n"
    assert read_parameters(notebook(tmp_path / "n.ipynb", source)) == {"seed": Parameter("seed", 4)}
    assert not (tmp_path / "executed").exists()


def test_only_the_first_tagged_cell_counts(tmp_path: Path) -> None:
    assert list(read_parameters(notebook(tmp_path / "n.ipynb", "a = 1", "b = 2"))) == ["a"]


# What the command line gives is text; what a program gives is a value.
@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("num_epochs", "5", 5),
        ("num_epochs", " -5 ", -5),
        ("num_epochs", "1_000", 1000),
        ("num_epochs", 5, 5),
        ("learning_rate", "5e-4", 0.0005),
        ("learning_rate", "1", 1.0),
        ("learning_rate", 1, 1.0),
        ("name", "5", "5"),
        ("name", "true", "true"),
        ("name", "", ""),
        ("fast", "true", True),
        ("fast", "False", False),
        ("fast", True, True),
        ("sizes", "[3]", [3]),
        ("sizes", "3, 4", [3, 4]),
        ("sizes", (3, 4), [3, 4]),
        ("shape", "[3, 4]", (3, 4)),
        ("options", "{'depth': 2}", {"depth": 2}),
        ("cache", "pendulum.npz", "pendulum.npz"),
        ("cache", "none", None),
        ("cache", "null", None),
        ("cache", "3", 3),
        ("cache", "'3'", "3"),
        ("cache", None, None),
    ],
)
def test_a_value_gets_the_type_of_its_default(schema: dict[str, Parameter], name: str, given: Any, value: Any) -> None:
    pairs: Any = [(name, given)] if isinstance(given, str) else {name: given}
    found = check_parameters(pairs, schema)
    assert found == {name: value}
    assert type(found[name]) is type(value)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("num_epochs", "1.5", "num_epochs must be a whole number like its default 3, got '1.5'"),
        ("num_epochs", "1e3", "must be a whole number"),
        ("num_epochs", "ten", "must be a whole number"),
        ("num_epochs", "true", "must be a whole number"),
        ("num_epochs", True, "must be a whole number like its default 3, got True"),
        ("num_epochs", "none", "must be a whole number"),
        ("num_epochs", "", "must be a whole number"),
        ("learning_rate", "fast", "learning_rate must be a number like its default 0.001, got 'fast'"),
        ("learning_rate", "true", "must be a number"),
        ("learning_rate", "[1]", "must be a number"),
        ("name", 5, "name must be text like its default 'a', got 5"),
        ("fast", "1", "fast must be true or false like its default False, got '1'"),
        ("fast", "yes", "must be true or false"),
        ("sizes", "3", r"sizes must be a list like its default \[1, 2\], got '3'"),
        ("shape", "8", r"shape must be a tuple like its default \(8, 8\), got '8'"),
        ("options", "[1]", "options must be a dict"),
        ("options", "{[]: 1}", "options must be a dict"),
        ("options", {1: 2}, "options must be a dict"),
        ("cache", {1, 2}, "cache must be a plain literal like its default None"),
        ("cache", object(), "cache must be a plain literal"),
        ("sizes", [object()], "sizes must be a list"),
        ("cache", "{1, 2}", "cache must be a plain literal"),
        ("num_epochs", "(" * 10_000, "must be a whole number"),
    ],
)
def test_a_value_of_another_type_is_refused(schema: dict[str, Parameter], name: str, given: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        check_parameters({name: given}, schema)


def test_an_unknown_name_names_the_nearest(schema: dict[str, Parameter]) -> None:
    with pytest.raises(ParameterError, match=r"unknown parameter 'num_epoch'; did you mean 'num_epochs'\?"):
        check_parameters([("num_epoch", "3")], schema)
    with pytest.raises(ParameterError, match="unknown parameter 'zzz'; the notebook has num_epochs, learning_rate"):
        check_parameters([("zzz", "3")], schema)


def test_all_mistakes_are_told_at_once(schema: dict[str, Parameter]) -> None:
    with pytest.raises(ParameterError, match=r"unknown parameter 'nam'; .*fast must be .*num_epochs must be"):
        check_parameters([("nam", "3"), ("fast", "3"), ("num_epochs", "x")], schema)


def test_the_last_of_several_values_counts(schema: dict[str, Parameter]) -> None:
    assert check_parameters([("num_epochs", "3"), ("num_epochs", "4")], schema) == {"num_epochs": 4}


def test_numbers_beyond_json_are_kept(schema: dict[str, Parameter]) -> None:
    assert math.isinf(check_parameters({"learning_rate": math.inf}, schema)["learning_rate"])


def test_a_notebook_without_a_parameters_cell_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"n.ipynb has no cell tagged 'parameters'; put the values to vary"):
        read_parameters(notebook(tmp_path / "n.ipynb", "a = 1", tag="parameter"))


@pytest.mark.parametrize(
    "source",
    ["list(range(3))", "1 + 1", "3 * 'a'", "f'{1}'", "{1, 2}", "{[]: 1}", "{1: 2}", "b'x'", "1j", "...", "true"],
)
def test_a_default_that_is_no_plain_literal_is_refused(tmp_path: Path, source: str) -> None:
    with pytest.raises(ParameterError, match=r"parameter 'b' of .*n.ipynb is .*; defaults must be plain literals"):
        read_parameters(notebook(tmp_path / "n.ipynb", f"a = 1\nb = {source}"))


def test_a_cell_that_is_no_python_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"the parameters cell of .*n.ipynb is not valid Python"):
        read_parameters(notebook(tmp_path / "n.ipynb", "a = = 1"))


@pytest.mark.parametrize("content", ["", "{}", "no json", '{"cells": 3, "nbformat": 4, "nbformat_minor": 5}'])
def test_a_file_that_is_no_notebook_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "n.ipynb").write_text(content)
    with pytest.raises(ParameterError, match=r"n.ipynb is not a notebook that can be read"):
        read_parameters(tmp_path / "n.ipynb")


def test_a_missing_notebook_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no notebook at .*n.ipynb \(looked from "):
        read_parameters(tmp_path / "n.ipynb")
