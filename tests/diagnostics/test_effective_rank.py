"""Effective rank against an independent formula and cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from jepa.diagnostics import effective_rank


def reference(x: torch.Tensor) -> float:
    """RankMe from singular values, in numpy."""
    values = np.linalg.svd(x.double().numpy() - x.double().numpy().mean(0), compute_uv=False)
    shares = values / values.sum()
    return math.exp(-sum(share * math.log(share) for share in shares if share > 1e-15))


@pytest.mark.parametrize(("samples", "features"), [(50, 8), (8, 50), (20, 20), (2, 5), (5, 2)])
def test_it_equals_the_entropy_of_singular_values(samples: int, features: int) -> None:
    x = torch.randn(samples, features) @ torch.randn(features, features) + 10
    assert effective_rank(x).item() == pytest.approx(reference(x), rel=1e-4)


def test_one_direction_counts_one() -> None:
    x = torch.randn(64, 1) @ torch.randn(1, 32)
    assert effective_rank(x).item() == pytest.approx(1, abs=1e-3)
    assert effective_rank(x + 5).item() == pytest.approx(1, abs=0.01), "a common offset does not count"


def test_a_complete_collapse_counts_one() -> None:
    assert effective_rank(torch.full((16, 8), 3.0)).item() == 1
    assert effective_rank(torch.zeros(16, 8)).item() == 1
    assert effective_rank(torch.randn(1, 8)).item() == 1


def test_equal_directions_count_each() -> None:
    x = torch.cat([torch.eye(6), -torch.eye(6)]) * 4
    assert effective_rank(x).item() == pytest.approx(6, rel=1e-5)
    assert effective_rank(torch.nn.functional.pad(x, (0, 10))).item() == pytest.approx(6, rel=1e-3)


def test_isotropic_noise_comes_near_the_width() -> None:
    assert 31 < effective_rank(torch.randn(4096, 32)).item() <= 32


def test_a_dominant_direction_pulls_it_down() -> None:
    noise = torch.randn(500, 16)
    ranks = [effective_rank(noise * torch.tensor([scale] + [1.0] * 15)).item() for scale in (1.0, 10.0, 100.0)]
    assert ranks[0] > ranks[1] > ranks[2] > 1


def test_scale_rotation_and_order_do_not_matter() -> None:
    x = torch.randn(40, 6) * torch.tensor([5.0, 3, 2, 1, 0.5, 0.1])
    rotation, _ = torch.linalg.qr(torch.randn(6, 6))
    for other in (x * 1e-3, x * 1e3, x @ rotation, x[torch.randperm(40)]):
        assert effective_rank(other).item() == pytest.approx(effective_rank(x).item(), rel=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_embeddings_that_are_not_finite_give_nan(value: float) -> None:
    x = torch.randn(8, 4)
    x[3, 2] = value
    assert math.isnan(effective_rank(x).item())


def test_any_precision_is_taken_and_no_graph_is_kept() -> None:
    x = torch.randn(64, 16, requires_grad=True)
    result = effective_rank(x)
    assert result.shape == ()
    assert not result.requires_grad
    assert effective_rank(x.bfloat16()).item() == pytest.approx(result.item(), rel=0.02)
    assert effective_rank(x.double()).item() == pytest.approx(result.item(), rel=1e-5)
