"""Evaluation: the objective's loss, and what the embeddings look like, over a whole data set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from jepa import distributed
from jepa.data.source import BatchSource, as_source
from jepa.diagnostics import effective_rank, embedding_std
from jepa.models.base import build
from jepa.models.jepa import JEPA
from jepa.objectives import as_objective
from jepa.objectives.base import Draw, HyperParameter, Objective
from jepa.trainer.checkpoint import check_fits, read_checkpoint
from jepa.trainer.schedules import Adjustable
from jepa.trainer.step import to_device
from jepa.trainer.utils import default_device

EMBEDDINGS_KEPT = 4096


@torch.no_grad()
def evaluate_objective(
    objective: Objective,
    source: BatchSource,
    device: torch.device,
    hyper: Mapping[str, Tensor],
    seed: int = 0,
    *,
    embeddings: list[Tensor] | None = None,
) -> dict[str, float]:
    """Mean `loss` and its terms over the samples of a source, of all ranks, in evaluation mode.

    Masks and other draws are the same every time, so that values can be compared.

    Args:
        objective: On `device`.
        source: In the objective's layout.
        device: Where to compute.
        hyper: The objective's hyper-parameters.
        seed: Of the draws.
        embeddings: Gets the context embeddings of this process's first samples appended.
    """
    sums: dict[str, Tensor] = {}
    exact = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
    samples = torch.zeros((), dtype=exact, device=device)
    training = objective.training
    objective.eval()
    try:
        for number, batch in enumerate(source.batches(epoch=0)):
            batch = to_device(batch, device)
            size = objective.samples(batch)
            draw = Draw(seed, number, distributed.rank(), distributed.world_size())
            losses = objective(objective.views(batch, draw), hyper)
            samples += size
            for name, value in {"loss": losses.loss, **losses.terms}.items():
                sums[name] = sums.get(name, 0) + value.to(exact) * size
            if embeddings is not None and sum(map(len, embeddings)) < EMBEDDINGS_KEPT:
                embeddings.append(losses.embedding)
    finally:
        objective.train(training)
    if not sums:
        raise ValueError("the evaluation loader gave no batch; it must be re-iterable and not empty")
    packed = distributed.all_reduce_sum(torch.stack([samples, *sums.values()])).tolist()
    return {name: value / packed[0] for name, value in zip(sums, packed[1:], strict=True)}


class JEPAEvaluator:
    """Evaluates a trained model.

    Args:
        model: A `JEPA`, or an `Objective` that owns one.
        objective: Name of the objective when `model` is a `JEPA`.
        device: Where to compute; the best there is by default.
        seed: Of masks and other draws.

    Attributes:
        hyper: Values of the objective's hyper-parameters, by name.
    """

    def __init__(
        self,
        model: JEPA | Objective,
        objective: str = "state_pair",
        *,
        device: torch.device | str | None = None,
        seed: int = 0,
    ) -> None:
        self.objective = as_objective(model, objective)
        self.device = default_device() if device is None else torch.device(device)
        self.seed = seed
        self.hyper = {name: spec.default for name, spec in self.objective.hyper_parameters.items()}
        self.objective.to(self.device)

    @property
    def model(self) -> JEPA:
        """The model under evaluation."""
        return self.objective.model

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike[str],
        *,
        model: JEPA | nn.Module | None = None,
        device: torch.device | str | None = None,
    ) -> JEPAEvaluator:
        """Rebuild model and objective from a trainer's checkpoint.

        Hyper-parameters have the values in force there, edits made while training included. Weights in float64 make
        the model float64.

        Args:
            path: The file.
            model: Needed where encoder or predictor are not built in: a model of the same architecture, whose
                weights are replaced, or the encoder alone where the objective's usual predictor was trained with it.
            device: Where to compute.

        Raises:
            FileNotFoundError: There is no such file.
            CheckpointError: The file is damaged, or does not fit `model`.
            ValueError: `model` is needed.
        """
        state = read_checkpoint(path)
        objective = objective_of(state, path, model)
        objective.load_state_dict(state["objective_state"])
        evaluator = cls(objective, device=device, seed=state["config"]["seed"])
        edits, step = state["rates"], state["position"]["step"]
        evaluator.hyper.update(_edited(objective.hyper_parameters, edits, step))
        if objective.view_parameters:
            objective.set_view_parameters(_edited(objective.view_parameters, edits, step))
        return evaluator

    def evaluate(self, loader: Any) -> dict[str, float]:
        """Run a data set through the model.

        Args:
            loader: Batches in the objective's layout.

        Returns:
            `loss` and its terms (means over samples), `embedding_std` and `effective_rank` of the context embeddings
            (of the first 4,096 samples of this process).
        """
        rank, size = distributed.rank(), distributed.world_size()
        source = as_source(loader, seed=self.seed, rank=rank, world_size=size, device=self.device)
        hyper = {name: torch.tensor(value, device=self.device) for name, value in self.hyper.items()}
        kept: list[Tensor] = []
        metrics = evaluate_objective(self.objective, source, self.device, hyper, self.seed, embeddings=kept)
        embedding = torch.cat(kept)[:EMBEDDINGS_KEPT]
        metrics["embedding_std"] = float(embedding_std(embedding))
        metrics["effective_rank"] = float(effective_rank(embedding))
        return metrics


def _edited(specs: Mapping[str, HyperParameter], edits: Mapping[str, dict[str, Any]], step: int) -> dict[str, float]:
    """Values after `step` steps, with the edits that a checkpoint keeps."""
    values: dict[str, float] = {}
    for name, spec in specs.items():
        adjustable = Adjustable(spec)
        if name in edits:
            adjustable.load_state_dict(edits[name])
        values[name] = adjustable(step)
    return values


def objective_of(state: Mapping[str, Any], path: str | os.PathLike[str], model: nn.Module | None = None) -> Objective:
    """An objective that fits a checkpoint, with other weights.

    Args:
        state: What the checkpoint holds.
        path: Where it was read, for messages.
        model: Needed where encoder or predictor are not built in.

    Raises:
        CheckpointError: The checkpoint does not fit `model`.
        ValueError: `model` is needed.
    """
    options = dict(state["objective"])
    whole = _rebuild(state["architecture"], path) if model is None else model
    objective = as_objective(whole, options.pop("name"), options)
    tensors = state["objective_state"]
    check_fits(objective, tensors, path)
    if any(tensors[name].dtype == torch.float64 for name, _ in objective.named_parameters()):
        objective.double()
    return objective


def _rebuild(architecture: Mapping[str, Any], path: str | os.PathLike[str]) -> JEPA:
    missing = [name for name, spec in architecture.items() if spec is None]
    if missing:
        raise ValueError(
            f"{path} holds {' and '.join(missing)} of your own making; build the model and pass it: "
            "JEPAEvaluator.from_checkpoint(path, model=JEPA(...)), or model=encoder if that is what was trained"
        )
    arguments: dict[str, Any] = {
        name: build(spec) if isinstance(spec, Mapping) else spec for name, spec in architecture.items()
    }
    return JEPA(**arguments)
