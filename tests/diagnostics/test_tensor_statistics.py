"""Numbers about tensors."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from jepa.diagnostics import named_tensors, tensor_statistics


class Pair(NamedTuple):
    now: torch.Tensor
    then: torch.Tensor


def test_values_leave_nan_out_and_shares_count_it() -> None:
    told = tensor_statistics("x", torch.tensor([[0.0, 3.0], [float("nan"), 0.0]]), "cuda:0")
    assert (told.shape, told.dtype, told.device) == ((2, 2), "float32", "cuda:0")
    assert (told.minimum, told.maximum, told.mean) == (0.0, 3.0, 1.0)
    assert told.std == pytest.approx(2**0.5)
    assert (told.nan, told.zero) == (0.25, 0.5)


@pytest.mark.parametrize("x", [torch.zeros(0, 3), torch.full((2,), float("nan"))])
def test_without_a_value_there_are_no_statistics(x: torch.Tensor) -> None:
    told = tensor_statistics("x", x)
    assert all(value != value for value in told[4:8])


def test_whole_numbers_and_truth_values_have_statistics_too() -> None:
    assert tensor_statistics("x", torch.tensor([0, 255], dtype=torch.uint8)).mean == 127.5
    assert tensor_statistics("x", torch.tensor([True, False])).zero == 0.5


def test_tensors_are_found_in_nested_batches() -> None:
    one = torch.zeros(1)
    batch = [one, {"actions": one, "name": "x"}, Pair(one, one)]
    assert [name for name, _ in named_tensors(batch, "batch")] == [
        "batch.0",
        "batch.1.actions",
        "batch.2.0",
        "batch.2.1",
    ]
