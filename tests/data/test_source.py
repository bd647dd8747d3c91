"""What the trainer reads from: every kind of loader, by position, shared out among ranks, repeatable."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from jepa.data import BatchSource, MemoryLoader, as_source


class Numbers(Dataset[Tensor]):
    """Sample i is i."""

    def __init__(self, length: int = 11) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor(index)


class Augmented(Numbers):
    """Sample i is i and three random numbers, one from each generator that datasets commonly use."""

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor([index, torch.rand(()).item(), random.random(), np.random.rand()], dtype=torch.float64)


class Stream(IterableDataset[Tensor]):
    """Numbers without a length."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.arange(7))


def batches(source: BatchSource, epoch: int = 0, start: int = 0) -> list[Any]:
    return [batch.tolist() for batch in source.batches(epoch, start)]


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_dataloader_is_shared_out_among_ranks_without_changing_the_data(shuffle: bool) -> None:
    loader = DataLoader(Numbers(16), batch_size=4, shuffle=shuffle)
    wide = DataLoader(Numbers(16), batch_size=8, shuffle=shuffle)
    shares = [batches(as_source(loader, seed=1, rank=rank, world_size=2), epoch=3) for rank in range(2)]
    together = [left + right for left, right in zip(*shares, strict=True)]
    assert together == batches(as_source(wide, seed=1), epoch=3)
    assert sorted(chain(*together)) == list(range(16))
    assert (together == [[*range(8)], [*range(8, 16)]]) is not shuffle


def test_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    loader = DataLoader(Numbers(), batch_size=4, shuffle=True)
    first = batches(as_source(loader, seed=1), epoch=2)
    torch.manual_seed(99)
    assert batches(as_source(loader, seed=1), epoch=2) == first
    assert batches(as_source(loader, seed=1), epoch=3) != first
    assert batches(as_source(loader, seed=2), epoch=2) != first


@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_a_dataloader_starts_in_mid_epoch(start: int) -> None:
    source = as_source(DataLoader(Augmented(), batch_size=4, shuffle=True), seed=1)
    assert source.batches_per_epoch == 3
    assert batches(source, 5, start) == batches(source, 5)[start:]


@pytest.mark.parametrize("persistent", [False, True])
def test_random_augmentation_does_not_depend_on_the_workers(persistent: bool) -> None:
    alone = as_source(DataLoader(Augmented(), batch_size=4, shuffle=True), seed=1)
    helped = as_source(
        DataLoader(Augmented(), batch_size=4, shuffle=True, num_workers=2, persistent_workers=persistent), seed=1
    )
    for epoch, start in [(0, 0), (1, 2)]:
        assert batches(helped, epoch, start) == batches(alone, epoch, start)


def test_random_augmentation_is_new_in_each_epoch_and_for_each_sample() -> None:
    source = as_source(DataLoader(Augmented(), batch_size=11), seed=1)
    first, second = (torch.tensor(batches(source, epoch)[0]) for epoch in range(2))
    assert torch.equal(first[:, 0], second[:, 0])
    for column in range(1, 4):
        assert len({*first[:, column].tolist(), *second[:, column].tolist()}) == 22


def test_random_augmentation_does_not_depend_on_the_number_of_ranks() -> None:
    narrow, wide = (DataLoader(Augmented(16), batch_size=size, shuffle=True) for size in (4, 8))
    shares = [batches(as_source(narrow, seed=1, rank=rank, world_size=2)) for rank in range(2)]
    assert [left + right for left, right in zip(*shares, strict=True)] == batches(as_source(wide, seed=1))


@pytest.mark.parametrize("dataset", [Augmented(), TensorDataset(torch.arange(11))])
def test_reading_leaves_the_global_generators_where_they_were(dataset: Dataset[Any]) -> None:
    def state() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore

    before = state()
    list(as_source(DataLoader(dataset, batch_size=4, shuffle=True), seed=1).batches(0))
    assert state() == before


def test_global_generators_are_put_back_after_a_sample_that_raises() -> None:
    class Broken(Numbers):
        def __getitem__(self, index: int) -> Tensor:
            torch.rand(1)
            raise OSError("sample 0 is unreadable")

    before = torch.get_rng_state()
    with pytest.raises(OSError, match="unreadable"):
        list(as_source(DataLoader(Broken(), batch_size=4), seed=1).batches(0))
    assert torch.equal(before, torch.get_rng_state())


