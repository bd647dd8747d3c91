"""A look at what the model sees, as CPU copies that may be kept while training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jepa.diagnostics import effective_rank, embedding_std
from jepa.trainer.step import to_device

if TYPE_CHECKING:
    from jepa.trainer.trainer import JEPATrainer


@dataclass(frozen=True, slots=True)
class Inspection:
    """The last batch, seen through the model of this moment.

    Attributes:
        step: Optimizer updates done.
        batch: The batch as the loader gave it.
        views: What the objective made of it: context, target, masks, by name.
        embedding: (B, D) one context embedding a sample.
        stats: `loss`, its terms, `embedding_std`, `effective_rank`, and the embedding's mean norm.
        grid: Token grid of the encoder's tokenizer, if it has one: what mask positions count.
    """

    step: int
    batch: Any
    views: Mapping[str, Tensor]
    embedding: Tensor
    stats: Mapping[str, float]
    grid: tuple[int, ...] | None = None


@torch.no_grad()
def inspect(trainer: JEPATrainer) -> Inspection:
    """Look at the last batch (training thread, or while nothing trains).

    Raises:
        ValueError: No batch was trained on yet.
    """
    if trainer.last_batch is None or trainer.last_draw is None:
        raise ValueError("nothing to inspect before the first step; let the run do one: run.step(1)")
    objective = trainer.objective
    training = objective.training
    objective.eval()
    try:
        batch = to_device(trainer.last_batch, trainer.device)
        views = objective.views(batch, trainer.last_draw)
        losses = objective(views, trainer.rates.hyper)
    finally:
        objective.train(training)
    embedding = losses.embedding
    stats = {
        "loss": float(losses.loss),
        **{name: float(value) for name, value in losses.terms.items()},
        "embedding_std": float(embedding_std(embedding)),
        "effective_rank": float(effective_rank(embedding)),
        "embedding_norm": float(embedding.norm(dim=1).mean()),
    }
    grid = getattr(getattr(trainer.model.encoder, "tokenizer", None), "grid", None)
    cpu = torch.device("cpu")
    copies = {name: view.to(cpu, copy=True) for name, view in views.items()}
    batch = to_device(trainer.last_batch, cpu)
    return Inspection(trainer.step, batch, copies, embedding.to(cpu, copy=True), stats, grid)
