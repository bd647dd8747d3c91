"""What the trainer reads from: any loader, made to begin at any batch of any epoch and to give each rank its share."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)

from jepa.data.lazy import states_deterministic
from jepa.data.memory import MemoryLoader
from jepa.data.sampler import ResumableSampler, mixed_seed
from jepa.data.stream import ShardedStream, StreamSource, like
from jepa.data.workers import SteadyLoader

DataSize = dict[str, int]


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


def as_source(
    loader: Any,
    *,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | None = None,
    on_worker_lost: Callable[[str], None] | None = None,
) -> BatchSource:
    """A source over any loader.

    A `MemoryLoader` and a `DataLoader` with one of torch's own samplers are read in an order that is a function of
    (seed, epoch), and continue in mid-epoch at once; workers that are killed are replaced. A `DataLoader` over a
    `ShardedStream` is shared out by the stream.
    Anything else that can be iterated again and again is read as it comes, and skipped forward to continue.

    Args:
        loader: `DataLoader`, `MemoryLoader`, or any re-iterable of batches.
        seed: The run's seed.
        rank: This process.
        world_size: Number of processes.
        device: Where a `MemoryLoader` delivers (and transforms) batches, unless it has its own wish.
        on_worker_lost: Told of each worker process that died and was replaced.

    Raises:
        TypeError: Not something that can be iterated again and again.
        ValueError: It holds no batch, or does not share its data out among several processes.
    """
    if isinstance(loader, MemoryLoader):
        return MemorySource(loader, loader.sampler(seed=seed, rank=rank, world_size=world_size), device)
    if isinstance(loader, DataLoader) and _has_standard_sampler(loader):
        return DataLoaderSource(loader, seed=seed, rank=rank, world_size=world_size, on_worker_lost=on_worker_lost)
    if isinstance(loader, DataLoader) and isinstance(loader.dataset, ShardedStream):
        return StreamSource(loader, rank=rank, world_size=world_size)
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


def size_of(source: BatchSource) -> DataSize | None:
    """Samples and global batch size, where the source knows them (see `ResumableSampler.size`)."""
    return getattr(source, "size", None)


def _has_standard_sampler(loader: DataLoader[Any]) -> bool:
    if isinstance(loader.dataset, IterableDataset) or loader.batch_size is None:
        return False
    sampler = loader.sampler
    if type(sampler) is RandomSampler:
        return not sampler.replacement and sampler.num_samples == len(loader.dataset)  # type: ignore[arg-type]
    return type(sampler) in (SequentialSampler, DistributedSampler)


class MemorySource:
    """A `MemoryLoader`, read by position."""

    def __init__(self, loader: MemoryLoader, sampler: ResumableSampler, device: torch.device | None = None) -> None:
        self._loader = loader
        self._sampler = sampler
        self._device = device
        self.size: DataSize | None = sampler.size
        self.batches_per_epoch: int | None = len(sampler)
        self.notes: list[str] = []

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches of an epoch from number `start` on."""
        return self._loader.batches(self._sampler, epoch, start, self._device)

    def describe(self, epoch: int, batch: int) -> str:
        """Which samples a batch holds."""
        return _describe(self._sampler, epoch, batch)


class DataLoaderSource:
    """A user's `DataLoader`, rebuilt around a sampler that can begin anywhere.

    Samples of a dataset with randomness of its own (augmentation) are drawn under a seed that is a function of
    (seed, epoch, sample), and a collate function of the user's runs under one that is a function of (seed, epoch,
    first sample of the batch), so neither workers, nor pauses, nor resuming change them. When a worker process is
    killed, new ones read on from the batch that it owes, with a warning.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        *,
        seed: int,
        rank: int,
        world_size: int,
        on_worker_lost: Callable[[str], None] | None = None,
    ) -> None:
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
        self.size: DataSize | None = self._sampler.size
        own = loader.collate_fn
        collate: Any = _collate_plainly if own is default_collate else _SeededCollate(own, seed)
        make = partial(
            like,
            loader,
            _KeyedDataset(loader.dataset, None if _is_deterministic(loader.dataset) else seed),
            batch_sampler=self._order,
            collate_fn=collate,
            generator=torch.Generator().manual_seed(mixed_seed(seed, rank)),
        )
        self._loader = SteadyLoader(make, on_worker_lost) if loader.num_workers else make()
        self.batches_per_epoch: int | None = len(self._sampler)
        self.notes: list[str] = []

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches of an epoch from number `start` on."""
        if isinstance(self._loader, SteadyLoader):
            return self._loader.batches(self._order.begin_at, epoch, start)
        self._order.begin_at(epoch, start)
        return iter(self._loader)

    def close(self) -> None:
        """End the worker processes that are kept between epochs; it can be read again."""
        if isinstance(self._loader, SteadyLoader):
            self._loader.close()

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

    def begin_at(self, epoch: int, start: int) -> None:
        """Where the next pass begins."""
        self.epoch, self.start = epoch, start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch  # of this pass, whatever is asked for next
        return ([(epoch, number) for number in index.tolist()] for index in self._sampler.batches(epoch, self.start))

    def __len__(self) -> int:
        return len(self._sampler) - self.start


class _KeyedSamples(NamedTuple):
    """The samples of one batch, with the key of the first."""

    samples: Any
    epoch: int
    first: int


class _KeyedDataset(Dataset[Any]):
    """A dataset whose batches are asked for by (epoch, sample) keys; in all else it is the user's own.

    `worker_init_fn` finds it as `get_worker_info().dataset` and may read and set the attributes of the user's.
    `seed=None` trusts the dataset to be deterministic.
    """

    def __init__(self, dataset: Dataset[Any], seed: int | None) -> None:
        vars(self).update(_keyed_dataset=dataset, _keyed_seed=seed)  # past __setattr__

    def __getitems__(self, keys: list[tuple[int, int]]) -> _KeyedSamples:
        return _KeyedSamples(self._keyed_read(keys), *keys[0])

    def _keyed_read(self, keys: list[tuple[int, int]]) -> Any:
        dataset, seed = self._keyed_dataset, self._keyed_seed
        if seed is None:
            numbers = [number for _, number in keys]
            together = getattr(dataset, "__getitems__", None)
            return together(numbers) if together else [dataset[number] for number in numbers]
        samples = []
        for epoch, number in keys:
            with _seeded(mixed_seed(seed, epoch, number)):
                samples.append(dataset[number])
        return samples

    def __getitem__(self, index: Any) -> Any:
        return self._keyed_dataset[index]

    def __len__(self) -> int:
        return len(self._keyed_dataset)

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("_keyed_", "__")):  # unpickling looks for these before there is a dataset
            raise AttributeError(name)
        return getattr(self._keyed_dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._keyed_dataset, name, value)


def _is_deterministic(dataset: Any) -> bool:
    """Whether reading a sample twice gives the same for certain; a subclass may augment."""
    if type(dataset) is Subset:
        return _is_deterministic(dataset.dataset)
    return type(dataset) is TensorDataset or states_deterministic(dataset)


def _collate_plainly(batch: _KeyedSamples) -> Any:
    return default_collate(batch.samples)


class _SeededCollate:
    """A collate function of the user's, which may be random (mixing of samples, padding, masks)."""

    def __init__(self, collate: Callable[[Any], Any], seed: int) -> None:
        self._collate = collate
        self._seed = seed

    def __call__(self, batch: _KeyedSamples) -> Any:
        salt = 1  # its randomness is not that of the first sample
        with _seeded(mixed_seed(self._seed, batch.epoch, batch.first, salt)):
            return self._collate(batch.samples)


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
