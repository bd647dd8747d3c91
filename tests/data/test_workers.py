"""Worker processes that are killed: their batches come all the same, and are the same."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from jepa.data import as_source

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kills processes by signal")


class Augmented(Dataset[Tensor]):
    """Sample i is i and a random number from each generator that datasets commonly use."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Tensor:
        drawn = [torch.rand(()).item(), random.random(), np.random.rand()]
        return torch.tensor([index, *drawn], dtype=torch.float64)


class Deadly(Augmented):
    """Kills the worker that reads sample 0, as often as there are lines left in a file."""

    def __init__(self, lives: Path) -> None:
        self.lives = lives

    def __getitem__(self, index: int) -> Tensor:
        if index == 0 and (left := self.lives.read_text()):
            self.lives.write_text(left[1:])
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


class Stream(IterableDataset[Tensor]):
    """Numbers without a length."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.arange(40))


def kill_a_worker() -> None:
    worker = multiprocessing.active_children()[0]
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(30)


def read(source: Any, epoch: int, *, kill_after: set[int], start: int = 0) -> list[Any]:
    batches = []
    for batch in source.batches(epoch, start):
        batches.append(batch.tolist())
        if len(batches) in kill_after:
            kill_a_worker()
    return batches


@pytest.mark.parametrize("persistent", [False, True])
def test_batches_after_a_workers_death_are_those_of_an_undisturbed_pass(persistent: bool) -> None:
    told: list[str] = []
    workers = DataLoader(Augmented(), batch_size=4, shuffle=True, num_workers=2, persistent_workers=persistent)
    source = as_source(workers, seed=1, on_worker_lost=told.append)
    alone = as_source(DataLoader(Augmented(), batch_size=4, shuffle=True), seed=1)
    for epoch, start in ((0, 0), (1, 3)):
        with pytest.warns(RuntimeWarning, match="was killed by signal 9, .*new workers read on from .*num_workers=0"):
            batches = read(source, epoch, kill_after={2, 4}, start=start)
        assert batches == [batch.tolist() for batch in alone.batches(epoch, start)]
    assert len(told) == 4
    assert "of epoch 1 was there" in told[3]


def test_a_persistent_worker_that_dies_between_two_epochs_is_replaced() -> None:
    loader = DataLoader(Augmented(), batch_size=4, shuffle=True, num_workers=2, persistent_workers=True)
    source = as_source(loader, seed=1)
    alone = as_source(DataLoader(Augmented(), batch_size=4, shuffle=True), seed=1)
    read(source, 0, kill_after=set())
    kill_a_worker()
    with pytest.warns(RuntimeWarning, match="before batch 0 of epoch 1 was there"):
        batches = read(source, 1, kill_after=set())
    assert batches == [batch.tolist() for batch in alone.batches(1)]


def test_workers_that_die_three_times_over_one_batch_are_replaced_and_a_fourth_time_is_an_error(tmp_path: Path) -> None:
    lives = tmp_path / "lives"
    source = as_source(DataLoader(Deadly(lives), batch_size=4, num_workers=2), seed=1)
    lives.write_text("123")
    with pytest.warns(RuntimeWarning, match="before batch 0 of epoch 0"):
        assert len(read(source, 0, kill_after=set())) == 10
    lives.write_text("1234")
    with (
        pytest.warns(RuntimeWarning, match="before batch 0"),
        pytest.raises(RuntimeError, match=r"signal 9, .* 4 times in a row; .* want of memory: .*num_workers=0"),
    ):
        read(source, 0, kill_after=set())


@pytest.mark.slow
def test_an_error_of_the_dataset_itself_is_no_death() -> None:
    class Broken(Augmented):
        def __getitem__(self, index: int) -> Tensor:
            raise RuntimeError("sample is unreadable")

    source = as_source(DataLoader(Broken(), batch_size=4, num_workers=1), seed=1)
    with pytest.raises(RuntimeError, match="sample is unreadable"):
        read(source, 0, kill_after=set())


def test_the_death_of_a_worker_is_raised_nowhere_but_where_batches_are_read() -> None:
    source = as_source(DataLoader(Augmented(), batch_size=4, num_workers=2), seed=1)
    batches = source.batches(0)
    next(batches)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kill_a_worker()
        sum(range(10**5))  # torch's own handler would raise here
    with pytest.warns(RuntimeWarning, match="new workers"):
        assert len(list(batches)) == 9


def test_where_the_order_is_not_known_to_repeat_a_workers_death_stays_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid"):
        read(as_source(DataLoader(Stream(), batch_size=4, num_workers=1), seed=1), 0, kill_after={1, 2})
