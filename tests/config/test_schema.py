"""Limits of the options of a run, and errors that name the nearest known name."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from jepa.config import DataConfig, TrainerConfig
from jepa.config.schema import ALIASES, ELSEWHERE, unknown_key_error


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("learning_rate", 0, 1000),
        ("final_learning_rate_fraction", 0, 1),
        ("warmup_fraction", 0, 1),
        ("weight_decay", 0, 1000),
        ("ema_momentum", 0, 1),
        ("final_ema_momentum", 0, 1),
        ("diagnostics_budget", 0, 1),
        ("accumulate", 1, 10**6),
        ("log_every", 1, 10**9),
        ("eval_every", 1, 10**9),
        ("checkpoint_every", 1, 10**9),
        ("keep_checkpoints", 1, 10**9),
    ],
)
def test_limits_are_allowed_and_nothing_beyond_them(name: str, low: float, high: float) -> None:
    for value in (low, high):
        assert getattr(TrainerConfig(**{name: value}), name) == value  # type: ignore[arg-type]
    for wrong in (low - 0.001, high * 1.001, float("nan"), "a lot", None):
        with pytest.raises(ValueError, match=re.escape(f"{name} must lie in [{low:g}, {high:g}], got {wrong!r}")):
            TrainerConfig(**{name: wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("precision", "fp16"), ("monitor", "accuracy"), ("scheduler_interval", "batch"), ("progress", "on")],
)
def test_choices_are_named_when_another_is_given(name: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be one of \(.*\), got '{wrong}'"):
        TrainerConfig(**{name: wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["clip_grad_norm", "early_stopping"])
def test_switches_are_positive_or_none(name: str) -> None:
    assert getattr(TrainerConfig(**{name: None}), name) is None  # type: ignore[arg-type]
    assert getattr(TrainerConfig(**{name: 1}), name) == 1  # type: ignore[arg-type]
    kind = "whole number" if name == "early_stopping" else "number"
    for wrong in (0, -1, float("nan"), "3", [3], True):
        with pytest.raises(ValueError, match=re.escape(f"{name} must be a positive {kind} or None, got {wrong!r}")):
            TrainerConfig(**{name: wrong})  # type: ignore[arg-type]


def test_patience_is_a_whole_number_and_a_largest_norm_need_not_be() -> None:
    assert TrainerConfig(clip_grad_norm=0.5).clip_grad_norm == 0.5
    with pytest.raises(ValueError, match=r"early_stopping must be a positive whole number or None, got 2\.5"):
        TrainerConfig(early_stopping=2.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"val_fraction": 1}, r"val_fraction must lie in \[0, 1\), got 1"),
        ({"val_fraction": -0.1}, r"val_fraction must lie in \[0, 1\), got -0.1"),
    ],
)
def test_data_has_limits_too(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**options)


def test_a_change_gives_a_checked_copy() -> None:
    config = TrainerConfig(seed=3)
    changed = config.updated({"learning_rate": 0.5})
    assert (changed.learning_rate, changed.seed, config.learning_rate) == (0.5, 3, 1e-3)
    with pytest.raises(ValueError, match="learning_rate must lie"):
        config.updated({"learning_rate": -1})
    with pytest.raises(ValueError, match="unknown training option 'learning_rat'; did you mean 'learning_rate'"):
        config.updated({"learning_rat": 1})


def test_a_configuration_cannot_be_changed_in_place() -> None:
    with pytest.raises(FrozenInstanceError):
        TrainerConfig().seed = 4  # type: ignore[misc]


@pytest.mark.parametrize("name", [field.name for field in fields(TrainerConfig)])
def test_a_name_with_a_typing_mistake_is_recognised(name: str) -> None:
    mistaken = name[:2] + name[3:]
    assert str(unknown_key_error(mistaken, [field.name for field in fields(TrainerConfig)], "option")) == (
        f"unknown option {mistaken!r}; did you mean {name!r}?"
    )


def test_a_name_like_no_other_lists_what_there_is() -> None:
    assert str(unknown_key_error("xyz", ["beta", "alpha"], "key")) == "unknown key 'xyz'; known: alpha, beta"


@pytest.mark.parametrize("name", ["accumulate", "log_every", "checkpoint_every", "seed"])
def test_counts_are_whole_numbers(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be a whole number, got 1\.5"):
        TrainerConfig(**{name: 1.5})  # type: ignore[arg-type]


def test_other_names_lead_to_options_that_there_are() -> None:
    options = {field.name for field in fields(TrainerConfig)}
    assert set(ALIASES.values()) <= options
    assert not options & (ALIASES.keys() | ELSEWHERE.keys())
    for name, meant in ALIASES.items():
        with pytest.raises(ValueError, match=f"unknown training option {name!r}; did you mean {meant!r}"):
            TrainerConfig().updated({name: 1})
