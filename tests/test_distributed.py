"""Ranks: alone everything is free and harmless; together, sums, gradients and objects agree."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from jepa import distributed


def test_alone_every_function_works_and_returns_what_it_got() -> None:
    x = torch.randn(3, requires_grad=True)
    assert not distributed.is_initialized()
    assert (distributed.rank(), distributed.world_size(), distributed.local_rank()) == (0, 1, 0)
    assert distributed.all_reduce_sum(x) is x
    assert distributed.all_reduce_mean(x) is x
    value = {"a": object()}
    assert distributed.broadcast_object(value) is value


def test_joining_outside_torchrun_is_an_error_with_the_command_to_type() -> None:
    with pytest.raises(
        RuntimeError, match=r"distributed=True needs processes that torchrun started; type: torchrun --n"
    ):
        distributed.init()
    assert not distributed.is_initialized()


def test_torchrun_is_recognised_by_all_of_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    for name in names:
        assert not distributed.under_torchrun()
        monkeypatch.setenv(name, "1")
    assert distributed.under_torchrun()
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert distributed.local_rank() == 3


RANKS = """
import pytest
import torch
import torch.distributed as dist
from jepa import distributed

assert distributed.under_torchrun() and not distributed.is_initialized()
distributed.init(world_size=2, backend="gloo")
distributed.init()  # joining twice is fine
with pytest.raises(ValueError, match="world_size=3 was asked for, but 2 processes were started"):
    distributed.init(world_size=3)
rank, size = distributed.rank(), distributed.world_size()
assert (rank, size) == (dist.get_rank(), 2) and distributed.local_rank() == rank

x = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64) * (1 + rank * 9)
x.requires_grad_()
kept = x.detach().clone()
total = distributed.all_reduce_sum(x)
assert total.tolist() == [11.0, 22.0, 44.0] and torch.equal(x, kept)
(total * torch.tensor([1.0, 10.0, 100.0]) * (1 + rank)).sum().backward()
assert x.grad.tolist() == [3.0, 30.0, 300.0], "the sum of both ranks' gradients, weights 1 and 2"

y = torch.full((2, 3), float(rank), dtype=torch.float64, requires_grad=True)
mean = distributed.all_reduce_mean(y.T)  # not contiguous
assert torch.equal(mean, torch.full((3, 2), 0.5, dtype=torch.float64))
mean.square().sum().backward()
assert torch.equal(y.grad, torch.ones(2, 3, dtype=torch.float64))

# the same loss on every rank and averaged gradients: the gradient of one process with all data
data = torch.arange(8, dtype=torch.float64).view(4, 2) ** 1.5
weight = torch.tensor([0.3, -0.2], dtype=torch.float64)
alone = weight.clone().requires_grad_()
(data @ alone).mean().square().backward()
mine = weight.clone().requires_grad_()
distributed.all_reduce_mean((data[2 * rank : 2 * rank + 2] @ mine).mean()).square().backward()
averaged = distributed.all_reduce_mean(mine.grad)
torch.testing.assert_close(averaged, alone.grad, rtol=1e-12, atol=1e-12)

assert distributed.broadcast_object({"from": rank}) == {"from": 0}
assert distributed.broadcast_object({"from": rank}, source=1) == {"from": 1}
print("rank", rank, "agrees")
"""


@pytest.mark.distributed
def test_ranks_agree_on_sums_gradients_and_objects(run_distributed: Any) -> None:
    assert run_distributed(RANKS).stdout.count("agrees") == 2
