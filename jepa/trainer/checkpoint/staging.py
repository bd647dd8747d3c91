"""A copy of a trainer's state that training cannot change any more, in memory that is kept for the next one."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
            copied = {key: self._copied(part, (*place, key), pairs, seen) for key, part in value.items()}
            return Counter(copied) if isinstance(value, Counter) else copied
        if isinstance(value, list | tuple):
            parts = [self._copied(part, (*place, n), pairs, seen) for n, part in enumerate(value)]
            return parts if isinstance(value, list) else tuple(parts)
        return _plain(value, place)

    def _buffer(self, place: Place, like: Tensor) -> Tensor:
        buffer = self._buffers.get(place)
        if buffer is None or buffer.dtype != like.dtype or buffer.shape != like.shape:
            buffer = torch.empty_like(like, device="cpu", pin_memory=like.is_cuda)
        return buffer


def _plain(value: Any, place: Place) -> Any:
    """A value as a checkpoint can hold it: numbers of numpy, which it could not be read back with, become Python's."""
    if value is None or type(value) in (bool, int, float, str, bytes, torch.dtype):
        return value
    if isinstance(value, np.generic):
        return value.item()
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(
        f"a checkpoint holds tensors and plain values only, and {'/'.join(map(str, place))} is a "
        f"{type(value).__module__}.{type(value).__name__}: let state_dict say the same in numbers, text and lists"
    )


def beside(work: Callable[[], object], name: str) -> Callable[[], None]:
    """Do `work` on a thread; what is returned waits for its end, and raises what it raised.

    Where the interpreter ends, and starts no thread any more, the work is done when this returns.
    """
    done, errors = threading.Event(), []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # for who waits
            errors.append(error)
        finally:
            done.set()

    def wait() -> None:
        done.wait()  # an interrupted `join` would take the thread for one that has ended
        if errors:
            raise errors[0]

    try:
        threading.Thread(target=run, name=name, daemon=False).start()
    except RuntimeError:
        run()
    return wait


def _copy_all(pairs: list[Pair]) -> list[torch.cuda.Event]:
    """Copy on two threads where there is much to copy; returns what to wait for."""
    if sum(buffer.nbytes for _, buffer in pairs) < SMALL_BYTES:
        _copy(pairs)
    else:
        wait = beside(lambda: _copy(pairs[1::2]), "jepa-copy")
        _copy(pairs[::2])
        wait()
    events = []
    for device in {source.device for source, _ in pairs if source.is_cuda}:
        events.append(torch.cuda.Event())
        events[-1].record(torch.cuda.current_stream(device))
    return events


@torch.no_grad()
def _copy(pairs: list[Pair]) -> None:
    for source, buffer in pairs:
        buffer.copy_(source, non_blocking=source.is_cuda)
