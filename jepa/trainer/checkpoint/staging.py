"""A copy of a trainer's state that training cannot change any more, in memory that is kept for the next one."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

COPY_THREADS = 2
SMALL_BYTES = 1 << 24  # copied before threads have been asked

Pair = tuple[Tensor, Tensor]
Place = tuple[Any, ...]


class Staging:
    """Buffers for one state after another of the same shape.

    The first copy allocates them; the following ones cost no more than reading the state once. From a GPU the copies
    are queued behind the work under way there, so that training does not wait for them: `wait` does, where the copy is
    read.
    """

    def __init__(self) -> None:
        self._buffers: dict[Place, Tensor] = {}
        self._events: list[torch.cuda.Event] = []

    def copy(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """`state` with its tensors replaced by copies on the CPU, valid until the next call.

        Args:
            state: Nested mappings and lists of tensors and plain values. Tensors that are one and the same stay so.
        """
        pairs: dict[Place, Pair] = {}
        copied = self._copied(state, (), pairs, {})
        self._buffers = {place: buffer for place, (_, buffer) in pairs.items()}
        self._events = _copy_all(list(pairs.values()))
        return copied

    def wait(self) -> None:
        """Wait until the last copy is complete; from any thread."""
        for event in self._events:
            event.synchronize()

    def clear(self) -> None:
        """Give the memory back."""
        self._buffers, self._events = {}, []

    def _copied(self, value: Any, place: Place, pairs: dict[Place, Pair], seen: dict[Place, Tensor]) -> Any:
        if isinstance(value, Tensor):
            same = (value.data_ptr(), value.dtype, value.shape, value.stride(), value.device)
            if value.numel() == 0 or same not in seen:
                pairs[place] = value.detach(), self._buffer(place, value)
                seen[same] = pairs[place][1]
            return seen[same]
        if isinstance(value, Mapping):
            return {key: self._copied(part, (*place, key), pairs, seen) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return type(value)([self._copied(part, (*place, n), pairs, seen) for n, part in enumerate(value)])
        return value

    def _buffer(self, place: Place, like: Tensor) -> Tensor:
        buffer = self._buffers.get(place)
        if buffer is None or buffer.dtype != like.dtype or buffer.shape != like.shape:
            buffer = torch.empty_like(like, device="cpu", pin_memory=like.is_cuda)
        return buffer


def _copy_all(pairs: list[Pair]) -> list[torch.cuda.Event]:
    """Copy on several threads where there is much to copy; returns what to wait for."""
    if sum(buffer.nbytes for _, buffer in pairs) < SMALL_BYTES:
        _copy(pairs)
    else:
        with ThreadPoolExecutor(COPY_THREADS, "jepa-copy") as pool:
            list(pool.map(_copy, [pairs[number::COPY_THREADS] for number in range(COPY_THREADS)]))
    events = []
    for device in {source.device for source, _ in pairs if source.is_cuda}:
        events.append(torch.cuda.Event())
        events[-1].record(torch.cuda.current_stream(device))
    return events


@torch.no_grad()
def _copy(pairs: list[Pair]) -> None:
    for source, buffer in pairs:
        buffer.copy_(source, non_blocking=source.is_cuda)
