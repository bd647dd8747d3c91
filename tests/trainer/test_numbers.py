"""What may be changed in a run, told to another process: it comes back as it was, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import inf, nan
from typing import Any

import numpy as np
import pytest

import jepa
from jepa.data import MemoryLoader
from jepa.models import JEPA
from jepa.objectives import StatePair
from jepa.objectives.base import HyperParameter
from jepa.trainer import JEPATrainer
from jepa.trainer.numbers import LONGEST, MOST, Number, parse_numbers

MakeTrainer = Callable[..., JEPATrainer]
ROW = {
    "default": 1.0, "low": 0.0, "high": None, "unit": "steps", "whole": True, "value": 2.0, "course": "held",
    "modes": ["hold"], "of_views": True,
}  # fmt: skip
HALF: Any = np.float32(0.5)
WHOLE: Any = np.bool_(True)


def test_numbers_come_back_from_the_status_file_as_the_trainer_has_them(
    make_trainer: MakeTrainer, loader: MemoryLoader
) -> None:
    trainer = make_trainer(run="told", clip_grad_norm=1.0)
    trainer.train(loader, max_steps=3)
    assert trainer.run is not None
    run = jepa.attach(trainer.run.path)
    assert run.numbers() == trainer.numbers()
    assert run.hyper_parameters() == trainer.hyper_parameters()
    assert run.courses() == trainer.courses()
    assert run.unavailable().keys() == {"start", "inspect", "evaluate"}


def test_only_the_modes_that_set_takes_are_offered(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    trainer = make_trainer(clip_grad_norm=1.0)
    trainer.train(loader, max_steps=3)
    for name, number in trainer.rates.numbers(1).items():
        for mode in ("scale", "hold", "schedule"):
            try:
                taken = trainer.rates.check(1, name, number.value, mode)["mode"] == mode
            except ValueError:
                taken = False
            assert taken == (mode in number.modes) or (mode, number.value) == ("scale", 0.0), (name, mode)


def test_a_row_comes_back_from_its_text() -> None:
    (number,) = parse_numbers(json.loads(json.dumps({"log_every": ROW}))).values()
    assert number.as_data() == ROW
    assert (number.spec.low, number.spec.high) == (0.0, inf)


@pytest.mark.parametrize(("low", "high"), [(-inf, inf), (np.float32(0), np.float32(2)), (np.float64(-inf), 10)])
def test_numbers_without_limits_and_those_of_numpy_are_told_in_json(low: float, high: float) -> None:
    number = Number(HyperParameter(HALF, low, high, whole=WHOLE), np.float64(1), "held", ("hold",))
    (read,) = parse_numbers(json.loads(json.dumps({"mine": number.as_data()}, allow_nan=False))).values()
    assert read == number


@pytest.mark.parametrize("value", [nan, inf])
def test_a_value_that_is_not_finite_is_left_out(value: float) -> None:
    number = Number(HyperParameter(0.5, 0.0, 1.0), value, "held", ("hold",))
    text = json.dumps({"mine": number.as_data(), "log_every": ROW}, allow_nan=False)
    assert list(parse_numbers(json.loads(text))) == ["log_every"]


def test_a_run_tells_what_an_objective_declares_in_numpy_and_without_a_limit(
    make_trainer: MakeTrainer, make_model: Callable[..., JEPA], loader: MemoryLoader
) -> None:
    objective = StatePair(make_model())
    objective.hyper_parameters = {**objective.hyper_parameters, "own": HyperParameter(HALF, 0.0, inf)}
    trainer = make_trainer(objective, run="numpy")
    trainer.train(loader, max_steps=1)
    assert trainer.run is not None
    assert "Infinity" not in trainer.run.status_path.read_text()
    assert jepa.attach(trainer.run.path).numbers()["own"] == trainer.numbers()["own"]


@pytest.mark.parametrize(
    "change",
    [
        {"value": "2"}, {"value": True}, {"value": nan}, {"value": None}, {"high": 10**400}, {"low": "0"}, {"unit": 3},
        {"modes": []}, {"modes": ["soft"]}, {"modes": [["hold"]]}, {"modes": "hold"}, {"course": None}, {"more": 1},
    ],
)  # fmt: skip
def test_a_row_that_no_run_has_written_is_left_out(change: dict[str, Any]) -> None:
    assert list(parse_numbers({"log_every": {**ROW, **change}, "other": ROW, "list": []})) == ["other"]


def test_texts_that_are_too_long_are_cut() -> None:
    (number,) = parse_numbers({"own": {**ROW, "unit": "x" * (LONGEST + 1), "course": "y" * LONGEST}}).values()
    assert (number.spec.unit, number.course) == ("x" * LONGEST, "y" * LONGEST)


@pytest.mark.parametrize("data", [None, [], "log_every", {str(number): ROW for number in range(MOST + 1)}])
def test_what_is_no_mapping_or_too_large_is_refused(data: object) -> None:
    with pytest.raises(ValueError, match="numbers are a mapping of at most 100 names"):
        parse_numbers(data)
