"""The order of the data: permutations, shares of ranks, and starting anywhere."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jepa.data import ResumableSampler
from jepa.data.sampler import mixed_seed

lengths, sizes, worlds = st.integers(1, 60), st.integers(1, 12), st.integers(1, 5)
seeds, epochs = st.integers(0, 2**62), st.integers(0, 10**6)


def ranks(length: int, batch_size: int, world_size: int, **options: bool | int) -> list[ResumableSampler]:
    return [
        ResumableSampler(length, batch_size, rank=rank, world_size=world_size, **options)  # type: ignore[arg-type]
        for rank in range(world_size)
    ]


def globally(samplers: list[ResumableSampler], epoch: int, start: int = 0) -> list[list[int]]:
    """Global batches: the shares of all ranks, one behind the other."""
    return [torch.cat(shares).tolist() for shares in zip(*(s.batches(epoch, start) for s in samplers), strict=True)]


@given(lengths, sizes, seeds, epochs)
def test_each_epoch_is_a_permutation(length: int, batch_size: int, seed: int, epoch: int) -> None:
    batches = list(ResumableSampler(length, batch_size, seed=seed).batches(epoch))
    assert sorted(torch.cat(batches).tolist()) == list(range(length))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert all(batch.dtype == torch.int64 for batch in batches)


@given(lengths, sizes, worlds, seeds, epochs)
def test_ranks_share_what_one_rank_with_the_global_batch_sees(
    length: int, batch_size: int, world_size: int, seed: int, epoch: int
) -> None:
    together = globally(ranks(length, batch_size, world_size, seed=seed), epoch)
    (alone,) = ranks(length, batch_size * world_size, 1, seed=seed)
    expected = [batch.tolist() for batch in alone.batches(epoch)]
    assert together[:-1] == expected[:-1]
    assert together[-1][: len(expected[-1])] == expected[-1]
    # What fills the last batch up comes from the start of the epoch, and is as little as can be divided evenly.
    filled = together[-1][len(expected[-1]) :]
    order = [index for batch in expected for index in batch]
    assert len(filled) < world_size
    assert filled == (order * world_size)[: len(filled)]


@given(lengths, sizes, worlds, seeds, epochs)
def test_every_rank_gets_batches_of_the_same_size(
    length: int, batch_size: int, world_size: int, seed: int, epoch: int
) -> None:
    samplers = ranks(length, batch_size, world_size, seed=seed)
    shares = [[len(batch) for batch in sampler.batches(epoch)] for sampler in samplers]
    assert shares == [shares[0]] * world_size
    assert len(shares[0]) == len(samplers[0])
    assert all(shares[0])


@given(lengths, sizes, worlds, seeds, epochs, st.data())
def test_starting_at_a_batch_gives_the_tail_of_the_epoch(
    length: int, batch_size: int, world_size: int, seed: int, epoch: int, data: st.DataObject
) -> None:
    sampler = ranks(length, batch_size, world_size, seed=seed)[-1]
    start = data.draw(st.integers(0, len(sampler)))
    whole = [batch.tolist() for batch in sampler.batches(epoch)]
    assert [batch.tolist() for batch in sampler.batches(epoch, start)] == whole[start:]
    assert [sampler.indices(epoch, number).tolist() for number in range(len(sampler))] == whole


@given(st.integers(1, 60), sizes, worlds, seeds, epochs)
def test_drop_last_leaves_out_the_smaller_batch_only(
    length: int, batch_size: int, world_size: int, seed: int, epoch: int
) -> None:
    size = batch_size * world_size
    if length < size:
        with pytest.raises(ValueError, match="the loader is empty"):
            ranks(length, batch_size, world_size, drop_last=True)
        return
    kept = globally(ranks(length, batch_size, world_size, seed=seed, drop_last=True), epoch)
    assert kept == globally(ranks(length, batch_size, world_size, seed=seed), epoch)[: length // size]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {
        tuple(torch.cat(list(ResumableSampler(50, 7, seed=seed).batches(epoch))).tolist())
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(orders) == 16


def test_without_shuffle_the_order_is_that_of_the_data() -> None:
    first, second = ranks(7, 2, 2, shuffle=False)
    assert [batch.tolist() for batch in first.batches(0)] == [[0, 1], [4, 5]]
    assert [batch.tolist() for batch in second.batches(3)] == [[2, 3], [6, 0]]


def test_the_order_does_not_move_the_global_generator() -> None:
    before = torch.get_rng_state()
    list(ResumableSampler(50, 7).batches(0))
    assert torch.equal(before, torch.get_rng_state())


def test_the_order_is_the_same_in_every_version() -> None:
    # Checkpoints hold a position in this order: a change would make old runs continue with other data.
    assert mixed_seed(0) == 0xE220A8397B1DCDAF % 2**63  # the published first number of splitmix64
    assert [batch.tolist() for batch in ResumableSampler(6, 4, seed=3).batches(2)] == [[5, 4, 3, 2], [1, 0]]


@given(st.lists(st.integers(0, 2**63), min_size=1, max_size=4), st.integers(0, 3), st.integers(1, 100))
def test_mixed_seeds_fit_a_generator_and_depend_on_every_part(parts: list[int], position: int, change: int) -> None:
    position %= len(parts)
    changed = [part + change if number == position else part for number, part in enumerate(parts)]
    assert 0 <= mixed_seed(*parts) < 2**63
    assert mixed_seed(*parts) != mixed_seed(*changed)


def test_order_of_the_parts_of_a_seed_matters() -> None:
    assert len({mixed_seed(1, 2), mixed_seed(2, 1), mixed_seed(1, 2, 0), mixed_seed(0, 1, 2), mixed_seed(3)}) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0, "batch_size": 4}, r"the loader is empty: 0 samples, batches of 4 on 1 process"),
        ({"length": 7, "batch_size": 4, "world_size": 2, "drop_last": True}, r"7 samples, batches of 4 on 2 process"),
        ({"length": 7, "batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"length": 7, "batch_size": 1, "rank": 2, "world_size": 2}, r"rank must lie in \[0, 2\), got 2"),
        ({"length": 7, "batch_size": 1, "rank": -1}, r"rank must lie in \[0, 1\), got -1"),
    ],
)
def test_what_gives_no_batch_is_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResumableSampler(**options)  # type: ignore[arg-type]
