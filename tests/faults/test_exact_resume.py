"""Interrupted and resumed equals uninterrupted, to the last bit, for every objective and every way of training.

A run is stopped in the middle of an epoch, at the end of one, and one step before its end. Each part is trained by a
trainer of its own, around a model with other weights, in a process whose random generators others have used.
"""

from __future__ import annotations

import random
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from jepa.objectives import OBJECTIVES, Objective
from jepa.trainer import Callback, JEPATrainer, create_trainer, events
from jepa.trainer.checkpoint import read_checkpoint
from jepa.trainer.control import Set
from jepa.trainer.utils import setup_reproducibility
from tests.faults import runs

SAMPLES, BATCH, EPOCHS = 42, 6, 3


class Case(NamedTuple):
    """One way of training."""

    objective: str
    workers: int
    accumulate: int
    precision: str
    edited: bool

    def __str__(self) -> str:
        edited = "edited" if self.edited else "untouched"
        return f"{self.objective}-{self.workers} workers-accumulate {self.accumulate}-{self.precision}-{edited}"


NAMES = sorted(OBJECTIVES)
WAYS = list(product((0, 2), (1, 3), ("fp32", "bf16"), (True, False)))
PRODUCT = [Case(name, *way) for name in NAMES for way in WAYS]
ROWS = [Case(name, 2 * (n == 0), 3 - 2 * (n % 2), ("fp32", "bf16")[n // 2 % 2], True) for n, name in enumerate(NAMES)]


class Noisy(Dataset[Any]):
    """The first samples of a dataset, with augmentation that draws from each process-wide generator."""

    def __init__(self, data: Any, count: int) -> None:
        self._data, self._count = data, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        return [self._noisy(part) for part in self._data[index]]

    def _noisy(self, part: Tensor) -> Tensor:
        noise = float(torch.rand(())) + random.random() + float(np.random.rand())
        if part.dtype == torch.uint8:
            return part ^ int(2 * noise)
        return part + 0.01 * noise if part.is_floating_point() else part


class Edits(Callback):
    """Sets by hand what can be set."""

    def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
        if event.step == 2:
            trainer.submit(Set("learning_rate", 3e-3))
            trainer.submit(Set("weight_decay", 0.2, "hold"))
        if event.step == trainer.total_steps - 2:
            for name, (hyper, value) in trainer.hyper_parameters().items():
                trainer.submit(Set(name, min(1.5 * value, hyper.high)))


def objective_of(case: Case, seed: int) -> tuple[Objective, Any]:
    setup_reproducibility(seed)
    objective, data = OBJECTIVES[case.objective].example()
    setup_reproducibility(seed)  # what is imported for the data may draw, once in a process
    return objective, data


def train(case: Case, path: Path, stop: int, seed: int) -> JEPATrainer:
    """Begin or continue a run in a trainer of its own, until `stop`."""
    objective, data = objective_of(case, seed)
    objective.train()
    loaders = [
        DataLoader(Noisy(data, count), batch_size=BATCH, shuffle=shuffle, num_workers=case.workers * shuffle)
        for count, shuffle in ((SAMPLES, True), (2 * BATCH, False))
    ]
    options = {"accumulate": case.accumulate, "precision": case.precision, "final_weight_decay": 0.2, "log_every": 2}
    callbacks = [runs.Draws(), *([Edits()] if case.edited else []), runs.StopAfter(stop)]
    trainer = create_trainer(
        objective,
        run=path,
        callbacks=callbacks,
        val_loader=loaders[1],
        early_stopping=50,
        keep_checkpoints=99,
        **options,
        **runs.QUIET,
    )
    if seed:
        runs.Draws().on_step_ended(trainer, events.StepEnded(0, 0, torch.zeros(()), {}))  # others draw, too
    trainer.train(loaders[0], num_epochs=EPOCHS)
    return trainer


def result(path: Path) -> dict[str, Any]:
    """What the last and the best checkpoint hold; early stopping counts in the former."""
    last = runs.last_checkpoint(path)
    state = runs.outcome(last)
    return {
        "last": state,
        "early_stopping": read_checkpoint(last)["callbacks"]["EarlyStopping"],
        "best": runs.outcome(path / "checkpoints" / "best.pt"),
    }


def assert_resumes(case: Case, tmp_path: Path) -> None:
    whole = train(case, tmp_path / "whole", 10**6, 0)
    per_epoch = -(-(SAMPLES // BATCH) // case.accumulate)
    assert whole.step == whole.total_steps == per_epoch * EPOCHS
    stops = [per_epoch // 2 + 1, 2 * per_epoch, whole.total_steps - 1, 10**6]
    parts = [train(case, tmp_path / "part", stop, seed) for seed, stop in enumerate(stops)]
    assert [part.step for part in parts] == [*stops[:3], whole.total_steps]
    runs.assert_same(result(tmp_path / "part"), result(tmp_path / "whole"))
    assert parts[-1].history.steps("val_loss") == [per_epoch * epoch for epoch in range(1, EPOCHS + 1)]


@pytest.mark.slow
@pytest.mark.parametrize("case", ROWS, ids=str)
def test_interrupted_run_equals_uninterrupted_run(case: Case, tmp_path: Path) -> None:
    assert_resumes(case, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("case", PRODUCT, ids=str)
def test_interrupted_run_equals_uninterrupted_run_however_it_is_trained(case: Case, tmp_path: Path) -> None:
    assert_resumes(case, tmp_path)
