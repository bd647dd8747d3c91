"""Data in memory: the same batches as a `DataLoader`, bytes that stay bytes, transforms that can be repeated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from jepa.data import BatchGenerator, MemoryLoader, as_source
from jepa.data.sampler import mixed_seed


def values(batches: Any) -> list[list[list[float]]]:
    return [[part.tolist() for part in (batch if isinstance(batch, tuple | list) else [batch])] for batch in batches]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
def test_batches_equal_those_of_a_dataloader_over_the_same_data(shuffle: bool, drop_last: bool) -> None:
    x, y = torch.randn(23, 3), torch.arange(23)
    memory = MemoryLoader(x, y, batch_size=4, shuffle=shuffle, drop_last=drop_last)
    loader = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=shuffle, drop_last=drop_last)
    for rank in range(2):
        ours = as_source(memory, seed=5, rank=rank, world_size=2)
        theirs = as_source(loader, seed=5, rank=rank, world_size=2)
        assert ours.batches_per_epoch == theirs.batches_per_epoch == (2 if drop_last else 3)
        for epoch in range(3):
            assert values(ours.batches(epoch)) == values(theirs.batches(epoch))


def test_iterating_goes_through_the_epochs_of_its_own_seed() -> None:
    loader = MemoryLoader(torch.arange(10), batch_size=3, seed=7)
    source = as_source(loader, seed=7)
    assert len(loader) == 4
    assert [values(loader), values(loader)] == [values(source.batches(0)), values(source.batches(1))]


def test_bytes_stay_bytes_until_a_batch_is_used() -> None:
    images = np.arange(5 * 4, dtype=np.uint8).reshape(5, 1, 2, 2)
    loader = MemoryLoader(images, batch_size=2)
    assert all(batch.dtype == torch.uint8 and batch.shape[1:] == (1, 2, 2) for batch in loader)
    assert loader.arrays[0].data_ptr() == images.ctypes.data, "the data was copied"


def test_one_array_gives_tensors_and_several_give_tuples() -> None:
    (one,) = MemoryLoader(torch.arange(3), batch_size=3)
    ((left, right),) = MemoryLoader(torch.arange(3), torch.arange(3) * 2, batch_size=3)
    assert isinstance(one, Tensor)
    assert torch.equal(left * 2, right)


def noisy(batch: Any, generator: torch.Generator) -> Any:
    return batch + torch.randn(batch.shape, generator=generator)


def transformed(seed: int = 0, epoch: int = 0, start: int = 0, rank: int = 0) -> list[Tensor]:
    loader = MemoryLoader(torch.zeros(12, 3), batch_size=2, transform=noisy)
    return list(as_source(loader, seed=seed, rank=rank, world_size=2).batches(epoch, start))


def test_transform_draws_from_a_generator_keyed_by_seed_epoch_batch_and_rank() -> None:
    for seed, epoch, rank in [(0, 0, 0), (3, 0, 0), (0, 4, 0), (0, 0, 1)]:
        for number, batch in enumerate(transformed(seed, epoch, rank=rank)):
            generator = torch.Generator().manual_seed(mixed_seed(seed, epoch, number, rank))
            assert torch.equal(batch, torch.randn(2, 3, generator=generator))


def shifted(batch: Any, generator: BatchGenerator) -> Any:
    """Draws for the global batch, as an objective does."""
    draws = torch.randn(generator.global_size(len(batch)), 3, generator=generator.generator(batch.device))
    return batch + draws[generator.rows(len(batch))]


def jittered(batch: Any, generator: BatchGenerator) -> Any:
    return batch + generator.random(batch).normal(batch, 3)


@pytest.mark.parametrize("transform", [shifted, jittered])
def test_a_transform_that_draws_for_the_global_batch_does_not_depend_on_the_number_of_ranks(transform: Any) -> None:
    data = 1000 * torch.arange(16.0)[:, None].expand(16, 3)

    def batches(batch_size: int, rank: int, world_size: int, epoch: int = 1) -> list[Tensor]:
        loader = MemoryLoader(data, batch_size=batch_size, transform=transform)
        return list(as_source(loader, seed=4, rank=rank, world_size=world_size).batches(epoch))

    alone = batches(8, 0, 1)
    together = [torch.cat(shares) for shares in zip(*(batches(2, rank, 4) for rank in range(4)), strict=True)]
    assert len(alone) == 2
    assert all(torch.equal(one, four) for one, four in zip(alone, together, strict=True))
    noise = [batch - 1000 * (batch / 1000).round() for batch in [*alone, *batches(8, 0, 1, epoch=2)]]
    assert len({tuple(each.flatten().tolist()) for each in noise}) == 4, "new in each batch and epoch"


def test_a_transform_that_draws_for_its_own_batch_gets_other_numbers_on_each_rank() -> None:
    first, second = transformed(rank=0), transformed(rank=1)
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("kept", ["cpu", "meta"])
def test_batches_are_transformed_where_they_are_delivered(kept: str) -> None:
    seen = []

    def transform(batch: Any, generator: BatchGenerator) -> Any:
        seen.append((batch[0].device.type, generator.device.type))
        return batch

    device = torch.device("cpu")
    wish = MemoryLoader(torch.zeros(4, 2), torch.zeros(4), batch_size=2, device=kept)
    assert {part.device.type for batch in wish for part in batch} == {kept}
    loader = MemoryLoader(torch.zeros(4, 2), torch.zeros(4), batch_size=2, transform=transform, deliver="cpu")
    list(as_source(loader, seed=0, device=torch.device("meta")).batches(0))
    list(as_source(MemoryLoader(torch.zeros(4), batch_size=2), seed=0, device=device).batches(0))
    assert seen == [("cpu", "cpu")] * 2
    (batch, _) = as_source(MemoryLoader(torch.zeros(4), batch_size=2), seed=0, device=torch.device("meta")).batches(0)
    assert batch.device.type == "meta", "where the trainer is"


@pytest.mark.gpu
def test_batches_reach_the_gpu_and_are_transformed_there() -> None:
    data = torch.arange(12.0)[:, None].expand(12, 3).contiguous()
    expected = list(as_source(MemoryLoader(data, batch_size=4), seed=1).batches(0))
    for options in ({"deliver": "cuda"}, {"device": "cuda"}, {}):
        loader = MemoryLoader(data, batch_size=4, transform=jittered, **options)
        source = as_source(loader, seed=1, device=torch.device("cuda"))
        batches = list(source.batches(0))
        assert {batch.device.type for batch in batches} == {"cuda"}
        assert all(torch.equal(a, b) for a, b in zip(batches, source.batches(0), strict=True))
        assert all((a.cpu() - b).abs().max() < 6 for a, b in zip(batches, expected, strict=True))


def test_transformed_batches_are_the_same_after_a_start_in_mid_epoch() -> None:
    torch.rand(5)  # the global generator has no say in it
    whole, tail = transformed(epoch=2), transformed(epoch=2, start=2)
    assert len(tail) == len(whole) - 2 > 0
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], tail, strict=True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MemoryLoader(), "needs at least one array"),
        (lambda: MemoryLoader(torch.zeros(3), np.zeros(4)), r"equal length, got \[3, 4\]"),
        (lambda: MemoryLoader(torch.zeros(0, 3)), "the loader is empty: 0 samples"),
        (lambda: MemoryLoader(torch.zeros(3), batch_size=4, drop_last=True), "the loader is empty: 3 samples"),
        (lambda: MemoryLoader(torch.zeros(3), batch_size=0), "batch_size must be at least 1, got 0"),
    ],
)
def test_data_that_gives_no_batch_is_refused_at_once(make: Callable[[], MemoryLoader], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
