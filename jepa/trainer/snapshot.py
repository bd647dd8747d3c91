"""Everything a run needs to go on: taken from a trainer as plain values and tensors, and given back to one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jepa import distributed
from jepa.trainer.checkpoint import CheckpointError, Like, check_fits, shard_like

if TYPE_CHECKING:
    from jepa.trainer.trainer import JEPATrainer


def take_snapshot(trainer: JEPATrainer, randomness: list[dict[str, Any]]) -> dict[str, Any]:
    """The state of a trainer between two steps, as `write_checkpoint` keeps it.

    Args:
        trainer: On rank 0.
        randomness: The process-wide random state of each rank.
    """
    scheduler = trainer.rates.scheduler
    return {
        "architecture": trainer.model.config(),
        "objective": {"name": trainer.objective.name, **trainer.objective.config()},
        "config": as_plain(asdict(trainer.config)),
        "objective_state": trainer.objective.state_dict(),
        "optimizer_name": type(trainer.optimizer).__name__,
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": scheduler.state_dict() if scheduler is not None else None,
        "rates": trainer.rates.state_dict(),
        "position": {name: getattr(trainer, name) for name in POSITION},
        "random": randomness,
        "recorder": trainer.recorder.state_dict(),
        "history": trainer.history.state_dict(),
        "moments": trainer.history.moments_state(),
        "best": trainer.saver.best,
        "callbacks": trainer.listeners.state_dict(),
        "journal": trainer.lineage.stamp,
        "data": trainer.lineage.data_size,
    }


def restore_snapshot(trainer: JEPATrainer, state: Mapping[str, Any], origin: str) -> None:
    """Give a trainer back what `take_snapshot` took, all but the process-wide random state.

    Raises:
        CheckpointError: It is of another objective, model or optimizer; nothing was changed.
    """
    if lacking := [key for key in WANTED if key not in state]:
        raise CheckpointError(f"{origin} was not written by a trainer: it has no {', '.join(lacking)}")
    name = state["objective"]["name"]
    if name != trainer.objective.name:
        raise CheckpointError(
            f"{origin} is of objective {name!r}, this trainer has {trainer.objective.name!r}; "
            f"use create_trainer(model, objective={name!r})"
        )
    check_fits(trainer.objective, state["objective_state"], origin)
    optimizer, mine = state["optimizer_name"], type(trainer.optimizer).__name__
    if optimizer != mine:
        raise CheckpointError(f"{origin} does not fit this optimizer: it is of {optimizer}, this one is {mine}")
    if trainer.sharded:
        state = shard_like(state, own_shards(trainer))
    try:
        trainer.optimizer.load_state_dict(_own(state["optimizer"]))
    except ValueError as error:
        raise CheckpointError(f"{origin} does not fit this optimizer: {error}") from error
    trainer.objective.load_state_dict(state["objective_state"])
    if trainer.rates.scheduler is not None and state["scheduler"] is not None:
        trainer.rates.scheduler.load_state_dict(state["scheduler"])
    trainer.rates.load_state_dict(state["rates"])
    for name in POSITION:
        setattr(trainer, name, state["position"][name])
    trainer.recorder.load_state_dict(state["recorder"])
    trainer.history.load_state_dict(state["history"], state.get("moments"))
    trainer.saver.best = state["best"]
    trainer.listeners.load_state_dict(state["callbacks"])


def own_shards(trainer: JEPATrainer) -> Like:
    """How a trainer's state is sharded: weights as its own, what the optimizer keeps of a weight as that weight."""
    own = {f"objective_state/{name}": tensor for name, tensor in trainer.objective.state_dict().items()}
    parameters = [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]
    own.update({f"optimizer/{number}": parameter for number, parameter in enumerate(parameters)})

    def like(name: str, shape: torch.Size) -> Tensor | None:
        tensor = own.get(name) if name.startswith("objective_state/") else own.get(name.rpartition("/")[0])
        if tensor is None or not distributed.is_sharded(tensor) or tensor.shape != shape:
            return None
        return tensor.detach()

    return like


WANTED = (
    *("architecture", "objective", "config", "objective_state", "optimizer_name", "optimizer", "scheduler", "rates"),
    *("position", "random", "recorder", "history", "best", "callbacks"),
)
POSITION = ("step", "epoch", "batches_done", "batches_drawn", "total_steps")


def _own(value: Any) -> Any:
    """The same in memory of its own: an optimizer keeps the tensors it is given, and these are a file's."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Mapping):
        return {key: _own(part) for key, part in value.items()}
    return [_own(part) for part in value] if isinstance(value, list) else value


def as_plain(value: Any) -> Any:
    """Values that YAML and a checkpoint can hold: mappings, lists, numbers and text; anything else as its `repr`."""
    if isinstance(value, Mapping):
        return {str(key): as_plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(part) for part in value]
    return value if isinstance(value, str | int | float | bool) or value is None else repr(value)
