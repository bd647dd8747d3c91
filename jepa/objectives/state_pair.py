"""State pair: predict the embedding of the next state from the present one. The default objective.

An EMA target (as in BYOL, Grill et al. 2020, arXiv 2006.07733, and I-JEPA, arXiv 2301.08243) with small
variance and covariance terms (VICReg, arXiv 2105.04906) on the context embedding, so that it does not collapse. They
are statistics of the whole batch: accumulating the gradients of several batches is not the same as one larger batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from jepa.models.jepa import JEPA, JEPAOutput
from jepa.models.mlp import MLPPredictor
from jepa.models.predictor import Predictor
from jepa.objectives.base import (
    Draw,
    HyperParameter,
    Losses,
    Objective,
    Views,
    check_predictor,
    describe_batch,
    smooth_l1_by_sample,
    smooth_l1_losses,
    width_of,
)
from jepa.regularizers import CovarianceNormalization, check_normalization


class StatePair(Objective):
    """Smooth-L1 between prediction and layer-normalised target, plus variance and covariance terms.

    Args:
        model: Its encoder takes one state, its predictor maps embeddings to embeddings.
        normalization: Of the covariance term: `"mean"` over the pairs of features, or `"paper"`, their sum divided by
            the width, whose weight is 0.04 (VICReg's, relative to the variance) unless given.
        **weights: `variance_weight` and `covariance_weight`.
    """

    name = "state_pair"
    layout = "(state_t, state_t1): two tensors of one shape, B first"
    targets = ("ema", "stop_gradient", "shared")
    hyper_parameters = {
        "variance_weight": HyperParameter(1.0, 0.0, 1e3, "VICReg variance term, deviation 1"),
        "covariance_weight": HyperParameter(2.5, 0.0, 1e3, "VICReg covariance term"),
    }
    batch_statistics = ("variance_weight", "covariance_weight")

    def __init__(self, model: JEPA, *, normalization: CovarianceNormalization = "mean", **weights: float) -> None:
        check_normalization(normalization, CovarianceNormalization)
        if normalization == "paper":
            weights = {"covariance_weight": 0.04, **weights}
        super().__init__(model, **weights)
        needed = "Predictor(hidden_dim) or MLPPredictor(hidden_dim)"
        check_predictor(self.name, model.predictor, needed, Predictor, MLPPredictor)
        self.normalization: CovarianceNormalization = normalization

    def config(self) -> dict[str, Any]:
        """Constructor arguments besides the model."""
        return {"normalization": self.normalization, **super().config()}

    @classmethod
    def model_for(cls, encoder: nn.Module, options: Mapping[str, Any] | None = None) -> JEPA:
        """A small transformer as predictor, and an EMA target."""
        return JEPA(encoder, Predictor(width_of(encoder)))

    def views(self, batch: Any, draw: Draw) -> Views:
        """(state_t, state_t1) to `context` and `target`."""
        now, then = batch if isinstance(batch, tuple | list) and len(batch) == 2 else (None, None)
        if not (isinstance(now, Tensor) and isinstance(then, Tensor) and now.shape == then.shape):
            raise TypeError(f"objective {self.name!r} takes batches {self.layout}; got {describe_batch(batch)}")
        return {"context": self.as_float(now), "target": self.as_float(then)}

    def forward(self, views: Views, hyper: Mapping[str, Tensor]) -> Losses:
        """The loss of one batch."""
        return smooth_l1_losses(self._predict(views), hyper, self.normalization)

    def sample_losses(self, views: Views) -> Tensor:
        """The prediction term of each pair."""
        return smooth_l1_by_sample(self._predict(views))

    def _predict(self, views: Views) -> JEPAOutput:
        return self.model(views["context"], views["target"])

    @classmethod
    def example(cls) -> tuple[Objective, Any]:
        """A small encoder on noisy rotations of points on circles."""
        from torch.utils.data import TensorDataset

        from jepa.models import Encoder

        generator = torch.Generator().manual_seed(0)
        angle, radius = torch.rand(2, 512, generator=generator) * torch.tensor([[6.2832], [1.0]]) + 0.5
        states = [torch.stack([radius * (angle + s).cos(), radius * (angle + s).sin(), radius], 1) for s in (0, 0.3)]
        model = JEPA(Encoder(32, 3, depth=1), Predictor(32, depth=1))
        return cls(model), TensorDataset(*states)
