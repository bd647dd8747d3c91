"""Sweeps: many runs of one notebook, described in a YAML file and checked before any of them begins."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import math
import os
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from jepa.batch.parameters import Parameter, ParameterError, check_parameters

METHODS = ("grid", "list", "random", "optuna")
KEYS = ("name", "parameters", *METHODS)
DIRECTIONS = ("minimize", "maximize")
TRIES = 100  # draws a run, until it differs from those before
LONGEST_NAME = 120  # characters; file systems end at 255 bytes, and logs and checkpoints come behind it


class SweepError(ValueError):
    """The description of a sweep is wrong; nothing was started."""


@dataclass(frozen=True, slots=True)
class Point:
    """One run of a sweep.

    Attributes:
        name: Of its folder inside of the sweep's.
        parameters: All that differs from the notebook's defaults.
    """

    name: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Choices:
    """One of some values."""

    values: tuple[Any, ...]

    def draw(self, generator: random.Random) -> Any:
        """One of them, each as likely."""
        return generator.choice(self.values)


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones for a parameter that is a whole number."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def draw(self, generator: random.Random) -> Any:
        """One of them, each as likely; with `log` each order of magnitude is."""
        if self.whole and not self.log:
            return generator.randint(int(self.low), int(self.high))
        if not self.log:
            return generator.uniform(self.low, self.high)
        low, high = (self.low - 0.5, self.high + 0.5) if self.whole else (self.low, self.high)
        value = math.exp(generator.uniform(math.log(low), math.log(high)))
        return round(min(max(value, self.low), self.high)) if self.whole else min(max(value, self.low), self.high)


@dataclass(frozen=True, slots=True)
class Search:
    """What is drawn, and how often.

    Attributes:
        runs: How many.
        space: What is tried of each parameter.
        seed: Of the draws.
        metric: What is to be made small or large, as named in the run's records; optuna only.
        direction: `minimize` or `maximize`; optuna only.
    """

    runs: int
    space: dict[str, Choices | Range]
    seed: int = 0
    metric: str = "loss"
    direction: Literal["minimize", "maximize"] = "minimize"


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep whose every value was checked against the notebook.

    Attributes:
        name: Of its folder.
        method: `grid`, `list`, `random` or `optuna`.
        fixed: Parameters that all runs share.
        source: The file's text.
        points: The runs, where they are known before the first one ends: for all methods but `optuna`.
        search: What `optuna` tries.
    """

    name: str
    method: str
    fixed: dict[str, Any]
    source: str
    points: tuple[Point, ...] = ()
    search: Search | None = None

    def __len__(self) -> int:
        return len(self.points) if self.search is None else self.search.runs

    def point(self, varied: Mapping[str, Any]) -> Point:
        """The run with these values for what varies."""
        return Point(point_name(varied), {**self.fixed, **varied})


def read_sweep(
    path: str | os.PathLike[str],
    schema: Mapping[str, Parameter],
    parameters: Mapping[str, Any] | Sequence[tuple[str, str]] = (),
) -> Sweep:
    """Read and check a sweep.

    Args:
        path: A YAML file: `parameters` (the same for all runs, optional), `name` (of the sweep's folder, the file's by
            default), and one of `grid` (a list of values for each parameter: all combinations), `list` (the parameters
            of each run), `random` and `optuna` (`runs`, `seed`, `space`; for optuna also `metric` and `direction`).
            In a space a parameter has a list of values, or `{low: 1e-5, high: 1e-2, log: true}`.
        schema: What the notebook declares, from `read_parameters`.
        parameters: Values for all runs, in place of those in the file.

    Raises:
        FileNotFoundError: There is no such file.
        SweepError: It is not as above, empty, or describes the same run twice.
        ParameterError: The notebook has no such parameter, or a value is of the wrong type.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no sweep at {path} (looked from {Path.cwd()})")
    given = check_parameters(parameters, schema)
    try:
        source = path.read_text(encoding="utf-8")
        content = yaml.safe_load(source)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SweepError(f"{path} is not YAML that can be read: {error}") from error
    try:
        return _parse(content, path.stem, source, schema, given)
    except ParameterError as error:
        raise ParameterError(f"{path}: {error}") from error
    except SweepError as error:
        raise SweepError(f"{path}: {error}") from error


def _parse(content: Any, stem: str, source: str, schema: Mapping[str, Parameter], given: Mapping[str, Any]) -> Sweep:
    content = _mapping(content, "a sweep", KEYS)
    methods = [key for key in METHODS if key in content]
    if len(methods) != 1:
        found = " and ".join(methods) or "none"
        raise SweepError(f"a sweep has exactly one of {', '.join(METHODS)}; this one has {found}")
    (method,) = methods
    name = content.get("name", stem)
    if not isinstance(name, str) or not re.fullmatch(r"[\w.=,+-]+", name) or name.startswith("."):
        raise SweepError(f"name must be a plain folder name, got {name!r}")
    fixed = check_parameters(_mapping(content.get("parameters") or {}, "parameters"), schema) | dict(given)
    sweep = Sweep(name, method, fixed, source)
    if method == "optuna":
        return replace(sweep, search=_parse_search(content[method], method, fixed, schema))
    points = tuple(map(sweep.point, _varied(method, content[method], fixed, schema)))
    _check_unique(points)
    return replace(sweep, points=points)


def _varied(
    method: str, content: Any, fixed: Mapping[str, Any], schema: Mapping[str, Parameter]
) -> Iterator[dict[str, Any]]:
    """What varies from run to run, of each run."""
    if method == "grid":
        values = {name: _values(name, of, schema) for name, of in _mapping(content, "grid").items()}
        if not values:
            raise SweepError("the grid is empty; give each parameter to vary a list of values")
        _check_not_fixed(values, fixed)
        yield from (dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values()))
    elif method == "list":
        if not isinstance(content, list) or not content:
            raise SweepError(f"list must hold the parameters of each run, as a list of mappings, got {content!r}")
        for number, entry in enumerate(content, 1):
            entry = _mapping(entry, f"run {number} of the list")
            _check_not_fixed(entry, fixed)
            yield check_parameters(entry, schema)
    else:
        yield from _drawn(_parse_search(content, method, fixed, schema))


def _drawn(search: Search) -> Iterator[dict[str, Any]]:
    """Draws that differ from each other; more runs later leave the first ones as they are."""
    seen: set[str] = set()
    for index in range(search.runs * TRIES):
        generator = random.Random(f"{search.seed}-{index}")
        varied = {name: rounded(of.draw(generator)) for name, of in search.space.items()}
        if (name := point_name(varied)) not in seen:
            seen.add(name)
            yield varied
        if len(seen) == search.runs:
            return
    raise SweepError(f"the space holds fewer than {search.runs} different runs, {len(seen)} were found; ask for fewer")


def rounded(value: Any) -> Any:
    """A drawn number with as many digits as anyone would type, so that the run's name tells it exactly."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _parse_search(content: Any, method: str, fixed: Mapping[str, Any], schema: Mapping[str, Parameter]) -> Search:
    allowed = ("runs", "seed", "space", *(("metric", "direction") if method == "optuna" else ()))
    content = _mapping(content, method, allowed)
    runs, seed = content.get("runs"), content.get("seed", 0)
    if not _is_whole(runs) or runs < 1:
        raise SweepError(f"{method} needs runs, a whole number of at least 1, got {runs!r}")
    if not _is_whole(seed):
        raise SweepError(f"seed must be a whole number, got {seed!r}")
    space = {name: _domain(name, of, schema) for name, of in _mapping(content.get("space") or {}, "space").items()}
    if not space:
        raise SweepError(f"{method} needs a space: for each parameter to vary a list of values, or low and high")
    _check_not_fixed(space, fixed)
    if method == "random":
        return Search(runs, space, seed)
    metric, direction = content.get("metric"), content.get("direction", "minimize")
    if not isinstance(metric, str):
        raise SweepError(
            f"optuna needs a metric, as named in the run's records (val_loss, effective_rank), got {metric!r}"
        )
    if direction not in DIRECTIONS:
        raise SweepError(f"direction must be one of {', '.join(DIRECTIONS)}, got {direction!r}")
    return Search(runs, space, seed, metric, direction)


