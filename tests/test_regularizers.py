"""Regularizers against formulas written out in float64, by hand, by gradient checks, and over ranks."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa.regularizers import covariance, variance

TERMS = [variance, covariance]


def embeddings(samples: int = 12, features: int = 5, scale: float = 0.5) -> Tensor:
    mixing = torch.randn(features, features, dtype=torch.float64) * scale
    return torch.randn(samples, features, dtype=torch.float64) @ mixing + 3


def reference_variance(x: Tensor, target: float) -> float:
    hinges = [max(0.0, target - math.sqrt(np.var(column, ddof=1) + 1e-4)) for column in x.T.numpy()]
    return sum(hinges) / x.shape[1]


def reference_covariance(x: Tensor) -> float:
    matrix = np.cov(x.numpy(), rowvar=False)
    return sum(matrix[i, j] ** 2 for i in range(len(matrix)) for j in range(len(matrix)) if i != j) / len(matrix)


@pytest.mark.parametrize(("samples", "features"), [(2, 3), (12, 5), (5, 12), (40, 1)])
@pytest.mark.parametrize("target", [0.3, 1.0, 2.5])
def test_terms_equal_the_formulas_of_the_paper(samples: int, features: int, target: float) -> None:
    x = embeddings(samples, features)
    assert variance(x, target=target).item() == pytest.approx(reference_variance(x, target), rel=1e-12)
    if features > 1:
        assert covariance(x).item() == pytest.approx(reference_covariance(x), rel=1e-12)
    else:
        assert covariance(x).item() == pytest.approx(0, abs=1e-12)


def test_terms_computed_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0], [-1.0, -2.0]], dtype=torch.float64)  # variances 2 and 8, covariance 4
    assert covariance(x).item() == pytest.approx((4**2 + 4**2) / 2)
    assert variance(x, target=2.0).item() == pytest.approx((2 - math.sqrt(2 + 1e-4)) / 2)
    assert variance(x).item() == 0


def test_a_collapsed_batch_costs_the_whole_deviation_and_has_a_finite_gradient() -> None:
    x = torch.ones(8, 4, dtype=torch.float64, requires_grad=True)
    cost = variance(x)
    cost.backward()
    assert cost.item() == pytest.approx(1 - 0.01)
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert covariance(x).item() == 0


@pytest.mark.parametrize("term", TERMS)
def test_gradients_are_exact(term: Callable[[Tensor], Tensor]) -> None:
    assert torch.autograd.gradcheck(term, embeddings(6, 3, scale=0.2).requires_grad_())


@pytest.mark.parametrize("term", TERMS)
def test_terms_ignore_an_offset_and_the_order_of_samples_and_features(term: Callable[[Tensor], Tensor]) -> None:
    x = embeddings()
    torch.testing.assert_close(term(x + torch.randn(5, dtype=torch.float64)), term(x))
    torch.testing.assert_close(term(x[torch.randperm(12)][:, torch.randperm(5)]), term(x))


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(term: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    x = embeddings().to(dtype)
    assert term(x).dtype == torch.float32
    torch.testing.assert_close(term(x), term(x.float()))


@pytest.mark.parametrize("term", TERMS)
def test_wrong_batches_are_errors_that_say_what_is_wrong(term: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"shape \(B, D\), got \(4, 3, 2\); pool or flatten the tokens first"):
        term(torch.zeros(4, 3, 2))
    with pytest.raises(ValueError, match="at least 2 samples in the global batch, got 1"):
        term(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="at least 2 samples in the global batch, got 0"):
        term(torch.zeros(0, 3))


RANKS = """
import sys
import torch
from jepa import distributed
from jepa.regularizers import covariance, variance

distributed.init(backend="gloo")
whole = torch.load(sys.argv[1])
share = len(whole) // distributed.world_size()
for term in (lambda x: variance(x, target=1.5), covariance):
    alone = whole.clone().requires_grad_()
    # the values of one process, from formulas that know nothing of ranks
    deviation = (alone.var(dim=0) + 1e-4).sqrt()
    matrix = torch.cov(alone.T)
    expected = torch.relu(1.5 - deviation).mean() if term is not covariance else (
        (matrix.square().sum() - matrix.diagonal().square().sum()) / alone.shape[1])
    expected.backward()
    rows = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
    mine = whole[rows].clone().requires_grad_()
    value = term(mine)
    value.backward()
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    # data-parallel training averages gradients, so each rank's must be world_size times its part
    torch.testing.assert_close(mine.grad / distributed.world_size(), alone.grad[rows], rtol=1e-10, atol=1e-12)
single = torch.full((1, 2), float(distributed.rank()))
assert variance(single).isfinite()
print("rank", distributed.rank(), "agrees")
"""


@pytest.mark.distributed
def test_ranks_together_compute_value_and_gradient_of_the_whole_batch(run_distributed: Any, tmp_path: Path) -> None:
    torch.save(embeddings(12, 5), tmp_path / "whole.pt")
    done = run_distributed(RANKS, str(tmp_path / "whole.pt"), nproc=2)
    assert done.stdout.count("agrees") == 2