def test_iterators_of_one_source_do_not_disturb_each_other() -> None:
    source = as_source(DataLoader(Numbers(), batch_size=4, shuffle=True), seed=1)
    expected = [batches(source, 0), batches(source, 1, 1)]
    first, second = source.batches(0), source.batches(1, 1)
    assert [[batch.tolist() for batch in one] for one in (first, second)] == expected


@pytest.mark.parametrize("drop_last", [True, False])
def test_drop_last_of_a_dataloader_is_kept(drop_last: bool) -> None:
    source = as_source(DataLoader(Numbers(), batch_size=4, drop_last=drop_last), seed=0)
    expected = [[0, 1, 2, 3], [4, 5, 6, 7]] + ([] if drop_last else [[8, 9, 10]])
    assert batches(source) == expected
    assert source.batches_per_epoch == len(expected)


def test_collate_function_and_worker_options_of_a_dataloader_are_kept() -> None:
    loader = DataLoader(Numbers(5), batch_size=2, collate_fn=lambda samples: torch.stack(samples) * 10)
    assert batches(as_source(loader, seed=0)) == [[0, 10], [20, 30], [40]]


def mix(samples: list[Tensor]) -> Tensor:
    """Each sample with its share in one mixture, drawn from every generator."""
    shares = torch.rand(len(samples), dtype=torch.float64) + random.random() + np.random.rand()
    return torch.stack([torch.stack(samples).double(), shares])


def test_a_random_collate_function_does_not_depend_on_workers_or_the_start() -> None:
    def source(**options: Any) -> BatchSource:
        return as_source(DataLoader(Numbers(), batch_size=4, shuffle=True, collate_fn=mix, **options), seed=1)

    expected = [batches(source(), epoch) for epoch in range(2)]
    drawn = [share for epoch in expected for batch in epoch for share in batch[1]]
    assert len(set(drawn)) == 22, "new in each epoch and batch"
    for other in (source(), source(num_workers=2), source(num_workers=2, persistent_workers=True)):
        random.random(), np.random.rand(), torch.rand(1)
        for epoch, start in ((0, 0), (1, 0), (1, 1), (0, 2)):
            assert batches(other, epoch, start) == expected[epoch][start:]


def test_a_random_collate_function_leaves_the_global_generators_where_they_were() -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore
    list(as_source(DataLoader(Numbers(), batch_size=4, collate_fn=mix), seed=1).batches(0))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore


def test_randomness_of_the_collate_function_is_not_that_of_the_first_sample() -> None:
    loader = DataLoader(Augmented(1), batch_size=1, collate_fn=lambda samples: (samples[0][1], torch.rand(())))
    in_sample, in_collate = next(as_source(loader, seed=1).batches(0))
    assert in_sample.item() != pytest.approx(in_collate.item())


class Opened(Numbers):
    """Needs something that each worker opens for itself."""

    factor: int | None = None

    def __getitem__(self, index: int) -> Tensor:
        assert self.factor is not None
        return torch.tensor(index * self.factor)


def open_in_worker(worker: int) -> None:
    info = torch.utils.data.get_worker_info()
    assert info is not None
    dataset: Any = info.dataset
    assert dataset.length == len(dataset) == 11
    assert not hasattr(dataset, "nothing_like_it")
    dataset.factor = 10


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_init_functions_reach_the_attributes_of_the_users_dataset(method: str) -> None:
    loader = DataLoader(
        Opened(), batch_size=4, num_workers=1, worker_init_fn=open_in_worker, multiprocessing_context=method
    )
    assert batches(as_source(loader, seed=0)) == [[0, 10, 20, 30], [40, 50, 60, 70], [80, 90, 100]]


class Keeping(Numbers):
    """Says how it is to be pickled and copied."""

    def __getstate__(self) -> dict[str, Any]:
        return {"length": self.length}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, restored=True)

    def __deepcopy__(self, memo: dict[int, Any]) -> Keeping:
        return pickle.loads(pickle.dumps(self))


