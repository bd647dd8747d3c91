"""A look at what the model sees and at the model itself, as CPU copies that may be kept while training goes on.

An inspection changes nothing: random states, buffers, gradients and the modes of all modules are afterwards what they
were before.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jepa.diagnostics import (
    Attended,
    ModuleSummary,
    adam_update_norms,
    effective_rank,
    embedding_std,
    module_summary,
    record_attention,
    record_dead_units,
)
from jepa.models.base import evaluating
from jepa.objectives.base import Losses, Objective, Views
from jepa.trainer.checkpoint import random_state, restore_random_state
from jepa.trainer.control import INSPECTED_PARTS
from jepa.trainer.step import to_device

if TYPE_CHECKING:
    from jepa.trainer.trainer import JEPATrainer

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Inspection:
    """The last batch, seen through the model of this moment, and the model.

    Attributes:
        step: Optimizer updates done.
        batch: The batch as the loader gave it.
        views: What the objective made of it: context, target, masks, by name.
        embedding: (B, D) one context embedding a sample.
        stats: `loss`, its terms, `embedding_std`, `effective_rank`, and the embedding's mean norm.
        grid: Token grid of the encoder's tokenizer, if it has one: what mask positions count.
        device: Where the batch was when the model saw it.
        sample_losses: (B,) what each sample has of the term `sample_term`; part `"samples"`.
        sample_term: Which term this is: statistics of the whole batch are nobody's own.
        modules: The tree of modules with norms of parameters, gradients and updates; part `"model"`. Gradients are
            those of the loss of the last batch of this process, with the masks or views it was trained with (unless
            their scales were changed since), at the present weights and before clipping.
        dead_units: Share of hidden units that no sample activates, by MLP; part `"model"`.
        attention: Queries and keys of the first samples, by block; part `"attention"`.
        missing: Why a part that was asked for is not there, or not whole, by its name.
        folder: Of the run, if it has one.
        seconds: What the inspection took of the training's time.
    """

    step: int
    batch: Any
    views: Mapping[str, Tensor]
    embedding: Tensor
    stats: Mapping[str, float]
    grid: tuple[int, ...] | None = None
    device: str = "cpu"
    sample_losses: Tensor | None = None
    sample_term: str = "prediction"
    modules: Sequence[ModuleSummary] = ()
    dead_units: Mapping[str, float] = field(default_factory=dict)
    attention: Mapping[str, Attended] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    seconds: float = 0.0


def inspect(trainer: JEPATrainer, parts: Sequence[str] = INSPECTED_PARTS) -> Inspection:
    """Look at the last batch (training thread, or while nothing trains).

    Args:
        trainer: Whose.
        parts: What to look at besides batch, views, embeddings and statistics, which take one forward pass:
            `"samples"` takes another one, `"model"` a forward and a backward pass, `"attention"` next to nothing.

    Raises:
        ValueError: No batch was trained on yet.
    """
    began = time.perf_counter()
    if trainer.last_batch is None or trainer.last_draw is None:
        raise ValueError("nothing to inspect before the first step; let the run do one: run.step(1)")
    objective = trainer.objective
    with unchanged(objective):
        views = objective.views(to_device(trainer.last_batch, trainer.device), trainer.last_draw)
        found = _Look(trainer, views, parts).found
    grid = getattr(getattr(trainer.model.encoder, "tokenizer", None), "grid", None)
    return Inspection(
        trainer.step,
        to_device(trainer.last_batch, CPU),
        {name: view.to(CPU, copy=True) for name, view in views.items()},
        grid=grid,
        device=str(trainer.device),
        sample_term=objective.sample_term,
        folder=trainer.run.path if trainer.run else None,
        **found,
        seconds=time.perf_counter() - began,
    )


class _Look:
    """Looks at one batch through one model; what it finds are fields of an `Inspection`."""

    def __init__(self, trainer: JEPATrainer, views: Views, parts: Sequence[str]) -> None:
        self._trainer = trainer
        self._objective = trainer.objective
        self._views = views
        self._missing: dict[str, str] = {}
        self._parts = {part for part in parts if self._can(part)}
        self.found: dict[str, Any] = {"missing": self._missing}
        self._look()
        if "model" in self._parts:
            self.found["modules"] = self._modules()

    def _can(self, part: str) -> bool:
        if self._trainer.sharded and part in ("model", "attention"):
            self._missing[part] = "the model is sharded: no process holds whole layers to look at"
            return False
        return True

    @torch.no_grad()
    def _look(self) -> None:
        """The passes without gradients, in evaluation mode."""
        with evaluating(self._objective), ExitStack() as hooks:
            if "attention" in self._parts:
                self.found["attention"] = hooks.enter_context(record_attention(self._objective.model))
            if "model" in self._parts:
                units = hooks.enter_context(record_dead_units(self._objective))
            losses = self._objective(self._views, self._trainer.rates.hyper)
            hooks.close()
            if "samples" in self._parts:
                self._look_at_samples()
        if "model" in self._parts:
            self.found["dead_units"] = units.shares()  # pyright: ignore[reportPossiblyUnboundVariable]
        self.found |= {"stats": _statistics(losses), "embedding": losses.embedding.to(CPU, copy=True)}

    def _look_at_samples(self) -> None:
        losses = self._objective.sample_losses(self._views)
        if losses is None:
            self._missing["samples"] = (
                f"objective {self._objective.name!r} does not tell the losses of its samples apart; give it a method "
                "sample_losses(views)"
            )
            return
        self.found["sample_losses"] = losses.to(CPU, copy=True)

    def _modules(self) -> list[ModuleSummary]:
        try:
            updates = adam_update_norms(self._objective, self._trainer.optimizer)
        except ValueError as unknown:
            updates = {}
            self._missing["update_norm"] = str(unknown)
        return module_summary(self._objective, grads=self._gradient_norms(), updates=updates)

    def _gradient_norms(self) -> dict[str, Tensor]:
        """By name, without touching `.grad`, which belongs to the training and to the hooks of others."""
        own = {name: p for name, p in self._objective.named_parameters() if p.requires_grad}
        device, half = self._trainer.device.type, self._trainer.config.precision == "bf16"
        with torch.enable_grad(), torch.autocast(device, dtype=torch.bfloat16, enabled=half):
            loss = self._objective(self._views, self._trainer.rates.hyper).loss
        grads = torch.autograd.grad(loss, list(own.values()), allow_unused=True)
        return {name: grad.norm() for name, grad in zip(own, grads, strict=True) if grad is not None}


@contextmanager
def unchanged(objective: Objective) -> Iterator[None]:
    """Afterwards the process's random states and the buffers of a module are what they were."""
    random = random_state()
    buffers = [(part, name, own) for part in objective.modules() for name, own in part._buffers.items()]
    kept = {id(own): own.clone() for _, _, own in buffers if own is not None}
    try:
        yield
    finally:
        for part, name, own in buffers:
            part._buffers[name] = own
            if own is not None:
                with torch.no_grad():
                    own.copy_(kept[id(own)])
        restore_random_state(random)


def _statistics(losses: Losses) -> dict[str, float]:
    embedding = losses.embedding
    return {
        "loss": float(losses.loss),
        **{name: float(value) for name, value in losses.terms.items()},
        "embedding_std": float(embedding_std(embedding)),
        "effective_rank": float(effective_rank(embedding)),
        "embedding_norm": float(embedding.norm(dim=1).mean()),
    }
