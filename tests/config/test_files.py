"""Configuration files: strict where people err, and commented where they begin."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jepa.config import (
    DataConfig,
    Experiment,
    ModelConfig,
    RunConfig,
    TrainerConfig,
    experiment_text,
    generate_config,
    load_config,
    load_experiment,
    preset,
    save_config,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "train.yaml"


def loaded(path: Path, text: str, *overrides: str) -> RunConfig:
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides)


def test_what_is_not_given_has_its_default(path: Path) -> None:
    assert loaded(path, "num_epochs: 3") == RunConfig(num_epochs=3)
    config = loaded(path, "trainer: {seed: 5}\ndata: {name: pendulum}")
    assert config.trainer == TrainerConfig(seed=5)
    assert config.data == DataConfig(name="pendulum")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("5E-4", 0.0005), ("1.5e+2", 150.0), ("1", 1.0), ("0.25", 0.25), (".5", 0.5), ("+1e-3", 0.001)],
)
def test_numbers_are_read_as_people_write_them(path: Path, text: str, value: float) -> None:
    rate = loaded(path, f"trainer: {{learning_rate: {text}}}").trainer.learning_rate
    assert rate == value
    assert isinstance(rate, float)


def test_values_have_the_types_of_their_fields(path: Path) -> None:
    text = """
    trainer: {betas: [0.8, 1e-1], clip_grad_norm: null, early_stopping: 3, progress: false, monitor: loss}
    run: null
    max_steps: 5
    """
    config = loaded(path, text)
    assert config.trainer.betas == (0.8, 0.1)
    assert config.trainer.clip_grad_norm is None
    assert (config.trainer.early_stopping, config.trainer.progress, config.trainer.monitor) == (3, False, "loss")
    assert (config.run, config.max_steps, config.trainer.compile) == (None, 5, False)
    assert loaded(path, "trainer: {progress: auto}").trainer.progress == "auto"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_epoch: 3", r"unknown key 'num_epoch'; did you mean 'num_epochs'\?"),
        ("trainer: {learning_rat: 1}", r"unknown key 'trainer.learning_rat'; did you mean 'trainer.learning_rate'\?"),
        ("data: {batchsize: 1}", r"unknown key 'data.batchsize'; did you mean 'data.batch_size'\?"),
        ("model: {encodr: {}}", r"unknown key 'model.encodr'; did you mean 'model.encoder'\?"),
        ("xyz: 1", r"unknown key 'xyz'; known: data, max_steps, model"),
        ("1: 2", "unknown key '1'; known: "),
    ],
)
def test_an_unknown_key_names_the_nearest(path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"train.yaml: {message}"):
        loaded(path, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_epochs: ten", "num_epochs must be int, got 'ten'"),
        ("num_epochs: 1.5", "num_epochs must be int, got 1.5"),
        ("num_epochs: true", "num_epochs must be int, got True"),
        ("num_epochs: null", "num_epochs must be int, got None"),
        ("objective: 3", "objective must be str, got 3"),
        ("max_steps: many", r"max_steps must be int \| None, got 'many'"),
        ("trainer: {learning_rate: fast}", "trainer.learning_rate must be float, got 'fast'"),
        ("trainer: {learning_rate: true}", "trainer.learning_rate must be float, got True"),
        ("trainer: {compile: 1}", "trainer.compile must be bool, got 1"),
        ("trainer: {precision: fp16}", r"trainer.precision must be Literal\['fp32', 'bf16'\], got 'fp16'"),
        ("trainer: {progress: 3}", r"trainer.progress must be bool \| Literal\['auto'\], got 3"),
        ("trainer: {betas: [0.9]}", r"trainer.betas must be tuple\[float, float\], got \[0.9\]"),
        ("trainer: {betas: [0.9, a]}", "trainer.betas must be float, got 'a'"),
        ("trainer: 3", "trainer must be a section, got 3"),
        ("trainer:", "trainer must be a section, got None"),
        ("model: {encoder: Encoder}", "model.encoder must be a mapping, got 'Encoder'"),
        ("objective_options: [1]", r"objective_options must be a mapping, got \[1\]"),
    ],
)
def test_a_value_of_a_wrong_type_names_key_type_and_value(path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"train.yaml: {message}"):
        loaded(path, text)


def test_a_value_out_of_range_names_section_and_file(path: Path) -> None:
    with pytest.raises(ValueError, match=r"train.yaml: trainer: learning_rate must lie in \[0, 1000\], got -1"):
        loaded(path, "trainer: {learning_rate: -1}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_epochs: 1\ndata: {}\nnum_epochs: 2", "num_epochs is given twice"),
        ("trainer:\n  seed: 1\n  seed: 1", "seed is given twice"),
        ("model: {encoder: {type: Encoder, depth: 1, depth: 2}}", "depth is given twice"),
        ("trainer: [1", "is not valid YAML: "),
        ("a: b: c", "is not valid YAML: "),
        ("run: !!python/object/apply:os.getcwd []", "is not valid YAML: .*python/object"),
        ("? [1]\n: 2\n? [1]\n: 3", "is not valid YAML: "),
        ("- 1", "must hold a mapping, got list"),
        ("", "must hold a mapping, got NoneType"),
    ],
)
def test_a_file_that_is_no_strict_yaml_is_refused(path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s)train.yaml.*{message}"):
        loaded(path, text)


def test_a_file_that_is_no_text_is_refused(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x00")
    with pytest.raises(ValueError, match=r"train.yaml is not valid YAML"):
        load_config(path)


def test_a_missing_file_says_how_to_write_one(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no configuration at .*generate-config --output .*train.yaml"):
        load_config(path)
    with pytest.raises(FileNotFoundError):
        load_config(path.parent)


def test_overrides_win_over_the_file(path: Path) -> None:
    config = loaded(
        path,
        "num_epochs: 3\ntrainer: {seed: 1, log_every: 7}",
        "num_epochs=4",
        "trainer.learning_rate=1e-2",
        "trainer.seed=2",
        "trainer.betas=[0.5, 0.6]",
        "model.encoder.type=Encoder",
        "objective_options.num_targets=3",
        "run=a=b",
        "run=",
    )
    assert config.num_epochs == 4
    assert config.trainer == TrainerConfig(seed=2, log_every=7, learning_rate=0.01, betas=(0.5, 0.6))
    assert config.model.encoder == {"type": "Encoder"}
    assert config.objective_options == {"num_targets": 3}
    assert config.run is None
    assert loaded(path, "{}", "run=a=b").run == "a=b"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("num_epochs", "expected key=value, such as trainer.learning_rate=1e-3, got 'num_epochs'"),
        ("num_epoch=3", "unknown key 'num_epoch'; did you mean 'num_epochs'"),
        ("trainer.sed=3", "unknown key 'trainer.sed'; did you mean 'trainer.seed'"),
        ("num_epochs.x=3", "num_epochs.x: num_epochs is not a section"),
        ("num_epochs=two", "num_epochs must be int, got 'two'"),
        ("trainer.betas=[0.9", r"trainer.betas: '\[0.9' is not valid YAML"),
        ("=3", "unknown key ''"),
    ],
)
def test_a_wrong_override_is_refused(path: Path, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loaded(path, "num_epochs: 3", override)


configs = st.builds(
    RunConfig,
    run=st.none() | st.sampled_from(["name", "null", "1e-3", "yes", "2024-01-01", "ü: # '\""]),
    num_epochs=st.integers(1, 10**6),
    max_steps=st.none() | st.integers(1),
    objective_options=st.dictionaries(st.sampled_from(["a", "b"]), st.lists(st.floats(0, 1)) | st.booleans()),
    data=st.builds(DataConfig, batch_size=st.integers(1), cache=st.none() | st.just("a b.npz")),
    model=st.builds(ModelConfig, encoder=st.just({"type": "Encoder", "tokenizer": {"image_size": [8, 8]}})),
    trainer=st.builds(
        TrainerConfig,
        learning_rate=st.floats(0, 1000),
        betas=st.tuples(st.floats(0, 1), st.floats(0, 1)),
        clip_grad_norm=st.none() | st.floats(1e-300, 1e300),
        precision=st.sampled_from(["fp32", "bf16"]),
        progress=st.sampled_from([True, False, "auto"]),
        seed=st.integers(),
    ),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=configs)
def test_what_is_saved_is_read_back(path: Path, config: RunConfig) -> None:
    save_config(config, path)
    assert load_config(path) == config


def keys(config: Any) -> list[str]:
    """All field names, sections included, in order."""
    found = []
    for field in fields(config):
        value = getattr(config, field.name)
        found += [field.name, *keys(value)] if is_dataclass(value) else [field.name]
    return found


def test_how_a_run_was_made_is_read_back(tmp_path: Path) -> None:
    config = RunConfig(data=DataConfig(name="a.npy", options={"size": (8, 8)}), max_steps=3)
    (tmp_path / "experiment.yaml").write_text(experiment_text(Experiment(world_size=2, device="cpu", config=config)))
    found = load_experiment(tmp_path)
    assert (found.world_size, found.device) == (2, "cpu")
    assert found.config.data.options == {"size": [8, 8]}
    assert replace(found.config, data=config.data) == config


def test_a_run_that_was_made_otherwise_says_nothing_of_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"experiment.yaml"):
        load_experiment(tmp_path)


@pytest.mark.parametrize("kind", ["state_pair", "ijepa"])
def test_a_generated_configuration_is_complete_commented_and_loadable(path: Path, kind: str) -> None:
    text = generate_config(kind)
    assert loaded(path, text) == preset(kind)
    lines = [line.strip() for line in text.splitlines()]
    written = [line.split(":")[0] for line in lines if not line.startswith("#")]
    assert written == keys(preset(kind))
    for before, line in zip(["", *lines], lines, strict=False):
        assert line.startswith("#") or before.startswith("# "), f"{line} has no comment"
    assert "# Peak learning rate, reached after the warm-up." in lines
    assert all(ord(letter) < 128 for letter in text), "an editor in another encoding would show it wrongly"


def test_the_two_examples_train_their_own_objectives() -> None:
    assert yaml.safe_load(generate_config())["data"]["name"] == "pendulum"
    assert yaml.safe_load(generate_config("ijepa"))["objective"] == "ijepa"


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown preset 'i-jepa'; did you mean 'ijepa'"):
        generate_config("i-jepa")


def test_saving_replaces_a_file_as_a_whole(path: Path) -> None:
    save_config(RunConfig(), path)
    save_config(replace(RunConfig(), num_epochs=2), path)
    assert load_config(path).num_epochs == 2
    assert list(path.parent.iterdir()) == [path]


def test_what_the_trainer_section_leaves_out_can_come_from_the_objective(path: Path) -> None:
    path.write_text("objective: ijepa\ntrainer: {weight_decay: 0.2}\n", encoding="utf-8")
    asked: list[str] = []

    def defaults(name: str) -> dict[str, Any]:
        asked.append(name)
        return {"weight_decay": 0.04, "betas": (0.9, 0.999), "clip_grad_norm": None}

    trainer = load_config(path, ["trainer.seed=3"], trainer_defaults=defaults).trainer
    assert asked == ["ijepa"]
    assert trainer == TrainerConfig(weight_decay=0.2, betas=(0.9, 0.999), clip_grad_norm=None, seed=3)
