"""Data without a length: read as it comes, shared out among ranks by the stream itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info


class ShardedStream(IterableDataset[Any], ABC):
    """Samples one after another, of which each process can get its share.

    Attributes:
        length: Samples that count as an epoch, over all processes; `None` for one pass, however long it is.
    """

    length: int | None = None

    @abstractmethod
    def share(self, rank: int, world_size: int) -> ShardedStream:
        """What one of several processes reads."""

    @abstractmethod
    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next, so that it may have an order of its own."""


class StreamSource:
    """A `DataLoader` over a `ShardedStream`, which the trainer reads by position.

    To continue in mid-epoch, the batches before are read and dropped. With `stream.length` an epoch has a known number
    of full batches, equal on every process; a share that is used up before begins again.
    """

    def __init__(self, loader: DataLoader[Any], *, rank: int, world_size: int) -> None:
        stream: Any = loader.dataset
        size = loader.batch_size
        if size is None:
            raise ValueError("a DataLoader with batch_size=None yields samples, not batches; set batch_size")
        self.batches_per_epoch: int | None = None
        if stream.length is not None:
            whole, rest = divmod(stream.length, size * world_size)
            self.batches_per_epoch = whole + (rest > 0 and not loader.drop_last)
        elif world_size > 1:
            raise ValueError(
                "the processes would not know when to end an epoch together, as their shares of a stream may differ: "
                "give the stream a length=, the number of samples that count as an epoch"
            )
        if self.batches_per_epoch == 0:
            raise ValueError(
                f"the loader is empty: {stream.length} samples, batches of {size} on {world_size} process(es), "
                f"drop_last={loader.drop_last}; use a smaller batch_size, drop_last=False, or a larger length"
            )
        self._stream = stream.share(rank, world_size)
        self._loader = like(loader, self._stream if stream.length is None else _Endless(self._stream))
        self.notes = [
            f"{type(stream).__name__} decides its own order, so continuing in mid-epoch reads and drops its first "
            "batches; they equal those of the interrupted run only if that order is repeatable"
        ]

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches of an epoch from number `start` on."""
        self._stream.set_epoch(epoch)
        return islice(iter(self._loader), start, self.batches_per_epoch)

    def describe(self, epoch: int, batch: int) -> str:
        """Which batch it is; the samples are not known."""
        return f"batch {batch}"


class _Endless(IterableDataset[Any]):
    """A stream that begins again where it ends."""

    def __init__(self, stream: ShardedStream) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[Any]:
        while True:
            empty = True
            for sample in self.stream:
                empty = False
                yield sample
            if empty and get_worker_info() is not None:
                return  # there may be more workers than shards
            if empty:
                raise ValueError("the stream is empty")


def like(loader: DataLoader[Any], dataset: Any, **options: Any) -> DataLoader[Any]:
    """A `DataLoader` over another dataset with the options of a given one, unless others are given."""
    if loader.num_workers > 0:
        options = {
            "prefetch_factor": loader.prefetch_factor,
            "persistent_workers": loader.persistent_workers,
            "multiprocessing_context": loader.multiprocessing_context,
            **options,
        }
    if "batch_sampler" not in options:
        options = {"batch_size": loader.batch_size, "drop_last": loader.drop_last, **options}
    return DataLoader(
        dataset,
        **{
            "collate_fn": loader.collate_fn,
            "num_workers": loader.num_workers,
            "pin_memory": loader.pin_memory,
            "timeout": loader.timeout,
            "worker_init_fn": loader.worker_init_fn,
            **options,
        },
    )
