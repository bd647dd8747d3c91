"""What may be changed in a run, told to another process: it comes back as it was, or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

import jepa
from jepa.data import MemoryLoader
from jepa.trainer import JEPATrainer
from jepa.trainer.numbers import MOST, parse_numbers

MakeTrainer = Callable[..., JEPATrainer]
ROW = {
    "default": 1.0, "low": 0.0, "high": math.inf, "unit": "steps", "whole": True, "value": 2.0, "course": "held",
    "modes": ["hold"],
}  # fmt: skip


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


@pytest.mark.parametrize(
    "change",
    [
        {"value": "2"}, {"value": True}, {"value": math.nan}, {"low": None}, {"unit": 3}, {"unit": "x" * 201},
        {"modes": []}, {"modes": ["soft"]}, {"modes": [["hold"]]}, {"modes": "hold"}, {"course": None}, {"more": 1},
    ],
)  # fmt: skip
def test_what_no_run_has_written_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected a|modes must be|a number has the fields"):
        parse_numbers({"log_every": {**ROW, **change}})


@pytest.mark.parametrize("data", [None, [], "log_every", {str(number): ROW for number in range(MOST + 1)}])
def test_what_is_no_mapping_or_too_large_is_refused(data: object) -> None:
    with pytest.raises(ValueError, match="numbers are a mapping of at most 100 names"):
        parse_numbers(data)
