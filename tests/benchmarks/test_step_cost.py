"""What the trainer costs a step: against bare PyTorch loops over a nearly free model, interleaved in one process.

CPU time on one thread. On a busy machine identical steps differ several-fold for seconds at a time, so the loops take
turns of a tenth of a second, each turn is compared with the bare loop's turn beside it, and the median turn counts.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from jepa import JEPA, JEPATrainer, create_trainer
from jepa.objectives import Objective, StatePair

WARM_UP, TIMED, ROUNDS = 20, 60, 60
Report = Callable[[str, str, list[str], list[list[str]]], None]


class TimedBatches:
    """One batch, served again and again; keeps the CPU time a step of every turn, its warm-up left out."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._batch = (torch.randn(32, 16, generator=generator), torch.randn(32, 16, generator=generator))
        self.microseconds: list[float] = []

    def __len__(self) -> int:
        return WARM_UP + TIMED + 1

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        start = 0.0
        for number in range(len(self)):
            if number == WARM_UP:
                start = time.process_time()
            if number == WARM_UP + TIMED:
                self.microseconds.append((time.process_time() - start) / TIMED * 1e6)
            yield self._batch


def nearly_free() -> Objective:
    torch.manual_seed(0)
    return StatePair(JEPA(nn.Linear(16, 16), nn.Linear(16, 16)))


def bare_loop(batches: TimedBatches) -> Callable[[], None]:
    """A lean loop of the functions that PyTorch offers: fused AdamW, multi-tensor EMA, clipping, the same loss."""
    objective = nearly_free()
    parameters = [p for p in objective.parameters() if p.requires_grad]
    matrices, vectors = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)
    average = list(objective.model.target.encoder.parameters())
    online = list(objective.model.encoder.parameters())
    hyper = {name: torch.tensor(spec.default) for name, spec in objective.hyper_parameters.items()}

    def run() -> None:
        for context, target in batches:
            loss = objective({"context": context, "target": target}, hyper).loss
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                torch._foreach_lerp_(average, online, 0.01)  # type: ignore[attr-defined]

    return run


def naive_loop(batches: TimedBatches) -> Callable[[], None]:
    """The loop most people write: AdamW as it comes, the EMA parameter by parameter, the loss read at every step."""
    objective = nearly_free()
    parameters = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10**6)
    average, online = objective.model.target.encoder, objective.model.encoder
    hyper = {name: torch.tensor(spec.default) for name, spec in objective.hyper_parameters.items()}

    def run() -> None:
        losses = []
        for context, target in batches:
            optimizer.zero_grad()
            loss = objective({"context": context, "target": target}, hyper).loss
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            scheduler.step()
            with torch.no_grad():
                for slow, fast in zip(average.parameters(), online.parameters(), strict=True):
                    slow.mul_(0.99).add_(fast, alpha=0.01)
            losses.append(loss.item())

    return run


def trainer_loop(batches: TimedBatches, trainer: JEPATrainer) -> Callable[[], None]:
    def run() -> None:
        trainer.train(batches, num_epochs=trainer.epoch + 1)

    return run


@pytest.mark.benchmark
def test_the_trainer_costs_little_more_than_a_bare_loop_and_less_than_a_naive_one(
    tmp_path: Path, report: Report
) -> None:
    quiet = {"run": False, "log_every": 10**6, "checkpoint_every": 10**6, "progress": False}
    loops: dict[str, Callable[[TimedBatches], Callable[[], None]]] = {
        "bare loop": bare_loop,
        "create_trainer, quiet": lambda batches: trainer_loop(batches, create_trainer(nearly_free(), **quiet)),
        "create_trainer, defaults": lambda batches: trainer_loop(
            batches, create_trainer(nearly_free(), run="cost", runs_dir=tmp_path)
        ),
        "naive loop": naive_loop,
    }
    timed = {name: (batches := TimedBatches(), make(batches)) for name, make in loops.items()}
    cost: dict[str, float] = {}
    ratios: dict[str, float] = {}
    for _ in range(10):  # measured again where the neighbours were loud
        for batches, _ in timed.values():
            batches.microseconds.clear()
        for turn in range(ROUNDS):
            for name in random.Random(turn).sample(list(timed), len(timed)):  # no loop always follows the same other
                timed[name][1]()
        turns = {name: batches.microseconds for name, (batches, _) in timed.items()}
        cost = {name: statistics.median(own) for name, own in turns.items()}
        ratios = {
            name: statistics.median(mine / bare for mine, bare in zip(own, turns["bare loop"], strict=True))
            for name, own in turns.items()
        }
        if ratios["create_trainer, defaults"] <= min(1.10, ratios["naive loop"]):
            break
    rows = [[name, f"{cost[name]:.0f}", f"{ratio:.2f}"] for name, ratio in ratios.items()]
    report("step_cost", "Cost of a training step", ["loop", "CPU µs a step", "times the bare loop"], rows)
    assert ratios["create_trainer, defaults"] <= 1.10
    assert ratios["create_trainer, defaults"] < ratios["naive loop"]
