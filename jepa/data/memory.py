"""Data that fits in memory: whole batches are picked at once, bytes stay bytes until then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from jepa.data.sampler import ResumableSampler, mixed_seed

if TYPE_CHECKING:
    from jepa.augmentations import BatchRandom

Batch = Tensor | tuple[Tensor, ...]


class BatchGenerator(torch.Generator):
    """The randomness of one batch: a function of the seed, the epoch and the batch, whatever was drawn before.

    Used as a generator, it gives each process numbers of its own. A transform that is to give the same samples on any
    number of processes draws for the *global* batch from `generator()`, and keeps `rows`, as an objective does; with
    the functions of `jepa.augmentations` that is::

        MemoryLoader(images, transform=lambda x, generator: horizontal_flip(x, generator.random(x)))
    """

    _key: tuple[int, int, int]
    _rank: int
    _world_size: int

    @classmethod
    def of(cls, sampler: ResumableSampler, epoch: int, batch: int, device: torch.device) -> BatchGenerator:
        """That of one batch of a sampler's, for use on `device`."""
        made = cls(device)
        made._key = (sampler.seed, epoch, batch)
        made._rank, made._world_size = sampler.rank, sampler.world_size
        made.manual_seed(mixed_seed(*made._key, sampler.rank))
        return made

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """A fresh generator, the same on every process."""
        salt = 2**32  # no rank
        return torch.Generator(device).manual_seed(mixed_seed(*self._key, salt))

    def global_size(self, batch_size: int) -> int:
        """Samples in the global batch, given this process's `batch_size`."""
        return batch_size * self._world_size

    def rows(self, batch_size: int) -> slice:
        """This process's rows of the global batch."""
        return slice(self._rank * batch_size, (self._rank + 1) * batch_size)

    def random(self, x: Tensor) -> BatchRandom:
        """Random numbers for the samples of a batch, as `jepa.augmentations` takes them."""
        from jepa.augmentations import BatchRandom

        return BatchRandom(self.generator(x.device), self.global_size(len(x)), self.rows(len(x)))


class MemoryLoader:
    """Batches of one or several arrays in memory, several times faster than a `DataLoader` over the same data.

    Args:
        *arrays: Tensors or numpy arrays of equal length.
        batch_size: Samples a batch, per process.
        shuffle: Whether each epoch has its own order.
        drop_last: Leave out the last batch where it is smaller.
        transform: `transform(batch, generator)` for whole batches, e.g. augmentation, on the device that they are
            delivered to. The generator is a `BatchGenerator`.
        device: Where the data is kept: `"cuda"` spares the way to the device where its memory suffices.
        deliver: Where batches go before they are transformed; where the data is kept by default. On the way from the
            CPU to a GPU they pass through pinned memory, so that neither waits for the other.
        seed: Of order and transform, when iterated by itself; a trainer uses its own.

    Iterating yields a tensor for one array, a tuple for several; each `iter()` begins the next epoch.
    """

    def __init__(
        self,
        *arrays: Tensor | np.ndarray,
        batch_size: int = 64,
        shuffle: bool = True,
        drop_last: bool = False,
        transform: Callable[[Any, BatchGenerator], Any] | None = None,
        device: torch.device | str | None = None,
        deliver: torch.device | str | None = None,
        seed: int = 0,
    ) -> None:
        if not arrays:
            raise ValueError("MemoryLoader needs at least one array")
        self.arrays: tuple[Tensor, ...] = tuple(torch.as_tensor(array, device=device) for array in arrays)
        lengths = {len(array) for array in self.arrays}
        if len(lengths) > 1:
            raise ValueError(f"arrays must have equal length, got {[len(array) for array in self.arrays]}")
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.transform = transform
        self.deliver = torch.device(deliver) if deliver is not None else None
        self.seed = seed
        self._epoch = 0
        self.sampler(seed=seed)  # refuses sizes that give no batch

    def sampler(self, *, seed: int, rank: int = 0, world_size: int = 1) -> ResumableSampler:
        """The order of the batches for one process."""
        return ResumableSampler(
            len(self.arrays[0]),
            self.batch_size,
            shuffle=self.shuffle,
            drop_last=self.drop_last,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )

    def batches(
        self, sampler: ResumableSampler, epoch: int, start: int = 0, device: torch.device | None = None
    ) -> Iterator[Any]:
        """The batches that `sampler` names, delivered to `device` where the loader has no wish of its own."""
        device = self.deliver or device or self.arrays[0].device
        for number, index in enumerate(sampler.batches(epoch, start), start=start):
            picked = [_pick(array, index, device) for array in self.arrays]
            batch: Batch = tuple(picked) if len(picked) > 1 else picked[0]
            if self.transform is not None:
                batch = self.transform(batch, BatchGenerator.of(sampler, epoch, number, device))
            yield batch

    def __iter__(self) -> Iterator[Any]:
        epoch, self._epoch = self._epoch, self._epoch + 1
        return self.batches(self.sampler(seed=self.seed), epoch)

    def __len__(self) -> int:
        return len(self.sampler(seed=self.seed))


def _pick(array: Tensor, index: Tensor, device: torch.device) -> Tensor:
    """Some rows of an array, on `device`."""
    if array.device.type == "cpu" and device.type == "cuda":
        pinned = torch.empty((len(index), *array.shape[1:]), dtype=array.dtype, pin_memory=True)
        return torch.index_select(array, 0, index, out=pinned).to(device, non_blocking=True)
    picked = array.index_select(0, index.to(array.device))
    return picked if picked.device == device else picked.to(device)
