"""LeJEPA: the loss against the formula, its weight, and what makes it differ from step to step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa.models import JEPA, MLPEncoder
from jepa.objectives import Draw, LeJEPA
from jepa.regularizers import random_directions
from jepa.views import ReadyViews, VectorViews

DRAW = Draw(seed=0, batch=0)


def objective(**options: Any) -> LeJEPA:
    torch.manual_seed(0)
    options = {"augment": ReadyViews(num_global=2, num_local=1), "projection_dim": 4, "num_slices": 6, **options}
    return LeJEPA(JEPA(MLPEncoder(5, 8), target="shared"), **options).double()


def weight(value: float) -> dict[str, Tensor]:
    return {"sigreg_weight": torch.tensor(value, dtype=torch.float64)}


def reference(projections: Tensor, directions: Tensor, num_global: int, paper: bool) -> tuple[float, float]:
    """Agreement and SIGReg, sample by sample and slice by slice."""
    z, a = projections.detach().numpy(), directions.double().numpy()
    centres = z[:num_global].mean(0)
    agreement = np.mean([np.mean((view - centres) ** 2) for view in z])
    t = np.linspace(-3, 3, 33)
    bell = np.exp(-(t**2) / 2)
    costs = []
    for view in z:
        for slice_ in (view @ a).T:
            total, mean = len(slice_), np.exp(1j * np.outer(t, slice_)).mean(1)
            square = np.abs(mean) ** 2 if paper else (total * np.abs(mean) ** 2 - 1) / (total - 1)
            distance = np.trapezoid((square - 2 * bell * mean.real + bell**2) * bell, t)
            costs.append(distance * total if paper else distance / np.trapezoid((1 - bell) ** 2 * bell, t))
    return float(agreement), float(np.mean(costs))


@pytest.mark.parametrize("normalization", ["unit", "paper"])
def test_the_loss_equals_the_formula(normalization: Any) -> None:
    method = objective(normalization=normalization)
    views = method.views(list(torch.randn(3, 7, 5, dtype=torch.float64)), DRAW)
    losses = method(views, weight(0.3))
    with torch.no_grad():
        projections = method.projector(method.model.encoder(views["global"].flatten(0, 1))).unflatten(0, (3, 7))
    agreement, spread = reference(projections, views["directions"], 2, normalization == "paper")
    assert losses.terms["agreement"].item() == pytest.approx(agreement, rel=1e-9)
    assert losses.terms["sigreg"].item() == pytest.approx(spread, rel=1e-9)
    assert losses.loss.item() == pytest.approx(0.7 * agreement + 0.3 * spread, rel=1e-9)
    torch.testing.assert_close(losses.embedding, method.model.encoder(views["global"][0]))


def test_views_are_pulled_to_the_mean_of_the_global_ones() -> None:
    method = objective(projector_depth=0, projection_dim=1)
    method.model.encoder = torch.nn.Identity()
    method.projector = torch.nn.Identity()
    views = {"global": torch.tensor([0.0, 2.0, 7.0]).view(3, 1, 1), "directions": torch.ones(1, 1)}
    losses = method(views, weight(0.0))
    assert losses.loss.item() == pytest.approx((1 + 1 + 36) / 3)  # the mean of the two global views is 1


def test_directions_are_drawn_anew_each_batch_and_are_those_of_every_rank() -> None:
    method = objective(augment=VectorViews())
    x = torch.randn(6, 5, dtype=torch.float64)
    directions = method.views(x, DRAW)["directions"]
    assert directions.shape == (4, 6)
    torch.testing.assert_close(directions.norm(dim=0), torch.ones(6))
    assert torch.equal(method.views(x[:3], Draw(0, 0, rank=1, world_size=2))["directions"], directions)
    assert not torch.equal(method.views(x, Draw(0, 1))["directions"], directions)


def test_directions_do_not_share_the_numbers_of_the_augmentation() -> None:
    directions = objective(augment=VectorViews()).views(torch.randn(6, 5, dtype=torch.float64), DRAW)["directions"]
    assert not torch.equal(directions, random_directions(4, 6, DRAW.generator()))


def test_a_last_batch_of_one_sample_trains_on_the_agreement_alone() -> None:
    method = objective(augment=VectorViews(num_global=3))
    losses = method(method.views(torch.randn(1, 5, dtype=torch.float64), DRAW), weight(0.5))
    losses.loss.backward()
    assert losses.terms["sigreg"] == 0
    assert losses.loss.item() == pytest.approx(0.5 * losses.terms["agreement"].item())


def test_the_weight_of_the_paper_goes_with_its_normalization() -> None:
    assert objective().config()["sigreg_weight"] == 0.8
    assert objective(normalization="paper").config()["sigreg_weight"] == 0.05
    assert objective(normalization="paper", sigreg_weight=0.02).config()["sigreg_weight"] == 0.02
    with pytest.raises(ValueError, match=r"sigreg_weight must lie in \[0, 1\], got 2"):
        objective(sigreg_weight=2)
    with pytest.raises(ValueError, match="normalization must be one of 'unit', 'paper', got 'mean'"):
        objective(normalization="mean")
    with pytest.raises(ValueError, match="num_slices must be at least 1, got 0"):
        objective(num_slices=0)


def test_the_weight_means_the_same_at_any_batch_size() -> None:
    """SIGReg of the same distribution of projections, in the mean over batches."""
    method = objective()
    method.projector = torch.nn.Linear(8, 4).double()
    found = []
    for size in (8, 128):
        draws = [Draw(0, batch) for batch in range(60)]
        batches = [method.views(list(torch.randn(3, size, 5, dtype=torch.float64)), draw) for draw in draws]
        found.append(torch.stack([method(batch, weight(1.0)).loss for batch in batches]).detach())
    error = sum(float(values.std()) / len(values) ** 0.5 for values in found)
    assert abs(float(found[0].mean() - found[1].mean())) < 4 * error
    assert error < 0.1
