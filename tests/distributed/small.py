"""What ranks train in these tests, and how they say what they saw: one JSON file a rank."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from jepa import distributed
from jepa.data import MemoryLoader
from jepa.models import JEPA, Encoder, ImageTokenizer, Predictor
from jepa.models.predictor import MaskedPredictor
from jepa.trainer import Callback, JEPATrainer, TrainerConfig, create_trainer
from jepa.trainer.utils import setup_reproducibility

torch.set_num_threads(1)
OBJECTIVES = ("state_pair", "ijepa")


def model(objective: str, seed: int = 0) -> JEPA:
    """The same weights for the same seed."""
    setup_reproducibility(seed)
    if objective == "ijepa":
        tokenizer = ImageTokenizer(8, 2)
        return JEPA(Encoder(8, depth=1, tokenizer=tokenizer), MaskedPredictor(8, tokenizer.grid, depth=1))
    return JEPA(Encoder(8, 4, depth=1), Predictor(8, depth=1))


def arrays(objective: str, dtype: torch.dtype = torch.float32, count: int = 48) -> tuple[torch.Tensor, ...]:
    """Samples of the objective's layout."""
    generator = torch.Generator().manual_seed(7)
    if objective == "ijepa":
        return (torch.rand(count, 1, 8, 8, generator=generator, dtype=torch.float64).to(dtype),)
    states = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    return states.to(dtype), states.roll(1, 1).to(dtype)


def trainer(objective: str = "state_pair", dtype: torch.dtype = torch.float32, **options: Any) -> JEPATrainer:
    """Quiet, on the CPU, a record every step."""
    quiet = {"live_plot": False, "control_panel": False, "progress": False, "device": "cpu", "log_every": 1}
    return create_trainer(model(objective).to(dtype), objective, **{"run": False, **quiet, **options})


def parity(objective: str, dtype: torch.dtype, batch_size: int) -> dict[str, Any]:
    """40 steps over 42 samples, whose last global batch is smaller, with validation after every epoch."""
    data = arrays(objective, dtype, 42)
    val = MemoryLoader(*arrays(objective, dtype, 24), batch_size=batch_size, shuffle=False)
    one = trainer(objective, dtype, val_loader=val)
    history = one.train(MemoryLoader(*data, batch_size=batch_size), max_steps=40)
    columns = ("loss", "prediction", "variance", "covariance", "grad_norm", "epoch_loss", "val_loss", "val_prediction")
    weights = torch.cat([p.detach().double().flatten() for p in one.objective.state_dict().values()])
    return {**{name: history[name] for name in columns}, "weights": weights.tolist()}


def say(name: str, value: Any) -> None:
    """Write what this rank has to say."""
    Path(f"{name}-{distributed.rank()}.json").write_text(json.dumps(value), encoding="utf-8")


__all__ = ["OBJECTIVES", "Callback", "TrainerConfig", "arrays", "model", "os", "parity", "say", "sys", "trainer"]
