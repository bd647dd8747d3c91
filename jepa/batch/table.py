"""All runs of a folder as a pandas table: parameters, state, last metrics and cost, from their files alone."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from jepa.batch.launch import SOURCE
from jepa.batch.parameters import read_parameters
from jepa.files import open_regular, parse_lines
from jepa.trainer.listing import DAMAGE, RunSummary, list_runs
from jepa.trainer.run import metrics_of

if TYPE_CHECKING:
    from pandas import DataFrame

TAIL_BYTES = 1 << 14  # some forty records, among which is the last one of every metric
FACTS = ("state", "step", "total_steps", "age", "seconds", "processes", "error", "path")
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def runs(folder: str | os.PathLike[str] = "runs") -> DataFrame:
    """The runs of a folder and of the sweeps in it, a row each, the one with the newest sign of life first.

    Args:
        folder: Folder of the runs, of a sweep, or of one run.

    Returns:
        A table with the name as index (`"rates/seed=0"` for a run of a sweep) and these columns:

        - `state`, `step`, `total_steps`, `age` (seconds since the last sign of life), `seconds` (of all that was spent
          on it, pauses included), `processes`, `error`, `path`;
        - `parameters.NAME`: of batch runs all that the notebook declares, defaults included; of others the options of
          their configuration in which these runs differ;
        - `metrics.NAME`: the last value recorded.

    Raises:
        ImportError: pandas is not installed.

    Example:
        The three best of a sweep, and all for another tool::

            table = jepa.runs("runs/rates")
            print(table.nsmallest(3, "metrics.val_loss"))
            table.to_parquet("rates.parquet")
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("the table of runs needs pandas: pip install 'jepa-lab[batch]'") from error
    found = list_runs(folder)
    options = _differing(_options(run.path) if run.origin != "batch" else {} for run in found)
    defaults = _Defaults()
    rows = []
    for run, more in zip(found, options, strict=True):
        batch = _mapping(run.path / "batch.json")
        parameters = {
            **(defaults.of(run.path / SOURCE) if batch else {}),
            **dict(batch.get("parameters") or {}),
            **more,
        }
        rows.append(_facts(run, batch) | _named("parameters", parameters) | _named("metrics", _last(run.path)))
    table = pandas.DataFrame(rows, index=pandas.Index([run.name for run in found], name="run"))
    return table.reindex(columns=sorted({*FACTS, *table.columns}, key=_place))


def _place(column: str) -> tuple[int, str]:
    """Facts in their order, then parameters, then metrics."""
    if column in FACTS:
        return FACTS.index(column), column
    return len(FACTS) + column.startswith("metrics."), column


def _named(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{kind}.{name}": value for name, value in values.items()}


def _facts(run: RunSummary, batch: Mapping[str, Any]) -> dict[str, Any]:
    seconds = batch.get("seconds")
    return {
        "state": run.state,
        "step": run.step,
        "total_steps": run.total_steps,
        "age": run.age,
        "seconds": float(seconds) if isinstance(seconds, int | float) else _span(run.path),
        "processes": batch.get("nproc_per_node", 1),
        "error": run.error,
        "path": str(run.path),
    }


def _span(folder: Path) -> float:
    """Seconds from the first line of the journal to the last sign of life; NaN if either is unknown."""
    with suppress(*DAMAGE, TypeError, KeyError), open_regular(folder / "journal.jsonl") as file:
        first = json.loads(file.readline())["time"]
        return float(_mapping(folder / "status.json")["time"] - first)
    return math.nan


class _Defaults:
    """The defaults of notebooks; runs of a sweep have copies of the same one, which is read once."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, Any]] = {}

    def of(self, source: Path) -> dict[str, Any]:
        """What a notebook declares; nothing if it cannot be read."""
        with suppress(*DAMAGE):
            with open_regular(source) as file:
                content = hashlib.sha256(file.read()).hexdigest()
            if content not in self._known:
                self._known[content] = {name: one.default for name, one in read_parameters(source).items()}
            return self._known[content]
        return {}


def _options(folder: Path) -> dict[str, Any]:
    """The configuration of a run that is no batch, with one name for each value: `training.seed`."""
    with suppress(*DAMAGE, yaml.YAMLError), open_regular(folder / "config.yaml") as file:
        return dict(_flat(yaml.load(file.read(), Loader=Loader)))
    return {}


def _flat(content: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items() if isinstance(content, dict) else ():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _differing(options: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is not the same in all that have any."""
    options = list(options)
    told = [json.dumps(dict(values), sort_keys=True, default=str) for values in options if values]
    if len(set(told)) < 2:
        return [{} for _ in options]
    having = [values for values in options if values]
    names = sorted({name for values in having for name in values})
    differing = [name for name in names if len({json.dumps(values.get(name), default=str) for values in having}) > 1]
    return [{name: values[name] for name in differing if name in values} for values in options]


def _last(folder: Path) -> dict[str, float]:
    """The last value of every metric among the newest records."""
    found: dict[str, float] = {}
    with suppress(*DAMAGE), open_regular(folder / "metrics" / "train.jsonl") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - TAIL_BYTES, 0))
        for record in parse_lines(file.read().decode(errors="replace").splitlines()):
            found |= metrics_of(record)
    return found


def _mapping(file: Path) -> dict[str, Any]:
    with suppress(*DAMAGE), open_regular(file) as opened:
        content = json.loads(opened.read())
        return content if isinstance(content, dict) else {}
    return {}
