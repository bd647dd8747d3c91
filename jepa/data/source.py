"""What the trainer reads from: any loader, made to begin at any batch of any epoch and to give each rank its share."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
)

from jepa.data.memory import MemoryLoader
from jepa.data.sampler import ResumableSampler, mixed_seed


class BatchSource(Protocol):
    """Batches by position.

    Attributes:
        batches_per_epoch: `None` where it is not known.
        notes: Sentences worth telling the user.
    """

    batches_per_epoch: int | None
    notes: list[str]

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches of an epoch from number `start` on."""
        ...

    def describe(self, epoch: int, batch: int) -> str:
        """Which samples a batch holds, for error messages."""
        ...


def as_source(loader: Any, *, seed: int, rank: int = 0, world_size: int = 1) -> BatchSource:
    """A source over any loader.

    A `MemoryLoader` and a `DataLoader` with one of torch's own samplers are read in an order that is a function of
    (seed, epoch), and continue in mid-epoch at once. Anything else that can be iterated again and again is read as
    it comes, and skipped forward to continue.

    Args:
        loader: `DataLoader`, `MemoryLoader`, or any re-iterable of batches.
        seed: The run's seed.
        rank: This process.
        world_size: Number of processes.

    Raises:
        TypeError: Not something that can be iterated again and again.
        ValueError: It holds no batch, or does not share its data out among several processes.
    """
    if isinstance(loader, MemoryLoader):
        return MemorySource(loader, loader.sampler(seed=seed, rank=rank, world_size=world_size))
    if isinstance(loader, DataLoader) and _has_standard_sampler(loader):
        return DataLoaderSource(loader, seed=seed, rank=rank, world_size=world_size)
    if isinstance(loader, Dataset | Tensor):
        raise TypeError(
            f"got a {type(loader).__name__}, not a loader of batches; wrap it: "
            "jepa.data.make_loader(data, batch_size=64)"
        )
    if not isinstance(loader, Iterable) or isinstance(loader, str | bytes):
        raise TypeError(f"expected a DataLoader, a MemoryLoader or a re-iterable of batches, got {loader!r}")
    if isinstance(loader, Iterator):
        raise TypeError("an iterator is used up after one epoch; pass the loader itself, or a list of batches")
    if world_size > 1:
        raise ValueError(
            "this loader would give every process the same data; use a DataLoader with shuffle=, a "
            "DistributedSampler, or a MemoryLoader, which are shared out among the processes"
        )
    return IterableSource(loader)


def _has_standard_sampler(loader: DataLoader[Any]) -> bool:
    if isinstance(loader.dataset, IterableDataset) or loader.batch_size is None:
        return False
    sampler = loader.sampler
    if type(sampler) is RandomSampler:
        return not sampler.replacement and sampler.num_samples == len(loader.dataset)  # type: ignore[arg-type]
    return type(sampler) in (SequentialSampler, DistributedSampler)


