"""VICReg: two views of a sample agree, each feature varies, and no two features say the same.

Bardes, Ponce, LeCun 2021 (arXiv 2105.04906). With `normalization="paper"` the terms and weights are those of the
published code: the variance term is averaged over the two views, the covariance terms are added up. Deviations: by
default both are averaged, the latter also over the pairs of features, so that weights mean the same at any width; AdamW
replaces LARS, at a learning rate of ours. In either normalisation the expander is not the published one: it is narrower
(64 outputs behind four times the encoder's width, in place of 8192 features in every layer), and its batch
normalisation takes both views together, after the activation, where the published one takes each view by itself.

Variance, covariance and the expander's batch normalisation are statistics of the whole batch: accumulating the
gradients of several batches is not the same as one larger batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from jepa.models.jepa import JEPA
from jepa.objectives.base import HyperParameter, Losses, Objective, Views
from jepa.objectives.multi_view import MultiView
from jepa.regularizers import CovarianceNormalization, check_normalization, variance_and_covariance
from jepa.views import Augment, ImageViews, SeriesViews, VectorViews

PAPER_WEIGHTS = {"invariance_weight": 25.0, "variance_weight": 25.0, "covariance_weight": 1.0}


class VICReg(MultiView):
    """Mean squared distance of two views' projections, plus variance and covariance terms of each view's.

    Args:
        model: Has no predictor, and the target `"shared"`.
        normalization: `"mean"`, or `"paper"`, whose weights are 25, 25 and 1 unless given.
        **options: Arguments of `MultiView`, and `invariance_weight` (0 leaves the two regularizers alone, VCReg),
            `variance_weight` and `covariance_weight`.
    """

    name = "vicreg"
    sample_term = "invariance"
    hyper_parameters = {
        "invariance_weight": HyperParameter(1.0, 0.0, 1e3, "squared distance of two views"),
        "variance_weight": HyperParameter(1.0, 0.0, 1e3, "variance term, deviation 1"),
        "covariance_weight": HyperParameter(2.5, 0.0, 1e3, "covariance term"),
    }
    usual = {
        4: ImageViews(num_local=0, global_scale=(0.08, 1.0)),
        3: SeriesViews(num_local=0),
        2: VectorViews(),
    }
    paper = {
        "learning_rate": 1e-3,
        "warmup_fraction": 0.01,
        "final_learning_rate_fraction": 1e-3,
        "weight_decay": 1e-6,
        "betas": (0.9, 0.999),
        "clip_grad_norm": None,
    }

    def __init__(self, model: JEPA, *, normalization: CovarianceNormalization = "mean", **options: Any) -> None:
        check_normalization(normalization, CovarianceNormalization)
        if normalization == "paper":
            options = {**PAPER_WEIGHTS, **options}
        super().__init__(model, **options)
        self.normalization: CovarianceNormalization = normalization

    def _check_augment(self, augment: Augment) -> None:
        super()._check_augment(augment)
        if augment.num_global + augment.num_local != 2:
            raise ValueError(f"objective 'vicreg' compares exactly 2 views of a sample, got {augment}")

    def config(self) -> dict[str, Any]:
        """Constructor arguments besides the model."""
        return {"normalization": self.normalization, **super().config()}

    def forward(self, views: Views, hyper: Mapping[str, Tensor]) -> Losses:
        """The loss of one batch."""
        projections, embedding = self.project(views)
        first, second = projections
        costs = [variance_and_covariance(view, normalization=self.normalization) for view in projections]
        spread, redundancy = (torch.stack(term) for term in zip(*costs, strict=True))
        terms = {
            "invariance": (first - second).square().mean(),
            "variance": spread.mean(),
            "covariance": redundancy.sum() if self.normalization == "paper" else redundancy.mean(),
        }
        loss = torch.stack([hyper[f"{name}_weight"] * term for name, term in terms.items()]).sum()
        return Losses(loss, {name: term.detach() for name, term in terms.items()}, embedding.detach())

    def sample_losses(self, views: Views) -> Tensor:
        """The invariance term of each sample, of projections that are normalised over the whole batch."""
        first, second = self.project(views)[0]
        return (first - second).square().mean(1)

    @classmethod
    def example(cls) -> tuple[Objective, Any]:
        """A small MLP on scikit-learn's digits, taken as vectors."""
        from torch.utils.data import TensorDataset

        from jepa.data import digits
        from jepa.models import MLPEncoder

        images, labels = digits("train").tensors
        objective = cls(cls.model_for(MLPEncoder(64, 48)), augment=VectorViews(noise=0.1, masking=0.3))
        return objective, TensorDataset(images.flatten(1) / 255, labels)
