"""From a configuration, or the name of a preset, to a trainer, and from a trained model to what it is worth.

What the command line, the presets and the notebooks share.

Axes: N training samples, M test samples, D features, S numbers in a state.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor
from torch.utils.data import TensorDataset

from jepa.config import DataConfig, Experiment, RunConfig, TrainerConfig, experiment_text, preset
from jepa.config.files import EXPERIMENT
from jepa.data import (
    SeriesWindows,
    digits,
    load_data,
    make_loader,
    minari_trajectories,
    pendulum_pairs,
    pendulum_pixels,
    series,
    trajectories,
)
from jepa.data.bundled import SERIES
from jepa.data.datasets import TABLE_SUFFIXES, adapt
from jepa.diagnostics import effective_rank, linear_probe, regression_probe
from jepa.models import JEPA, build
from jepa.objectives import Objective, build_objective
from jepa.trainer import JEPATrainer, create_trainer
from jepa.trainer.utils import create_data_splits, setup_reproducibility

NAMES = ("digits", "pendulum", "pendulum_pixels", *SERIES)
UNSEEN_SEED = 1  # added to the seed that training simulates with, 0 unless given
STATES = {"pendulum_pixels": ("cosine", "sine", "angular velocity")}
"""Names of the numbers in the states that come with simulated data."""

Scores = dict[str, float]


class Labelled(NamedTuple):
    """Inputs of an encoder and what to read off their embeddings.

    Attributes:
        inputs: (N, ...), what the encoder takes.
        answers: (N,) integer labels, or (N, S) states.
    """

    inputs: Tensor
    answers: Tensor


def make_data(config: DataConfig, *, unseen: bool = False) -> Any:
    """The data set that a configuration names.

    Args:
        config: Its name and options.
        unseen: What training does not see of it: the published test part, or a simulation with another seed; all of
            the user's own files.
    """
    name, options, part = config.name, dict(config.options), "test" if unseen else "train"
    kind, _, argument = name.partition(":")
    other: dict[str, Any] = {} if unseen else {"cache": config.cache}
    if unseen and (name.startswith("pendulum") or kind == "gymnasium"):
        options["seed"] = options.get("seed", 0) + UNSEEN_SEED
    if name == "digits":
        return adapt(digits, part, options)
    if name == "pendulum":
        return adapt(pendulum_pairs, config.num_steps, {**other, **options})
    if name == "pendulum_pixels":
        return _pendulum_pixels(config, options, unseen)
    if name in SERIES:
        return adapt(series, name, options, part)
    if kind == "gymnasium":
        steps = {} if "num_episodes" in options else {"num_steps": config.num_steps}
        return adapt(trajectories, argument, {**other, **steps, **options})
    if kind == "minari":
        return adapt(minari_trajectories, argument, options)
    if Path(name).suffix.lower() in TABLE_SUFFIXES:
        options["memory"] = 0  # windows of a table are split in time before they are taken into memory
    try:
        dataset = load_data(name, **options)
    except FileNotFoundError as error:
        near = difflib.get_close_matches(name, NAMES, n=1)
        if not near or Path(name).exists():
            raise
        raise FileNotFoundError(f"{error}; did you mean the data set {near[0]!r}?") from error
    return dataset.normalised() if unseen and isinstance(dataset, SeriesWindows) else dataset


def _pendulum_pixels(config: DataConfig, options: dict[str, Any], unseen: bool) -> Any:
    """The unseen part is a third as long, and rendering takes so long that it has a cache of its own."""
    if not unseen:
        return adapt(pendulum_pixels, config.num_steps, {"cache": config.cache, **options})
    cache = None if config.cache is None else Path(config.cache).with_suffix(".unseen.npz")
    return adapt(pendulum_pixels, -(-config.num_steps // 3), {"cache": cache, **options})


def make_loaders(config: DataConfig, seed: int) -> tuple[Any, Any]:
    """Training and validation loaders; the latter is `None` where no share is kept for it."""
    dataset = make_data(config)
    if config.val_fraction == 0:
        dataset = dataset.normalised() if isinstance(dataset, SeriesWindows) else dataset
        return make_loader(dataset, batch_size=config.batch_size, drop_last=config.drop_last), None
    train, val = _split(dataset, config.val_fraction, seed)
    return (
        make_loader(train, batch_size=config.batch_size, drop_last=config.drop_last),
        make_loader(val, batch_size=config.batch_size, shuffle=False),
    )


def _split(dataset: Any, val_fraction: float, seed: int) -> tuple[Any, Any]:
    """At random; windows of a table in time, so that none overlaps with one of the other part."""
    if isinstance(dataset, SeriesWindows):
        return dataset.split(1 - val_fraction)
    train, val, _ = create_data_splits(dataset, 1 - val_fraction, val_fraction, 0.0, seed=seed)
    if isinstance(dataset, TensorDataset):
        train, val = (TensorDataset(*(each[part.indices] for each in dataset.tensors)) for part in (train, val))
    return train, val


def make_objective(config: RunConfig) -> Objective:
    """Model and objective, initialised from the run's seed."""
    setup_reproducibility(config.trainer.seed)
    encoder = build(config.model.encoder)
    predictor = None if config.model.predictor is None else build(config.model.predictor)
    model = JEPA(encoder, predictor, config.model.target)  # type: ignore[arg-type]
    return build_objective(config.objective, model, config.objective_options)


