"""From a configuration to loaders and model."""

from __future__ import annotations

from typing import Any

from torch.utils.data import TensorDataset

from jepa.config import DataConfig, RunConfig
from jepa.data import digits, load_data, make_loader, pendulum_pairs
from jepa.models import JEPA, build
from jepa.objectives import Objective, build_objective
from jepa.trainer.utils import create_data_splits, setup_reproducibility


def make_data(config: DataConfig) -> Any:
    """The data set that a configuration names."""
    if config.name == "digits":
        return digits("train")
    if config.name == "pendulum":
        return pendulum_pairs(config.num_steps, cache=config.cache)
    return load_data(config.name)


def make_loaders(config: DataConfig, seed: int) -> tuple[Any, Any]:
    """Training and validation loaders; the latter is `None` where no share is kept for it."""
    dataset = make_data(config)
    if config.val_fraction == 0:
        return make_loader(dataset, batch_size=config.batch_size, drop_last=config.drop_last), None
    train, val, _ = create_data_splits(dataset, 1 - config.val_fraction, config.val_fraction, 0.0, seed=seed)
    parts: list[Any] = [train, val]
    if isinstance(dataset, TensorDataset):
        parts = [TensorDataset(*(tensor[part.indices] for tensor in dataset.tensors)) for part in parts]
    return (
        make_loader(parts[0], batch_size=config.batch_size, drop_last=config.drop_last),
        make_loader(parts[1], batch_size=config.batch_size, shuffle=False),
    )


def make_objective(config: RunConfig) -> Objective:
    """Model and objective, initialised from the run's seed."""
    setup_reproducibility(config.trainer.seed)
    encoder = build(config.model.encoder)
    predictor = None if config.model.predictor is None else build(config.model.predictor)
    model = JEPA(encoder, predictor, config.model.target)  # type: ignore[arg-type]
    return build_objective(config.objective, model, config.objective_options)
