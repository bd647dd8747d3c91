"""Ranks and what they say to each other: the bottom layer, torch only. Alone, every function works and is free."""

from __future__ import annotations

import atexit
import os
import sys
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


def is_initialized() -> bool:
    """Whether this process belongs to a process group."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, 0 when alone."""
    return dist.get_rank() if is_initialized() else 0


def world_size() -> int:
    """Number of processes that train together, 1 when alone."""
    return dist.get_world_size() if is_initialized() else 1


def under_torchrun() -> bool:
    """Whether torchrun (or anything that sets its variables) started this process."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def local_rank() -> int:
    """This process's number on its machine, from the environment."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def init(*, world_size: int | None = None, backend: str | None = None) -> None:
    """Join the process group that torchrun's environment describes; joining twice is fine.

    Args:
        world_size: Number of processes expected, checked against the environment.
        backend: `"nccl"` on CUDA and `"gloo"` otherwise, unless given.

    Raises:
        RuntimeError: This process was not started by torchrun.
        ValueError: The environment has another world size.
    """
    if not is_initialized():
        if not under_torchrun():
            raise RuntimeError(
                "distributed=True needs processes that torchrun started; type: "
                "torchrun --nproc-per-node 2 your_script.py (or leave distributed='auto')"
            )
        dist.init_process_group(backend or ("nccl" if torch.cuda.is_available() else "gloo"))
        _joined.append(True)
    if world_size is not None and world_size != dist.get_world_size():
        raise ValueError(f"world_size={world_size} was asked for, but {dist.get_world_size()} processes were started")


_joined: list[bool] = []


@atexit.register  # here, so that it comes after what trainers do at the end, which was registered later
def _leave() -> None:
    """Leave the group that we joined: its threads would now and then abort a process that ends without doing so."""
    if _joined and is_initialized():
        dist.destroy_process_group()


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        x = x.contiguous().clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum over ranks, differentiable: each rank's gradient is the sum of all ranks' gradients of the result.

    When every rank computes the same loss from the result and DDP then averages parameter gradients, the outcome is
    the gradient that one process would get from all the data.
    """
    return _AllReduceSum.apply(x) if world_size() > 1 else x  # type: ignore[no-any-return]


def all_reduce_mean(x: Tensor) -> Tensor:
    """Mean over ranks, differentiable like `all_reduce_sum`."""
    size = world_size()
    return all_reduce_sum(x) / size if size > 1 else x


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds a part of the tensor only (a `DTensor`)."""
    loaded = sys.modules.get("torch.distributed.tensor")  # where nobody has, there is none, and it takes long to load
    return loaded is not None and isinstance(tensor, loaded.DTensor)


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: all of one that is not sharded."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its parts (on every rank of those that hold one, at the same time)."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def sharded_parts(module: nn.Module) -> list[Any]:
    """The modules inside, outer ones first, that `fully_shard` was called on; itself included."""
    loaded = sys.modules.get("torch.distributed.fsdp")
    return [part for part in module.modules() if isinstance(part, loaded.FSDPModule)] if loaded else []


def gather_objects(value: T) -> list[T]:
    """The values of all ranks, in their order, on every rank; they must be picklable."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast_object(value: T, source: int = 0) -> T:
    """The value that rank `source` holds, on every rank; it must be picklable."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=source)
    return box[0]