def make_trainer(config: RunConfig | str, **options: Any) -> tuple[JEPATrainer, Any]:
    """The trainer of a configuration, and the loader to train it on: `trainer.train(loader, config.num_epochs)`.

    The run folder keeps the configuration as `experiment.yaml`, so that `python -m jepa.cli resume` can go on with it,
    unless something in `options` is in no configuration (callbacks, validation data, another objective).

    Args:
        config: A configuration, or the name of a preset.
        **options: Of `create_trainer`, such as `run=False` or `device="cpu"`; fields of `TrainerConfig` change the
            configuration.

    Raises:
        ValueError: The preset is unknown, or something in the configuration does not fit.
    """
    config = preset(config) if isinstance(config, str) else config
    changes = {field.name: options.pop(field.name) for field in fields(TrainerConfig) if field.name in options}
    config = replace(config, trainer=options.pop("config", config.trainer).updated(changes))
    train_loader, val_loader = make_loaders(config.data, config.trainer.seed)
    chosen = {"run": config.run, "val_loader": val_loader, "config": config.trainer, **options}
    trainer = create_trainer(make_objective(config), **chosen)
    if trainer.run is not None:
        trainer.run.files |= _record(trainer, replace(config, run=trainer.run.name), options)
    return trainer, train_loader


def _record(trainer: JEPATrainer, config: RunConfig, options: Mapping[str, Any]) -> dict[str, str]:
    """The file from which the trainer can be made again; none where no file can say all of it."""
    if options.keys() & {"callbacks", "val_loader", "objective", "objective_options"}:
        return {}
    device = str(options.get("device", "auto"))
    with suppress(yaml.YAMLError):  # a configuration made by hand may hold values that no file can
        return {EXPERIMENT: experiment_text(Experiment(world_size=trainer.world_size, device=device, config=config))}
    return {}


def probe_scores(config: RunConfig | str, model: JEPA) -> dict[str, Scores]:
    """How much can be read off a trained encoder, beside what could be had without training.

    Linear probes are fitted to the training part of the data and scored on its test part, which training never saw.
    The target encoder is used, as the papers do; it is the encoder itself where there is no moving average.

    Args:
        config: The configuration that the model was trained with, or the name of the preset.
        model: The trained model.

    Returns:
        For `"raw input"`, `"PCA"` (of the raw input, to the width of the embeddings), `"untrained encoder"` (from the
        same seed) and `"trained encoder"` the `"accuracy"` in percent, or R² for each number of the state, and the
        `"effective rank"` on the test part.

    Raises:
        ValueError: The data has neither labels nor states.
    """
    config = preset(config) if isinstance(config, str) else config
    train, test = probe_data(config.data)
    embeddings = _embed(model, train), _embed(model, test)
    untrained = make_objective(config).model
    raw = train.inputs.flatten(1).double(), test.inputs.flatten(1).double()
    features = {
        "raw input": raw,
        "PCA": principal_components(*raw, embeddings[0].shape[1]),
        "untrained encoder": (_embed(untrained, train), _embed(untrained, test)),
        "trained encoder": embeddings,
    }
    names = STATES.get(config.data.name, ())
    return {name: score(*parts, train.answers, test.answers, names) for name, parts in features.items()}


def probe_data(config: DataConfig) -> tuple[Labelled, Labelled]:
    """Training and test part of the named data, with their labels or states.

    Raises:
        ValueError: There are none.
    """
    if config.options.get("layout") in ("pairs", "trajectories"):  # of observations whose states are known
        config = replace(config, options={**config.options, "layout": "states"})
    parts = [getattr(make_data(config, unseen=unseen), "tensors", ()) for unseen in (False, True)]
    states = config.name in STATES
    if any(len(part) != 2 or part[1].ndim != 1 + states for part in parts):
        raise ValueError(
            f"a probe needs samples with labels, such as 'digits' or 'japanese_vowels' have, or with the states of "
            f"{', '.join(map(repr, STATES))}; got the data {config.name!r}"
        )
    return Labelled(*parts[0]), Labelled(*parts[1])


def score(train_x: Tensor, test_x: Tensor, train_y: Tensor, test_y: Tensor, states: tuple[str, ...] = ()) -> Scores:
    """What a linear probe reads off features.

    Args:
        train_x: (N, D).
        test_x: (M, D).
        train_y: (N,) labels, or (N, S) states.
        test_y: (M,) or (M, S).
        states: Names of the S numbers.

    Returns:
        `"accuracy"` in percent, or R² by name, and the `"effective rank"` of the test features.
    """
    rank = {"effective rank": float(effective_rank(test_x))}
    if train_y.ndim == 1:
        return {"accuracy": 100 * linear_probe(train_x, train_y, test_x, test_y), **rank}
    explained = regression_probe(train_x, train_y, test_x, test_y).tolist()
    return {**dict(zip(states, explained, strict=True)), **rank}


def principal_components(train: Tensor, test: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Both parts on the first principal components of the training part.

    Args:
        train: (N, D).
        test: (M, D).
        width: Components, at most; fewer where the training part does not vary in as many directions.

    Returns:
        (N, width) and (M, width).
    """
    mean = train.mean(0)
    values, directions = torch.linalg.eigh((train - mean).T @ (train - mean))
    varied = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    directions = directions[:, varied].flip(1)[:, :width]
    return (train - mean) @ directions, (test - mean) @ directions


def _embed(model: JEPA, part: Labelled) -> Tensor:
    return model.embed(part.inputs, which="target", batch_size=512).cpu()
