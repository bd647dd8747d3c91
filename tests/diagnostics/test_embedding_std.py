"""Embedding deviation: known cases and the formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from jepa.diagnostics import embedding_std


def test_it_equals_the_formula() -> None:
    x = torch.randn(30, 7, dtype=torch.float64) * 3 + 1
    unit = x.numpy() / np.linalg.norm(x.numpy(), axis=1, keepdims=True)
    assert embedding_std(x).item() == pytest.approx(unit.std(axis=0).mean() * math.sqrt(7), rel=1e-5)


def test_embeddings_that_all_look_alike_have_none() -> None:
    assert embedding_std(torch.randn(1, 16).expand(32, -1)).item() == pytest.approx(0, abs=1e-6)
    assert embedding_std(torch.rand(32, 1) @ torch.randn(1, 16)).item() == pytest.approx(0, abs=1e-3), (
        "length is ignored"
    )
    assert embedding_std(torch.zeros(8, 4)).item() == 0
    assert embedding_std(torch.randn(1, 4)).item() == 0


@pytest.mark.parametrize("width", [4, 64, 512])
def test_embeddings_in_all_directions_have_one_at_any_width(width: int) -> None:
    assert embedding_std(torch.randn(4096, width)).item() == pytest.approx(1, abs=0.02)


def test_known_case_of_two_opposite_vectors() -> None:
    x = torch.tensor([[3.0, 4.0], [-3.0, -4.0]])  # unit vectors +-(.6, .8)
    assert embedding_std(x).item() == pytest.approx(0.7 * math.sqrt(2), rel=1e-6)


def test_a_common_offset_lowers_it() -> None:
    x = torch.randn(256, 16)
    values = [embedding_std(x + offset).item() for offset in (0.0, 1.0, 10.0)]
    assert values[0] > values[1] > values[2] > 0


def test_any_precision_is_taken_and_no_graph_is_kept() -> None:
    x = torch.randn(64, 16, requires_grad=True)
    result = embedding_std(x)
    assert result.shape == ()
    assert not result.requires_grad
    assert embedding_std(x.bfloat16()).item() == pytest.approx(result.item(), rel=0.01)
