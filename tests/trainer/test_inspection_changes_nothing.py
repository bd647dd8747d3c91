"""A run with inspections is the run without them, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from jepa.objectives import OBJECTIVES
from jepa.trainer import JEPATrainer, create_trainer
from jepa.trainer.inspection import inspect


class Drawing(nn.Module):
    """Dropout and batch normalisation with running statistics: what a careless look would change."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.dropout, self.norm = nn.Dropout(0.1), nn.BatchNorm1d(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.dropout(x).flatten(0, -2)).view_as(x)


def trainer_of(name: str, folder: Path) -> tuple[JEPATrainer, Any]:
    torch.manual_seed(0)
    objective, data = OBJECTIVES[name].example()
    encoder: Any = objective.model.encoder
    drawing, encode = Drawing(encoder.hidden_dim), encoder.forward
    objective.add_module("drawing", drawing)
    encoder.forward = lambda *inputs, **options: drawing(encode(*inputs, **options))
    silent: dict[str, Any] = {"live_plot": False, "control_panel": False, "progress": False}
    trainer = create_trainer(objective, run=folder, device="cpu", seed=3, **silent)
    return trainer, DataLoader(Subset(data, range(40)), batch_size=8)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_a_run_with_inspections_equals_one_without(name: str, tmp_path: Path) -> None:
    states = []
    for watched in (False, True):
        trainer, loader = trainer_of(name, tmp_path / str(watched))
        for steps in (2, 3, 7):
            trainer.train(loader, max_steps=steps)
            if watched:
                found = inspect(trainer)
                assert found.modules
                assert all(p.grad is None for p in trainer.objective.parameters())
                assert all(part.training for part in trainer.objective.modules())
        states.append((trainer.objective.state_dict(), trainer.optimizer.state_dict()["state"], torch.get_rng_state()))
    (plain, moments, generator), (looked, other, after) = states
    assert any("running_mean" in key for key in plain)
    assert torch.equal(generator, after)
    for key, value in plain.items():
        assert torch.equal(value, looked[key]), key
    for key, state in moments.items():
        assert torch.equal(state["exp_avg"], other[key]["exp_avg"])
