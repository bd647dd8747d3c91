"""What a run from the command line is made of: data, model, objective, training. One YAML file, strictly read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jepa.config.schema import TrainerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Where the data comes from.

    Args:
        name: `"digits"`, `"pendulum"`, `"pendulum_pixels"`, a series (`"basic_motions"`, `"japanese_vowels"`, ...),
            `"gymnasium:ENVIRONMENT"`, `"minari:DATASET"`, or the path of arrays, a table, a video, or a folder of
            images or videos.
        batch_size: Samples a batch, per process.
        drop_last: Leave out the last batch where it is smaller.
        num_steps: Steps to simulate; only for data that are.
        cache: File that keeps what was simulated.
        options: Arguments for that kind of data, such as `size` of images or `length` of series.
        val_fraction: Share of the data kept for validation; 0 for none.
    """

    name: str = "digits"
    batch_size: int = 64
    drop_last: bool = True
    num_steps: int = 10_000
    cache: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    val_fraction: float = 0.1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"val_fraction must lie in [0, 1), got {self.val_fraction}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The model, by registered names.

    Args:
        encoder: `type` and arguments of the encoder.
        predictor: `type` and arguments of the predictor; `None` for methods without one.
        target: `"ema"`, `"stop_gradient"` or `"shared"`.
    """

    encoder: Mapping[str, Any] = field(default_factory=lambda: {"type": "Encoder", "hidden_dim": 64})
    predictor: Mapping[str, Any] | None = field(default_factory=lambda: {"type": "Predictor", "hidden_dim": 64})
    target: str = "ema"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """One run.

    Args:
        run: Name of the run, or a path; `None` makes a new one each time. A named run that exists is continued.
        objective: Name of the objective.
        objective_options: Its arguments.
        num_epochs: Passes over the data, in all.
        max_steps: Optimizer updates, in all; `None` for no other limit than the epochs.
        data: Where the data comes from.
        model: The model.
        trainer: How to train.
    """

    run: str | None = None
    objective: str = "state_pair"
    objective_options: Mapping[str, Any] = field(default_factory=dict)
    num_epochs: int = 10
    max_steps: int | None = None
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """What a run folder keeps as `experiment.yaml`: a configuration, and how its run was started.

    Args:
        world_size: Processes that train together.
        device: As it was asked for; `"auto"` takes the best there is.
        config: The configuration, after overrides.
    """

    world_size: int = 1
    device: str = "auto"
    config: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        if self.world_size < 1:
            raise ValueError(f"world_size must be at least 1, got {self.world_size}")
