"""The order of the data: a function of (seed, epoch), shared out among ranks, that can begin anywhere."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def mixed_seed(*parts: int) -> int:
    """One 63-bit seed from several numbers, well mixed (splitmix64)."""
    state = 0
    for part in parts:
        state = (state + part + 0x9E3779B97F4A7C15) % 2**64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
        state ^= state >> 31
    return state % 2**63


class ResumableSampler:
    """Batches of sample numbers.

    A *global* batch holds `batch_size * world_size` samples; each rank takes its slice of it, so 2 ranks with batch B
    and 1 rank with batch 2B see the same data in the same order. The last, smaller global batch is divided evenly;
    where it does not divide, it is filled up with at most `world_size - 1` samples from the start of the epoch.

    Args:
        length: Samples in the data.
        batch_size: Samples a batch, per process.
        shuffle: Whether each epoch has its own order.
        drop_last: Leave out the last batch where it is smaller.
        seed: With the epoch, decides the order.
        rank: This process.
        world_size: Number of processes.

    Raises:
        ValueError: There would be no batch at all.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        shuffle: bool = True,
        drop_last: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in [0, {world_size}), got {rank}")
        self.length = length
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        if len(self) == 0:
            raise ValueError(
                f"the loader is empty: {length} samples, batches of {batch_size} on {world_size} process(es), "
                f"drop_last={drop_last}; use a smaller batch_size, drop_last=False, or more data"
            )

    @property
    def size(self) -> dict[str, int]:
        """What must not change where a run goes on in mid-epoch: `samples` and the `global_batch_size` of all ranks."""
        return {"samples": self.length, "global_batch_size": self.batch_size * self.world_size}

    def __len__(self) -> int:
        size = self.batch_size * self.world_size
        return self.length // size if self.drop_last else -(-self.length // size)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """This rank's batches of an epoch, from batch `start` on: (B,) int64 each."""
        order = self._order(epoch)
        for batch in range(start, len(self)):
            yield self._slice(order, batch)

    def indices(self, epoch: int, batch: int) -> Tensor:
        """This rank's samples in one batch of an epoch."""
        return self._slice(self._order(epoch), batch)

    def _order(self, epoch: int) -> Tensor:
        if not self.shuffle:
            return torch.arange(self.length)
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch))
        return torch.randperm(self.length, generator=generator)

    def _slice(self, order: Tensor, batch: int) -> Tensor:
        size = self.batch_size * self.world_size
        whole = order[batch * size : (batch + 1) * size]
        missing = -len(whole) % self.world_size
        if missing:
            whole = torch.cat([whole, order.repeat(-(-missing // len(order)))[:missing]])
        share = len(whole) // self.world_size
        return whole[self.rank * share : (self.rank + 1) * share]
