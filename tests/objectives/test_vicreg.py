"""VICReg: the loss against the formula and by hand, in both normalisations, and how many views it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jepa.models import JEPA, MLPEncoder
from jepa.objectives import Draw, VICReg
from jepa.views import ReadyViews, VectorViews

DRAW = Draw(seed=0, batch=0)


def objective(**options: Any) -> VICReg:
    torch.manual_seed(0)
    options = {"augment": ReadyViews(), "projection_dim": 4, **options}
    return VICReg(JEPA(MLPEncoder(5, 8), target="shared"), **options).double()


def hyper(invariance: float = 3.0, variance: float = 2.0, covariance: float = 0.5) -> dict[str, Tensor]:
    values = {"invariance_weight": invariance, "variance_weight": variance, "covariance_weight": covariance}
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def reference(first: Tensor, second: Tensor, paper: bool) -> dict[str, float]:
    """The terms, from numpy's covariance matrices."""
    hinges, overlaps = [], []
    for view in (first.numpy(), second.numpy()):
        matrix = np.cov(view, rowvar=False)
        size = len(matrix)
        hinges.append(np.mean([max(0, 1 - np.sqrt(matrix[i, i] + 1e-4)) for i in range(size)]))
        total = sum(matrix[i, j] ** 2 for i in range(size) for j in range(size) if i != j)
        overlaps.append(total / size if paper else total / (size * (size - 1)))
    return {
        "invariance": float(np.mean((first.numpy() - second.numpy()) ** 2)),
        "variance": float(np.mean(hinges)),
        "covariance": float(sum(overlaps) if paper else np.mean(overlaps)),
    }


@pytest.mark.parametrize("normalization", ["mean", "paper"])
def test_the_loss_equals_the_formula(normalization: Any) -> None:
    method = objective(normalization=normalization)
    views = method.views(list(torch.randn(2, 7, 5, dtype=torch.float64)), DRAW)
    losses = method(views, hyper())
    with torch.no_grad():
        first, second = method.projector(method.model.encoder(views["global"].flatten(0, 1))).unflatten(0, (2, 7))
    expected = reference(first, second, normalization == "paper")
    assert {name: term.item() for name, term in losses.terms.items()} == pytest.approx(expected, rel=1e-9)
    loss = 3 * expected["invariance"] + 2 * expected["variance"] + 0.5 * expected["covariance"]
    assert losses.loss.item() == pytest.approx(loss, rel=1e-9)
    torch.testing.assert_close(losses.embedding, method.model.encoder(views["global"][0]))


def test_the_loss_of_a_batch_computed_by_hand() -> None:
    first = torch.tensor([[1.0, 2.0], [-1.0, -2.0]], dtype=torch.float64)  # variances 2 and 8, covariance 4
    second = torch.zeros(2, 2, dtype=torch.float64)
    for normalization, covariance in (("mean", 16 / 2), ("paper", 16.0)):
        method = objective(normalization=normalization)
        method.model.encoder, method.projector = nn.Identity(), nn.Identity()  # type: ignore[assignment]
        losses = method(method.views([first, second], DRAW), hyper())
        assert losses.terms["invariance"].item() == pytest.approx((1 + 4 + 1 + 4) / 4)
        assert losses.terms["variance"].item() == pytest.approx((0 + 0.99) / 2)
        assert losses.terms["covariance"].item() == pytest.approx(covariance)


def test_without_invariance_only_the_regularizers_are_left() -> None:
    method = objective()
    losses = method(method.views(list(torch.randn(2, 7, 5, dtype=torch.float64)), DRAW), hyper(invariance=0))
    assert losses.loss.item() == pytest.approx(
        2 * losses.terms["variance"].item() + 0.5 * losses.terms["covariance"].item()
    )
    assert losses.terms["invariance"] > 0, "still measured"


def test_a_last_batch_of_one_sample_trains_on_the_invariance_alone() -> None:
    method = objective(augment=VectorViews())
    losses = method(method.views(torch.randn(1, 5, dtype=torch.float64), DRAW), hyper())
    losses.loss.backward()
    assert losses.terms["variance"] == losses.terms["covariance"] == 0
    assert losses.loss.item() == pytest.approx(3 * losses.terms["invariance"].item())


def test_the_weights_of_the_paper_go_with_its_normalization() -> None:
    def weights(**options: Any) -> list[float]:
        config = objective(**options).config()
        return [config[f"{name}_weight"] for name in ("invariance", "variance", "covariance")]

    assert weights() == [1, 1, 2.5]
    assert weights(normalization="paper") == [25, 25, 1]
    assert weights(normalization="paper", covariance_weight=3) == [25, 25, 3]
    with pytest.raises(ValueError, match="normalization must be one of 'mean', 'paper', got 'unit'"):
        objective(normalization="unit")


def test_more_than_two_views_are_refused() -> None:
    with pytest.raises(ValueError, match=r"compares exactly 2 views of a sample, got VectorViews\(num_global=3"):
        objective(augment=VectorViews(num_global=3))
