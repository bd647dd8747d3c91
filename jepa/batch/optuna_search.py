"""Search by Optuna: what has ended says what to try next. The run folders are its only memory."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jepa.batch.launch import BatchResult
from jepa.batch.sweep import Choices, Point, Range, Sweep, rounded
from jepa.files import read_lines
from jepa.trainer.run import metrics_of


class OptunaQueue:
    """The runs of a sweep, each chosen when it is asked for. Calls must not overlap.

    What an earlier command has run is told to the study first, and what it left unfinished is asked for first.

    Args:
        sweep: With a search.
        folder: Of the sweep.

    Raises:
        ImportError: Optuna is not installed.
    """

    def __init__(self, sweep: Sweep, folder: Path) -> None:
        try:
            import optuna
        except ImportError as error:
            raise ImportError("search by optuna needs it: pip install 'jepa-lab[batch]'") from error
        assert sweep.search is not None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna = optuna
        self._sweep, self._search, self._folder = sweep, sweep.search, folder
        # the lie about runs that have not ended yet keeps those that run at once apart
        sampler = optuna.samplers.TPESampler(seed=sweep.search.seed, constant_liar=True)
        self._study = optuna.create_study(sampler=sampler, direction=sweep.search.direction)
        self._space = {name: _distribution(of) for name, of in sweep.search.space.items()}
        self._trials: dict[str, Any] = {}
        self._begun: deque[Point] = deque()
        self._count = 0
        self._remember()

    def next(self) -> Point | None:
        """The next run; `None` when all have been asked for."""
        if self._begun:
            self._count += 1
            return self._begun.popleft()
        if self._count >= self._search.runs:
            return None
        self._count += 1
        trial = self._study.ask(self._space)
        varied = {name: _chosen(of, trial.params[name]) for name, of in self._search.space.items()}
        point = self._sweep.point(varied)
        self._trials[point.name] = trial
        return point

    def ended(self, point: Point, result: BatchResult) -> None:
        """Tell the study what came of a run."""
        value = last_value(result.folder, self._search.metric) if result.exit_code == 0 else None
        trial = self._trials.pop(point.name, None)
        if trial is not None and value is not None:
            self._study.tell(trial, value)
        elif trial is not None:
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        elif value is not None:
            self._add(point.parameters, value)

    def _remember(self) -> None:
        for file in sorted(self._folder.glob("*/batch.json")):
            kept = json.loads(file.read_text(encoding="utf-8"))
            parameters = kept["parameters"]
            if not self._is_ours(parameters):
                continue
            if kept["status"] != "finished":
                self._begun.append(Point(file.parent.name, parameters))
                continue
            self._count += 1
            value = last_value(file.parent, self._search.metric)
            if value is not None:
                self._add(parameters, value)

    def _is_ours(self, parameters: Mapping[str, Any]) -> bool:
        """Whether a run differs from others of this sweep in nothing but what is searched."""
        rest = {name: value for name, value in parameters.items() if name not in self._space}
        return parameters.keys() >= self._space.keys() and rest == json.loads(json.dumps(self._sweep.fixed))

    def _add(self, parameters: Mapping[str, Any], value: float) -> None:
        try:
            known = {name: _told(of, parameters[name]) for name, of in self._search.space.items()}
            trial = self._optuna.trial.create_trial(params=known, distributions=self._space, value=value)
        except ValueError:  # of a space that has changed since
            return
        self._study.add_trial(trial)


def _distribution(of: Choices | Range) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(of, Choices):  # by position: a choice may be a list, which Optuna takes for none
        return CategoricalDistribution(tuple(range(len(of.values))))
    if of.whole:
        return IntDistribution(int(of.low), int(of.high), log=of.log)
    return FloatDistribution(of.low, of.high, log=of.log)


def _chosen(of: Choices | Range, value: Any) -> Any:
    return of.values[value] if isinstance(of, Choices) else rounded(value)


def _told(of: Choices | Range, value: Any) -> Any:
    return [json.loads(json.dumps(choice)) for choice in of.values].index(value) if isinstance(of, Choices) else value


def last_value(folder: Path, metric: str) -> float | None:
    """The last value of a metric that a run has recorded, if it is a number."""
    values = [metrics_of(record).get(metric) for record in read_lines(folder / "metrics" / "train.jsonl")]
    found = [value for value in values if value is not None]
    return found[-1] if found and math.isfinite(found[-1]) else None