def test_a_wrapped_dataset_is_copied_and_pickled_like_its_own() -> None:
    source = as_source(DataLoader(Keeping(5), batch_size=2), seed=0)
    wrapped = source._loader.dataset  # type: ignore[attr-defined]
    for twin in (pickle.loads(pickle.dumps(wrapped)), copy.deepcopy(wrapped)):
        assert type(twin) is type(wrapped)
        assert (twin.length, twin.restored, len(twin), twin[3].item()) == (5, True, 5, 3)
        with pytest.raises(AttributeError, match="nothing_like_it"):
            _ = twin.nothing_like_it
    assert not hasattr(wrapped, "restored")


def test_a_part_of_tensors_is_read_several_samples_at_a_time() -> None:
    part = Subset(TensorDataset(torch.arange(20)), list(range(19, 8, -1)))
    asked: list[list[int]] = []
    whole = Subset.__getitems__

    def counting(self: Subset[Any], indices: list[int]) -> list[Any]:
        asked.append(indices)
        return whole(self, indices)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Subset, "__getitems__", counting)
        read = [batch[0].tolist() for batch in as_source(DataLoader(part, batch_size=4), seed=0).batches(0)]
    assert read == [[19, 18, 17, 16], [15, 14, 13, 12], [11, 10, 9]]
    assert asked == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]


@pytest.mark.parametrize("dataset", [Subset(Augmented(22), range(11)), Augmented()])
def test_a_part_of_a_random_dataset_is_seeded_sample_by_sample(dataset: Dataset[Any]) -> None:
    by_four, by_two = (as_source(DataLoader(dataset, batch_size=size), seed=1) for size in (4, 2))
    assert [*chain(*batches(by_four))] == [*chain(*batches(by_two))] == [*chain(*batches(by_four))]


def test_an_epoch_begun_twice_reads_every_sample_once_each_time() -> None:
    loader = DataLoader(Numbers(), batch_size=4, num_workers=1, persistent_workers=True)
    source = as_source(loader, seed=0)
    interrupted = source.batches(0)
    next(interrupted)
    assert batches(source, 0) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_distributed_sampler_is_shared_out_by_the_run(shuffle: bool) -> None:
    def loader(rank: int) -> DataLoader[Tensor]:
        sampler = DistributedSampler(Numbers(16), num_replicas=2, rank=rank, shuffle=shuffle)
        return DataLoader(Numbers(16), batch_size=4, sampler=sampler)

    shares = [batches(as_source(loader(rank), seed=1, rank=rank, world_size=2), epoch=1) for rank in range(2)]
    assert sorted(chain(*shares[0], *shares[1])) == list(range(16))
    plain = DataLoader(Numbers(16), batch_size=4, shuffle=shuffle)
    assert shares == [batches(as_source(plain, seed=1, rank=rank, world_size=2), epoch=1) for rank in range(2)]


def test_a_memory_loader_reads_by_position() -> None:
    source = as_source(MemoryLoader(torch.arange(11), batch_size=4), seed=1)
    assert source.batches_per_epoch == 3
    assert batches(source, 2, 1) == batches(source, 2)[1:]
    assert sorted(chain(*batches(source, 2))) == list(range(11))


def test_a_list_of_batches_is_read_as_it_comes_and_says_so() -> None:
    source = as_source([torch.tensor([number]) for number in range(4)], seed=0)
    assert source.batches_per_epoch == 4
    assert batches(source, epoch=7, start=1) == [[1], [2], [3]]
    assert batches(source, start=9) == []
    assert source.describe(0, 2) == "batch 2"
    assert "list decides its own order" in source.notes[0]


def test_an_iterable_dataset_is_read_as_it_comes() -> None:
    source = as_source(DataLoader(Stream(), batch_size=3), seed=0)
    assert source.batches_per_epoch is None
    assert batches(source) == batches(source, epoch=1) == [[0, 1, 2], [3, 4, 5], [6]]
    assert batches(source, start=2) == [[6]]


