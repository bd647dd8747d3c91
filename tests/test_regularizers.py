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

import jepa.regularizers
from jepa.regularizers import covariance, random_directions, sigreg, variance, variance_and_covariance


def spread(x: Tensor) -> Tensor:
    """SIGReg along fixed directions, as a function of the embeddings alone."""
    return sigreg(x, random_directions(x.shape[-1], 7, torch.Generator().manual_seed(0)))


VICREG_TERMS = [variance, covariance]
TERMS = [*VICREG_TERMS, spread]


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
        expected = reference_covariance(x)
        assert covariance(x, normalization="paper").item() == pytest.approx(expected, rel=1e-12)
        assert covariance(x).item() == pytest.approx(expected / (features - 1), rel=1e-12)
    else:
        assert covariance(x).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("normalization", ["mean", "paper"])
@pytest.mark.parametrize(("samples", "features"), [(1, 4), (2, 3), (12, 5), (40, 1)])
def test_both_terms_at_once_are_each_by_itself(samples: int, features: int, normalization: Any) -> None:
    x = embeddings(samples, features, scale=0.2).requires_grad_()
    together = variance_and_covariance(x, normalization=normalization)
    apart = variance(x), covariance(x, normalization=normalization)
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other)
        torch.testing.assert_close(*(torch.autograd.grad(value, x, retain_graph=True) for value in (one, other)))


def test_both_terms_at_once_ask_the_other_ranks_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []
    monkeypatch.setattr(jepa.regularizers, "all_reduce_mean", lambda x: asked.append(tuple(x.shape)) or x)
    variance_and_covariance(embeddings())
    assert asked == [(5,), (5, 5)]


def test_chance_alone_costs_more_in_a_small_batch() -> None:
    found = {}
    for samples in (8, 128):
        batches = torch.randn(300, samples, 16, dtype=torch.float64)
        found[samples] = [torch.stack(term) for term in zip(*map(variance_and_covariance, batches), strict=True)]
        overlap = found[samples][1]
        assert float(overlap.mean()) == pytest.approx(1 / (samples - 1), abs=4 * float(overlap.std()) / 300**0.5)
    assert found[8][0].mean() > 2 * found[128][0].mean()


def test_terms_computed_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0], [-1.0, -2.0]], dtype=torch.float64)  # variances 2 and 8, covariance 4
    assert covariance(x).item() == pytest.approx(4**2)
    assert covariance(torch.cat([x, torch.zeros(2, 2)], dim=1)).item() == pytest.approx(2 * 4**2 / (4 * 3))
    assert covariance(torch.cat([x, x], dim=1), normalization="paper").item() == pytest.approx(
        (8 * 4**2 + 2 * 2**2 + 2 * 8**2) / 4
    )
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