class MemorySource:
    """A `MemoryLoader`, read by position."""

    def __init__(self, loader: MemoryLoader, sampler: ResumableSampler) -> None:
        self._loader = loader
        self._sampler = sampler
        self.batches_per_epoch: int | None = len(sampler)
        self.notes: list[str] = []

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches of an epoch from number `start` on."""
        return self._loader.batches(self._sampler, epoch, start)

    def describe(self, epoch: int, batch: int) -> str:
        """Which samples a batch holds."""
        return _describe(self._sampler, epoch, batch)


class DataLoaderSource:
    """A user's `DataLoader`, rebuilt around a sampler that can begin anywhere.

    Samples of a dataset with randomness of its own (augmentation) are drawn under a seed that is a function of
    (seed, epoch, sample), so neither workers, nor pauses, nor resuming change them.
    """

    def __init__(self, loader: DataLoader[Any], *, seed: int, rank: int, world_size: int) -> None:
        sampler = loader.sampler
        shuffle = sampler.shuffle if isinstance(sampler, DistributedSampler) else isinstance(sampler, RandomSampler)
        if loader.batch_size is None:
            raise ValueError("a DataLoader with batch_size=None yields samples, not batches; set batch_size")
        self._sampler = ResumableSampler(
            len(loader.dataset),  # type: ignore[arg-type]
            loader.batch_size,
            shuffle=shuffle,
            drop_last=loader.drop_last,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
        self._order = _KeyedBatches(self._sampler)
        seeded = type(loader.dataset) is not TensorDataset
        options: dict[str, Any] = {}
        if loader.num_workers > 0:
            options = {
                "prefetch_factor": loader.prefetch_factor,
                "persistent_workers": loader.persistent_workers,
                "multiprocessing_context": loader.multiprocessing_context,
            }
        self._loader: DataLoader[Any] = DataLoader(
            _KeyedDataset(loader.dataset, seed if seeded else None),
            batch_sampler=self._order,
            collate_fn=loader.collate_fn,
            num_workers=loader.num_workers,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            generator=torch.Generator().manual_seed(mixed_seed(seed, rank)),
            **options,
        )
        self.batches_per_epoch: int | None = len(self._sampler)
        self.notes: list[str] = []

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches of an epoch from number `start` on."""
        self._order.epoch, self._order.start = epoch, start
        return iter(self._loader)

    def describe(self, epoch: int, batch: int) -> str:
        """Which samples a batch holds."""
        return _describe(self._sampler, epoch, batch)


class IterableSource:
    """Anything re-iterable, read as it comes; to continue in mid-epoch its first batches are read and dropped."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self._loader = loader
        try:
            self.batches_per_epoch: int | None = len(loader)  # type: ignore[arg-type]
        except TypeError:
            self.batches_per_epoch = None
        if self.batches_per_epoch == 0:
            raise ValueError("the loader is empty: it has length 0")
        self.notes: list[str] = [
            f"{type(loader).__name__} decides its own order, so continuing in mid-epoch skips its first batches; "
            "they equal those of the interrupted run only if that order is repeatable"
        ]

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches of an epoch from number `start` on."""
        set_epoch = getattr(getattr(self._loader, "sampler", None), "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)
        batches = iter(self._loader)
        for _ in range(start):
            if next(batches, None) is None:
                break
        return batches

    def describe(self, epoch: int, batch: int) -> str:
        """Which batch it is; the samples are not known."""
        return f"batch {batch}"


def _describe(sampler: ResumableSampler, epoch: int, batch: int) -> str:
    index = sampler.indices(epoch, batch).tolist()
    shown = ", ".join(map(str, index[:8])) + (", ..." if len(index) > 8 else "")
    return f"batch {batch}, samples {shown}"


class _KeyedBatches:
    """Batches of (epoch, sample) keys, so that workers know the epoch."""

    def __init__(self, sampler: ResumableSampler) -> None:
        self._sampler = sampler
        self.epoch = 0
        self.start = 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch  # of this pass, whatever is asked for next
        return ([(epoch, number) for number in index.tolist()] for index in self._sampler.batches(epoch, self.start))

    def __len__(self) -> int:
        return len(self._sampler) - self.start


class _KeyedDataset(Dataset[Any]):
    """A dataset asked by (epoch, sample) keys; `seed=None` trusts it to be deterministic."""

    def __init__(self, dataset: Dataset[Any], seed: int | None) -> None:
        self._dataset = dataset
        self._seed = seed

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        if self._seed is None:
            return self._dataset[index]
        with _seeded(mixed_seed(self._seed, epoch, index)):
            return self._dataset[index]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the process-wide generators, and put them back afterwards."""
    numpy_random = sys.modules.get("numpy.random")
    kept_torch, kept_python = torch.get_rng_state(), random.getstate()
    kept_numpy = numpy_random.get_state() if numpy_random else None
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    if numpy_random:
        numpy_random.seed(seed % 2**32)
    try:
        yield
    finally:
        torch.set_rng_state(kept_torch)
        random.setstate(kept_python)
        if numpy_random:
            numpy_random.set_state(kept_numpy)
