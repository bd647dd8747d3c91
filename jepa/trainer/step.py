"""One optimizer update: views, forward, backward, clip, optimizer, EMA. Nothing here waits for the device."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from jepa import distributed as ranks
from jepa.objectives.base import Draw, Losses, Objective, Views

Forward = Callable[[Views, Mapping[str, Tensor]], Losses]


class StepResult(NamedTuple):
    """Outcome of one update, on the device: 0-d `loss` and `terms`, the last batch's `embedding`, `grad_norm`."""

    loss: Tensor
    terms: dict[str, Tensor]
    embedding: Tensor
    grad_norm: Tensor


class TrainStep:
    """The update rule, given everything it works on.

    Args:
        objective: The module that owns the model.
        optimizer: Over the objective's parameters.
        device: Where batches go.
        hyper: The objective's hyper-parameters as 0-d tensors on `device`.
        precision: `"fp32"` or `"bf16"` (autocast).
        compiled: Whether to compile the forward.
        distributed: Whether to average gradients over the ranks of the process group. A sharded model does so itself.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        hyper: Mapping[str, Tensor],
        *,
        precision: str = "fp32",
        compiled: bool = False,
        distributed: bool = False,
    ) -> None:
        self._objective = objective
        self._optimizer = optimizer
        self._device = device
        self._hyper = hyper
        self._autocast = precision == "bf16"
        self._sharded = bool(ranks.sharded_parts(objective))
        self._ddp = wrap_distributed(objective, device) if distributed and not self._sharded else None
        self._buffers = _state_buffers(objective) if distributed and self._sharded else []
        forward: nn.Module = self._ddp or objective
        self._forward: Forward = torch.compile(forward) if compiled else forward  # type: ignore[assignment]
        self._target = objective.model.target
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._alike = not self._sharded and len({(p.device, p.dtype, p.layout) for p in self._parameters}) == 1
        self.updating = False  # from the first weight that changes until whoever counts steps has counted this one

    def __call__(
        self, batches: Sequence[Any], draws: Sequence[Draw], *, ema_momentum: float, clip: float | None
    ) -> StepResult:
        """Update the weights once from one or several (accumulated) batches of this process.

        Args:
            batches: In the objective's layout, on any device.
            draws: Where the randomness of each batch comes from.
            ema_momentum: Share of the old EMA target that stays.
            clip: Largest gradient norm, or `None`.

        Returns:
            Means over the samples of all batches.
        """
        if len(batches) == 1:
            losses = self._losses(batches[0], draws[0])
            losses.loss.backward()
        else:
            losses = self._accumulate(batches, draws)
        grad_norm = self._clip(clip)
        self.updating = True
        self._optimizer.step()
        for parameter in self._parameters:  # what zero_grad does, at a tenth of its cost
            parameter.grad = None
        self._target.update(ema_momentum)
        return StepResult(losses.loss.detach(), losses.terms, losses.embedding, grad_norm)

    def _clip(self, largest: float | None) -> Tensor:
        """The norm of the gradient, which is watched whether or not it is bounded; a larger one is scaled down."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if not self._alike or not gradients:
            norm = nn.utils.get_total_norm(gradients)
            if largest is not None:
                nn.utils.clip_grads_with_norm_(self._parameters, largest, norm)
            return ranks.whole(norm) if self._sharded else norm
        # The same numbers at half the cost: torch sorts the gradients by device and type, twice, at every step.
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))  # type: ignore[attr-defined]
        if largest is not None:
            torch._foreach_mul_(gradients, torch.clamp(largest / (norm + 1e-6), max=1.0))  # type: ignore[attr-defined]
        return norm

    def _losses(self, batch: Any, draw: Draw) -> Losses:
        views = self._objective.views(to_device(batch, self._device), draw)
        for buffer in self._buffers:  # as DDP does
            dist.broadcast(buffer, 0)
        if not self._autocast:
            return self._forward(views, self._hyper)
        with torch.autocast(self._device.type, dtype=torch.bfloat16):
            return self._forward(views, self._hyper)

    def _accumulate(self, batches: Sequence[Any], draws: Sequence[Draw]) -> Losses:
        """Add up the gradients of several batches, each weighted by its share of the samples."""
        sizes = [self._objective.samples(batch) for batch in batches]
        means: list[Tensor] = []
        for number, (batch, draw, size) in enumerate(zip(batches, draws, sizes, strict=True), start=1):
            waits = self._ddp is not None and number < len(batches)
            with self._ddp.no_sync() if waits else nullcontext():  # type: ignore[union-attr]
                losses = self._losses(batch, draw)
                (losses.loss * (size / sum(sizes))).backward()
            parts = torch.stack([losses.loss.detach(), *losses.terms.values()]) * (size / sum(sizes))
            means.append(parts)
        loss, *terms = torch.stack(means).sum(0).unbind()
        return losses._replace(loss=loss, terms=dict(zip(losses.terms, terms, strict=True)))  # type: ignore[possibly-undefined]


def wrap_distributed(objective: Objective, device: torch.device) -> DistributedDataParallel:
    """Wrap for gradient averaging; buffers are kept equal only if the model has any that it saves."""
    has_buffers = bool(_state_buffers(objective))
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # renamed in torch 2.13
    options: dict[str, Any] = {option: has_buffers, "gradient_as_bucket_view": True}
    return DistributedDataParallel(objective, device_ids=[device.index] if device.type == "cuda" else None, **options)


def _state_buffers(objective: nn.Module) -> list[Tensor]:
    state = objective.state_dict(keep_vars=True)
    return [buffer for name, buffer in objective.named_buffers() if name in state]


def is_sharded(objective: Objective) -> bool:
    """Whether `fully_shard` was called on parts of the model; its EMA target is then sharded alike.

    Raises:
        ValueError: Other parts, whose gradients nobody would average over the ranks, are not sharded.
    """
    if not ranks.sharded_parts(objective):
        return False
    for part in ranks.sharded_parts(objective):
        part.reshard()
    whole = [name for name, p in objective.named_parameters() if p.requires_grad and not ranks.is_sharded(p)]
    if whole:
        raise ValueError(
            f"the model is sharded, but {len(whole)} of its trainable parameters are not ({', '.join(whole[:3])}): "
            "call fully_shard on the modules that hold them, too, before create_trainer"
        )
    objective.model.target.shard_alike()
    return True


def may_draw(objective: nn.Module) -> bool:
    """Whether a step may draw from the process-wide generator: by dropout, or in modules that are not known here."""
    return any(
        not type(part).__module__.startswith(("jepa.", "torch.nn.modules."))
        or isinstance(part, nn.modules.dropout._DropoutNd | nn.RReLU)
        or getattr(part, "dropout", 0.0) not in (0, 0.0, None)
        for part in objective.modules()
    )


def check_optimizer(optimizer: torch.optim.Optimizer, objective: nn.Module) -> torch.optim.Optimizer:
    """The optimizer, if it updates some of the objective's parameters and nothing else."""
    own = {id(parameter) for parameter in objective.parameters()}
    given = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    strangers = sum(id(parameter) not in own for parameter in given)
    if strangers or not given:
        raise ValueError(
            f"the optimizer holds {strangers} of {len(given)} parameters that are not the model's; "
            "build it from model.parameters() of the same model"
        )
    return optimizer


def to_device(batch: Any, device: torch.device) -> Any:
    """Move every tensor of a nested batch to `device`; anything else passes through."""
    if isinstance(batch, Tensor):
        return batch if batch.device == device else batch.to(device, non_blocking=True)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(part, device) for part in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(to_device(part, device) for part in batch)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    return batch
