"""What is in a tensor, in a few numbers: enough to see a wrong range, a dead channel or a missing value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor


class TensorStatistics(NamedTuple):
    """One tensor.

    Attributes:
        name: Where it was found, such as `views.context`.
        shape: Its sizes.
        dtype: Without the word torch.
        device: Where it is.
        minimum: Of the values that are not NaN, as the next three; NaN where there are none.
        maximum: Largest value.
        mean: Mean value.
        std: Standard deviation.
        nan: Share of NaN, in [0, 1].
        zero: Share of exact zeros, in [0, 1].
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    device: str
    minimum: float
    maximum: float
    mean: float
    std: float
    nan: float
    zero: float


@torch.no_grad()
def tensor_statistics(name: str, x: Tensor, device: torch.device | str | None = None) -> TensorStatistics:
    """Statistics of one tensor of any shape and dtype.

    Args:
        name: What to call it.
        x: The tensor.
        device: Where to say it is, for a copy of one that is elsewhere.
    """
    numbers = x.detach().cpu().to(torch.float64)
    known = numbers[~numbers.isnan()]
    known = known if known.numel() else numbers.new_full((1,), float("nan"))
    size = max(x.numel(), 1)
    return TensorStatistics(
        name,
        tuple(x.shape),
        str(x.dtype).removeprefix("torch."),
        str(device or x.device),
        minimum=float(known.amin()),
        maximum=float(known.amax()),
        mean=float(known.mean()),
        std=float(known.std(correction=0)),
        nan=float(numbers.isnan().sum()) / size,
        zero=float((numbers == 0).sum()) / size,
    )


def named_tensors(batch: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """All tensors of nested tuples, lists and mappings, with names such as `batch.0` or `batch.actions`."""
    if isinstance(batch, Tensor):
        yield name, batch
    elif isinstance(batch, Mapping):
        for key, part in batch.items():
            yield from named_tensors(part, f"{name}.{key}")
    elif isinstance(batch, tuple | list):
        for number, part in enumerate(batch):
            yield from named_tensors(part, f"{name}.{number}")
