"""Presets by name: complete, buildable, written as YAML and read back the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import jepa
from jepa.config import RunConfig, TrainerConfig, generate_config, load_config
from jepa.config.presets import PRESETS, SHORT_NAMES, preset
from jepa.models import build
from jepa.objectives import get_objective


@pytest.mark.parametrize("name", PRESETS)
def test_a_name_says_data_and_objective(name: str) -> None:
    data, _, objective = name.rpartition("-")
    assert PRESETS[name].data.name == data
    assert PRESETS[name].objective == objective
    get_objective(objective)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_its_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(generate_config(name), encoding="utf-8")
    assert load_config(path) == PRESETS[name]
    # the paper's options fill in nothing, since everything is stated
    assert load_config(path, trainer_defaults=lambda objective: get_objective(objective).paper) == PRESETS[name]


@pytest.mark.parametrize("name", PRESETS)
def test_encoder_and_predictor_are_built_in_and_fit_each_other(name: str) -> None:
    model = PRESETS[name].model
    predictor = None if model.predictor is None else build(model.predictor)
    jepa.JEPA(build(model.encoder), predictor, model.target)  # type: ignore[arg-type]


def test_presets_are_found_by_full_and_by_short_names() -> None:
    assert jepa.preset("digits-ijepa") is PRESETS["digits-ijepa"]
    assert set(SHORT_NAMES.values()) <= set(PRESETS)
    for short, full in SHORT_NAMES.items():
        assert preset(short) is PRESETS[full]


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown preset 'digit-ijepa'; did you mean 'digits-ijepa'\?"):
        preset("digit-ijepa")
    with pytest.raises(ValueError, match="unknown preset 'xyz'; known: "):
        preset("xyz")


def test_training_options_can_be_changed_by_name_in_a_copy() -> None:
    changed = preset("digits-ijepa", seed=3, learning_rate=5e-4)
    assert (changed.trainer.seed, changed.trainer.learning_rate) == (3, 5e-4)
    assert changed == RunConfig(
        objective=changed.objective,
        objective_options=changed.objective_options,
        num_epochs=changed.num_epochs,
        data=changed.data,
        model=changed.model,
        trainer=PRESETS["digits-ijepa"].trainer.updated({"seed": 3, "learning_rate": 5e-4}),
    )
    assert PRESETS["digits-ijepa"].trainer.seed == TrainerConfig().seed
    with pytest.raises(ValueError, match=r"unknown training option 'learning_rat'; did you mean 'learning_rate'\?"):
        preset("digits-ijepa", learning_rat=1.0)


def test_importing_the_presets_imports_no_data_library() -> None:
    code = "import sys, jepa; jepa.preset('ijepa'); print(sorted({'sklearn', 'aeon', 'gymnasium'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