@pytest.mark.parametrize("term", VICREG_TERMS)
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
def test_autocast_leaves_them_in_float32(term: Callable[[Tensor], Tensor]) -> None:
    x = embeddings(64, 16).float()
    expected = term(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(term(x), expected)


@pytest.mark.parametrize("term", TERMS)
def test_one_sample_costs_nothing_and_keeps_its_place_in_the_graph(term: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(1, 3, requires_grad=True)
    cost = term(x)
    cost.backward()
    assert cost.item() == 0
    assert x.grad is not None
    assert not x.grad.any()


@pytest.mark.parametrize("term", VICREG_TERMS)
def test_wrong_batches_are_errors_that_say_what_is_wrong(term: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"shape \(B, D\), got \(4, 3, 2\); pool or flatten the tokens first"):
        term(torch.zeros(4, 3, 2))
    with pytest.raises(ValueError, match=r"at least one sample, got embeddings of shape \(0, 3\)"):
        term(torch.zeros(0, 3))


@pytest.mark.parametrize("term", [covariance, lambda x, **options: sigreg(x, torch.ones(3, 1), **options)])
def test_an_unknown_normalization_is_refused(term: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match=r"normalization must be one of '(mean|unit)', 'paper', got 'sum'"):
        term(torch.zeros(4, 3), normalization="sum")


# SIGReg


def slices(dim: int, count: int, seed: int = 0) -> Tensor:
    return random_directions(dim, count, torch.Generator().manual_seed(seed)).double()


def reference_sigreg(x: Tensor, directions: Tensor, points: int, t_max: float) -> tuple[float, float]:
    """Unit and paper form, each slice integrated from -t_max to t_max; the unit form from all pairs of samples."""
    t = np.linspace(-t_max, t_max, 2 * points - 1)
    bell = np.exp(-(t**2) / 2)
    unit, paper = [], []
    for projected in (x @ directions).numpy().T:
        mean = np.exp(1j * np.outer(t, projected)).mean(1)
        paper.append(len(x) * np.trapezoid(np.abs(mean - bell) ** 2 * bell, t))
        pairs = [[np.cos(t * (a - b)) for a in projected] for b in projected]
        others = (np.sum(pairs, axis=(0, 1)) - len(x)) / (len(x) * (len(x) - 1))
        unit.append(np.trapezoid((others - 2 * bell * mean.real + bell**2) * bell, t))
    collapse = np.trapezoid((1 - bell) ** 2 * bell, t)
    return float(np.mean(unit) / collapse), float(np.mean(paper))


@pytest.mark.parametrize(("points", "t_max"), [(17, 3.0), (5, 2.0), (2, 1.0)])
@pytest.mark.parametrize(("samples", "features"), [(2, 3), (12, 5), (9, 1)])
def test_sigreg_equals_the_formula(samples: int, features: int, points: int, t_max: float) -> None:
    x, directions = embeddings(samples, features), slices(features, 6)
    unit, paper = reference_sigreg(x, directions, points, t_max)
    options: dict[str, Any] = {"points": points, "t_max": t_max}
    assert sigreg(x, directions, **options).item() == pytest.approx(unit, rel=1e-10)
    assert sigreg(x, directions, normalization="paper", **options).item() == pytest.approx(paper, rel=1e-10)


def test_sigreg_computed_by_hand() -> None:
    x = torch.tensor([[0.7], [-0.7]], dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    bell = math.exp(-0.5)  # at t = 1, the only point, whose weight is 1 * bell
    paper = sigreg(x, one, points=2, t_max=1.0, normalization="paper")
    assert paper.item() == pytest.approx(2 * bell * (math.cos(0.7) - bell) ** 2)
    distance = math.cos(1.4) - 2 * bell * math.cos(0.7) + bell**2  # of the one pair of different samples
    assert sigreg(x, one, points=2, t_max=1.0).item() == pytest.approx(distance / (1 - bell) ** 2)


@pytest.mark.parametrize("normalization", ["unit", "paper"])
def test_gradients_of_sigreg_are_exact_for_one_batch_and_for_views(normalization: Any) -> None:
    for shape in ((5, 3), (2, 4, 3)):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x: sigreg(x, slices(3, 4), normalization=normalization), x)


def test_sigreg_of_views_is_the_mean_over_them() -> None:
    x = torch.randn(3, 10, 4, dtype=torch.float64)
    expected = torch.stack([sigreg(view, slices(4, 5)) for view in x]).mean()
    torch.testing.assert_close(sigreg(x, slices(4, 5)), expected)


def moments(samples: int, features: int, scale: float = 1.0, **options: Any) -> tuple[float, float]:
    """Mean over 200 normal batches, and its standard error."""
    values = []
    for seed in range(200):
        x = scale * torch.randn(samples, features, dtype=torch.float64)
        values.append(sigreg(x, slices(features, 16, seed), **options))
    found = torch.stack(values)
    return float(found.mean()), float(found.std() / len(found) ** 0.5)


@pytest.mark.parametrize(("samples", "features"), [(2, 3), (8, 2), (16, 64), (128, 16)])
def test_sigreg_of_standard_normal_samples_is_0_in_the_mean_at_any_size(samples: int, features: int) -> None:
    mean, error = moments(samples, features)
    assert abs(mean) < 4 * error
    assert error < 0.1
    published, error = moments(samples, features, normalization="paper")
    assert published > 10 * error, "the published statistic is not"


def test_sigreg_of_the_same_distribution_means_the_same_at_any_size() -> None:
    found = [moments(samples, features, scale=0.5) for samples, features in [(4, 8), (16, 128), (256, 8)]]
    for mean, error in found:
        assert abs(mean - found[-1][0]) < 4 * (error + found[-1][1])
        assert mean > 0.1


@pytest.mark.parametrize("features", [8, 128])
@pytest.mark.parametrize("samples", [16, 256])
def test_sigreg_grows_with_a_collapse_and_is_1_when_it_is_complete(samples: int, features: int) -> None:
    directions = slices(features, 64)
    x = torch.randn(samples, features, dtype=torch.float64)
    kept = torch.arange(features) / features
    shapes = [x, x * (kept < 0.5), x * (kept < 0.25), x * (kept < 1e-9), 0 * x]  # all, half, a quarter, a line, a point
    costs = [sigreg(shape, directions).item() for shape in shapes]
    assert costs == sorted(costs)
    assert costs[1] > costs[0] + 0.02
    assert costs[-1] == pytest.approx(1, abs=1e-12)
    assert sigreg(0.3 * x, directions).item() > 0.3
    assert sigreg(3 * x, directions).item() > 0.3
    assert sigreg(x + 1, directions).item() > costs[0] + 0.1, "a mean other than 0"


def test_gradient_steps_on_sigreg_undo_a_collapse() -> None:
    x = (0.05 * torch.randn(64, 4)).requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.1)
    for step in range(100):
        loss = sigreg(x, random_directions(4, 16, torch.Generator().manual_seed(step)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(torch.cov(x.detach().T), torch.eye(4), atol=0.3, rtol=0)


def test_sigreg_keeps_a_number_of_tensors_that_does_not_grow_with_the_points() -> None:
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel() * (2 if tensor.is_complex() else 1))
        return tensor

    x, directions = torch.randn(200, 4, requires_grad=True), slices(4, 50).float()
    for points in (17, 65):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            sigreg(x, directions, points=points)
        assert sum(kept) < 200 * 50 * 4


def test_directions_are_unit_columns_and_a_function_of_the_generator() -> None:
    directions = slices(6, 100)
    torch.testing.assert_close(directions.norm(dim=0), torch.ones(100, dtype=torch.float64))
    assert directions.mean(1).abs().max() < 0.2
    assert torch.equal(slices(6, 100), directions)
    assert not torch.equal(slices(6, 100, seed=1), directions)
    with pytest.raises(ValueError, match="at least 1 feature and 1 slice, got dim=6 and num_slices=0"):
        slices(6, 0)


def test_sigreg_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"shape \(B, D\) or \(V, B, D\), got \(4,\)"):
        sigreg(torch.zeros(4), slices(4, 2))
    with pytest.raises(ValueError, match=r"directions must have shape \(3, K\) for these embeddings, got \(4, 2\)"):
        sigreg(torch.zeros(5, 3), slices(4, 2))
    with pytest.raises(ValueError, match="at least 2 points and a positive t_max, got 1 and 3"):
        sigreg(torch.zeros(5, 3), slices(3, 2), points=1)


RANKS = """
import sys
import torch
from jepa import distributed
from jepa.regularizers import covariance, random_directions, sigreg, variance

# formulas that know nothing of ranks


def hinge(x):
    return torch.relu(1.5 - (x.var(dim=0) + 1e-4).sqrt()).mean()


def pairs(x):
    matrix = torch.cov(x.T)
    return (matrix.square().sum() - matrix.diagonal().square().sum()) / (x.shape[1] * (x.shape[1] - 1))


def normality(x, paper):
    t = torch.linspace(0, 3, 17, dtype=x.dtype)
    bell = torch.exp(-t.square() / 2)
    angle = (x @ directions)[..., None] * t
    cosine, sine, total = angle.cos().mean(-3), angle.sin().mean(-3), x.shape[-2]
    square = cosine**2 + sine**2 if paper else (total * (cosine**2 + sine**2) - 1) / (total - 1)
    weight = torch.full_like(t, 2 * 3 / 16) * bell
    weight[[0, -1]] /= 2
    distance = ((square - 2 * bell * cosine + bell**2) @ weight).mean()
    return total * distance if paper else distance / ((1 - bell) ** 2 @ weight)


distributed.init(backend="gloo")
whole = torch.load(sys.argv[1])
directions = random_directions(whole.shape[1], 9, torch.Generator().manual_seed(0)).double()
share = len(whole) // distributed.world_size()
rows = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
for term, formula in [
    (lambda x: variance(x, target=1.5), hinge),
    (covariance, pairs),
    (lambda x: sigreg(x, directions), lambda x: normality(x, False)),
    (lambda x: sigreg(x, directions, normalization="paper"), lambda x: normality(x, True)),
    (lambda x: sigreg(torch.stack([x, 2 * x]), directions), lambda x: normality(torch.stack([x, 2 * x]), False)),
]:
    alone = whole.clone().requires_grad_()
    expected = formula(alone)
    expected.backward()
    mine = whole[rows].clone().requires_grad_()
    value = term(mine)
    value.backward()
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    # data-parallel training averages gradients, so each rank's must be world_size times its part
    torch.testing.assert_close(mine.grad / distributed.world_size(), alone.grad[rows], rtol=1e-10, atol=1e-12)
single = torch.full((1, 2), float(distributed.rank()))
assert variance(single) > 0
print("rank", distributed.rank(), "agrees")
"""


@pytest.mark.distributed
def test_ranks_together_compute_value_and_gradient_of_the_whole_batch(run_distributed: Any, tmp_path: Path) -> None:
    torch.save(embeddings(12, 5), tmp_path / "whole.pt")
    done = run_distributed(RANKS, str(tmp_path / "whole.pt"), nproc=2)
    assert done.stdout.count("agrees") == 2
