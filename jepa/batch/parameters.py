"""The parameters of a notebook: its cell tagged `parameters` is the schema, read without running it."""

from __future__ import annotations

import ast
import difflib
import io
import os
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class ParameterError(ValueError):
    """A notebook's parameters cell, or a value given for it, is wrong; nothing was started."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter.

    Attributes:
        name: Its variable.
        default: A plain literal.
        help: The comment behind it.
    """

    name: str
    default: Any
    help: str = ""


def read_parameters(notebook: str | os.PathLike[str]) -> dict[str, Parameter]:
    """The parameters that a notebook declares, in order.

    Raises:
        FileNotFoundError: There is no such notebook.
        ParameterError: It has no cell tagged `parameters`, or a default there is not a plain literal: a number, text,
            true, false, None, or a list, tuple or dictionary (with text as keys) of these.
    """
    import nbformat

    path = Path(notebook)
    if not path.is_file():
        raise FileNotFoundError(f"no notebook at {path} (looked from {Path.cwd()})")
    try:
        cells = nbformat.read(path, as_version=4).cells
    except Exception as error:  # nbformat raises its own, json's and validation errors
        raise ParameterError(f"{path} is not a notebook that can be read ({error})") from error
    tagged = [cell for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", [])]
    if not tagged:
        raise ParameterError(
            f"{path} has no cell tagged 'parameters'; put the values to vary into one cell, and in JupyterLab add the "
            "tag under Property Inspector > Cell Tags"
        )
    return _parse_cell(tagged[0].source, path)


def _parse_cell(source: str, path: Path) -> dict[str, Parameter]:
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise ParameterError(f"the parameters cell of {path} is not valid Python: {error}") from error
    comments = _comments(source)
    parameters: dict[str, Parameter] = {}
    for statement in statements:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target, value = statement.targets[0], statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            target, value = statement.target, statement.value
        else:
            continue
        if not isinstance(target, ast.Name):
            continue
        default = _evaluated(value)
        if not _is_plain(default):
            raise ParameterError(
                f"parameter {target.id!r} of {path} is {ast.unparse(value)!r}; defaults must be plain literals"
            )
        parameters[target.id] = Parameter(target.id, default, comments.get(statement.end_lineno or 0, ""))
    return parameters


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}


def check_parameters(
    given: Mapping[str, Any] | Sequence[tuple[str, str]], schema: Mapping[str, Parameter]
) -> dict[str, Any]:
    """The values given, each in the type of its default.

    Args:
        given: Name to value, or pairs of text as they come from a command line.
        schema: What the notebook declares.

    Raises:
        ParameterError: Every unknown name (with the nearest known one) and every value of a wrong type.
    """
    pairs = list(given.items()) if isinstance(given, Mapping) else list(given)
    values: dict[str, Any] = {}
    problems = []
    for name, value in pairs:
        if name not in schema:
            nearest = difflib.get_close_matches(name, schema, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"the notebook has {', '.join(schema)}"
            problems.append(f"unknown parameter {name!r}; {hint}")
            continue
        try:
            values[name] = _convert(value, schema[name].default)
            if not _is_plain(values[name]):
                raise ValueError
        except ValueError:
            default = schema[name].default
            problems.append(f"{name} must be {_kind(default)} like its default {default!r}, got {value!r}")
    if problems:
        raise ParameterError("; ".join(problems))
    return values


def _kind(default: Any) -> str:
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        type(None): "a plain literal",
    }
    return names.get(type(default), f"a {type(default).__name__}")


def _convert(value: Any, default: Any) -> Any:
    """`value` in the type of `default`; text is read as YAML users expect, but never guessed into another type."""
    if isinstance(default, str):
        if not isinstance(value, str):
            raise ValueError
        return value
    parsed = _literal(value) if isinstance(value, str) else value
    if default is None:
        return value if isinstance(value, str) and parsed is _NOT_A_LITERAL else parsed
    if isinstance(default, bool) or isinstance(parsed, bool):
        if not (isinstance(default, bool) and isinstance(parsed, bool)):
            raise ValueError
        return parsed
    if isinstance(default, float) and isinstance(parsed, int):
        return float(parsed)
    if isinstance(default, list | tuple) and isinstance(parsed, list | tuple):
        return type(default)(parsed)
    if not isinstance(parsed, type(default)):
        raise ValueError
    return parsed


def as_text(value: Any, default: Any) -> str:
    """How a command line says a value of a parameter: `check_parameters` reads the same value back."""
    if isinstance(value, str) and (isinstance(default, str) or _literal(value) is _NOT_A_LITERAL):
        return value
    return repr(value)


_NOT_A_LITERAL = object()


def _literal(text: str) -> Any:
    """The value that `text` stands for, as Python or YAML write it."""
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.strip().lower() in words:
        return words[text.strip().lower()]
    return _evaluated(text.strip())


def _evaluated(source: str | ast.expr) -> Any:
    try:
        return ast.literal_eval(source)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # all that literal_eval may raise
        return _NOT_A_LITERAL


def _is_plain(value: Any) -> bool:
    """Whether JSON can hold `value`, so that it reaches every rank as it was given."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(part) for key, part in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