def test_a_custom_sampler_keeps_its_order_and_hears_of_the_epoch() -> None:
    class Backwards:
        """Data from behind, shifted by the epoch."""

        epoch = 0

        def __len__(self) -> int:
            return 4

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __iter__(self) -> Iterator[int]:
            return iter([(index + self.epoch) % 4 for index in (3, 2, 1, 0)])

    source = as_source(DataLoader(Numbers(4), batch_size=2, sampler=Backwards()), seed=0)  # type: ignore[arg-type]
    assert source.notes
    assert batches(source, 0) == [[3, 2], [1, 0]]
    assert batches(source, 1) == [[0, 3], [2, 1]]


def test_samplers_that_draw_with_replacement_keep_their_meaning() -> None:
    weighted = WeightedRandomSampler([0.0, 1.0, 0.0], num_samples=6)
    assert batches(as_source(DataLoader(Numbers(3), batch_size=3, sampler=weighted), seed=0)) == [[1] * 3] * 2
    fewer = RandomSampler(Numbers(11), num_samples=4)
    assert as_source(DataLoader(Numbers(11), batch_size=4, sampler=fewer), seed=0).batches_per_epoch == 1


@pytest.mark.parametrize(
    "loader", [DataLoader(Numbers(13), batch_size=10), MemoryLoader(torch.arange(13), batch_size=10, shuffle=False)]
)
def test_a_batch_is_described_by_its_samples(loader: Any) -> None:
    source = as_source(loader, seed=0)
    assert source.describe(0, 0) == "batch 0, samples 0, 1, 2, 3, 4, 5, 6, 7, ..."
    assert source.describe(0, 1) == "batch 1, samples 10, 11, 12"
    shuffled = as_source(MemoryLoader(torch.arange(13), batch_size=3), seed=4)
    named = ", ".join(map(str, batches(shuffled, 2)[1]))
    assert shuffled.describe(2, 1) == f"batch 1, samples {named}"


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ((batch for batch in [1]), "an iterator is used up after one epoch; pass the loader itself"),
        (iter(DataLoader(Numbers())), "an iterator is used up after one epoch"),
        (Numbers(), r"got a Numbers, not a loader of batches; wrap it: jepa.data.make_loader\(data, batch_size=64\)"),
        (torch.zeros(4, 3), "got a Tensor, not a loader of batches; wrap it: jepa.data.make_loader"),
        (5, "expected a DataLoader, a MemoryLoader or a re-iterable of batches, got 5"),
        ("data.npy", "re-iterable of batches, got 'data.npy'"),
    ],
)
def test_what_is_no_loader_is_refused_with_the_next_move(loader: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        as_source(loader, seed=0)


@pytest.mark.parametrize(
    "loader",
    [
        [],
        DataLoader(Numbers(0), batch_size=4),
        DataLoader(Numbers(3), batch_size=4, drop_last=True),
        DataLoader(Numbers(3), batch_size=4, drop_last=True, sampler=WeightedRandomSampler([1.0], 3)),
    ],
)
def test_an_empty_loader_is_refused(loader: Any) -> None:
    with pytest.raises(ValueError, match="the loader is empty"):
        as_source(loader, seed=0)


def test_a_loader_too_small_for_all_ranks_is_refused_where_batches_are_dropped() -> None:
    loader = DataLoader(Numbers(7), batch_size=4, drop_last=True)
    assert as_source(loader, seed=0).batches_per_epoch == 1
    with pytest.raises(ValueError, match="7 samples, batches of 4 on 2 process"):
        as_source(loader, seed=0, rank=0, world_size=2)


@pytest.mark.parametrize("loader", [[torch.zeros(1)], DataLoader(Stream(), batch_size=3)])
def test_a_loader_that_gives_every_rank_the_same_data_is_refused(loader: Any) -> None:
    with pytest.raises(ValueError, match="would give every process the same data; use a DataLoader with shuffle="):
        as_source(loader, seed=0, rank=1, world_size=2)


def test_everything_the_package_offers_is_there_and_nothing_else() -> None:
    import jepa.data

    for name in jepa.data.__all__:
        assert getattr(jepa.data, name).__name__ == name
        assert name in dir(jepa.data)
    with pytest.raises(AttributeError, match=r"module 'jepa.data' has no attribute 'digitz'"):
        _ = jepa.data.digitz