def _domain(name: str, content: Any, schema: Mapping[str, Parameter]) -> Choices | Range:
    if not isinstance(content, Mapping):
        return Choices(tuple(_values(name, content, schema)))
    content = _mapping(content, name, ("low", "high", "log"))
    if lacking := [key for key in ("low", "high") if key not in content]:
        raise SweepError(f"{name} has no {' and no '.join(lacking)}; a range is {{low: 1e-5, high: 1e-2, log: true}}")
    low, high = (check_parameters({name: content[key]}, schema)[name] for key in ("low", "high"))
    log = content.get("log", False)
    if not isinstance(log, bool):
        raise SweepError(f"log of {name} must be true or false, got {log!r}")
    if any(isinstance(end, bool) or not isinstance(end, int | float) or not math.isfinite(end) for end in (low, high)):
        raise SweepError(f"{name} is no number, so it has no range; give it a list of values")
    if not (low < high and (low > 0 or not log)):
        raise SweepError(
            f"{name} must go from a low to a higher number{', above 0' if log else ''}, got {low} to {high}"
        )
    return Range(low, high, log, whole=isinstance(schema[name].default, int))


def _values(name: str, content: Any, schema: Mapping[str, Parameter]) -> list[Any]:
    if not isinstance(content, list) or not content:
        raise SweepError(f"{name} needs a list of values, got {content!r}")
    return [check_parameters({name: value}, schema)[name] for value in content]


def _mapping(content: Any, what: str, allowed: Sequence[str] = ()) -> dict[str, Any]:
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise SweepError(f"{what} must be a mapping of names to values, got {content!r}")
    for key in content if allowed else ():
        if key not in allowed:
            nearest = difflib.get_close_matches(key, allowed, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"{what} has {', '.join(allowed)}"
            raise SweepError(f"unknown key {key!r}; {hint}")
    return content


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_not_fixed(varied: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    if both := [name for name in varied if name in fixed]:
        raise SweepError(f"{', '.join(both)} both varied and fixed under parameters; leave one of the two out")


def _check_unique(points: Sequence[Point]) -> None:
    seen: set[str] = set()
    for point in points:
        if point.name in seen:
            raise SweepError(f"the run {point.name} is there twice; every run must differ in some value")
        seen.add(point.name)


def point_name(varied: Mapping[str, Any]) -> str:
    """What the folder of a run is called: what varies, and its value.

    The order of the parameters and the other runs of the sweep do not matter, so that a sweep can grow.

    Example:
        >>> point_name({"seed": 1, "learning_rate": 0.001, "shape": (16, 3)})
        'learning_rate=0.001,seed=1,shape=16x3'
    """
    items = sorted(varied.items())
    told = ",".join(f"{name}={_in_a_name(value)}" for name, value in items)
    plain = re.sub(r"[^\w.=,+-]+", "_", told)[:LONGEST_NAME].strip(".") or "defaults"
    if plain == told:
        return plain
    return f"{plain}-{hashlib.sha256(json.dumps(items).encode()).hexdigest()[:8]}"


def _in_a_name(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "x".join(map(_in_a_name, value))
    return value if isinstance(value, str) else json.dumps(value)
