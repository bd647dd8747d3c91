"""LeJEPA: views of a sample agree, and the embeddings of many samples are spread like a standard normal.

Balestriero, LeCun 2025 (arXiv 2511.08544). There is no moving average, no stopped gradient and no predictor; SIGReg
alone holds the embeddings apart. Deviation: the term is normalised so that its weight means the same for every batch
size; `normalization="paper"` gives the published one.

SIGReg and the projector's batch normalisation are statistics of the whole batch: accumulating the gradients of several
batches is not the same as one larger batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from jepa.models.jepa import JEPA
from jepa.objectives.base import Draw, HyperParameter, Losses, Objective, Views, check_count
from jepa.objectives.multi_view import MultiView
from jepa.regularizers import SigregNormalization, check_normalization, random_directions, sigreg
from jepa.views import ImageViews, SeriesViews, VectorViews


class LeJEPA(MultiView):
    """`(1 - w)` times the squared distance of all views to the mean of the global ones, plus `w` times SIGReg.

    Both are taken of projections: the distance as a mean over views, samples and features, SIGReg of each view by
    itself and averaged.

    Args:
        model: Has no predictor, and the target `"shared"`.
        num_slices: Directions along which SIGReg looks, drawn anew each step; the paper has 1024.
        normalization: `"unit"`, with which a weight means the same for any number of samples, or `"paper"`, whose
            weight is 0.05 unless given; at a batch of about 190 that is 0.8 in the other. See
            `jepa.regularizers.sigreg`.
        **options: Arguments of `MultiView`, and `sigreg_weight`.
    """

    name = "lejepa"
    sample_term = "agreement"
    hyper_parameters = {"sigreg_weight": HyperParameter(0.8, 0.0, 1.0, "SIGReg; 1 minus it weighs the agreement")}
    usual = {4: ImageViews(), 3: SeriesViews(), 2: VectorViews(num_global=4)}
    paper = {
        "learning_rate": 5e-4,
        "final_learning_rate_fraction": 1e-3,
        "weight_decay": 0.05,
        "betas": (0.9, 0.999),
        "clip_grad_norm": None,
    }

    def __init__(
        self, model: JEPA, *, num_slices: int = 256, normalization: SigregNormalization = "unit", **options: Any
    ) -> None:
        check_normalization(normalization, SigregNormalization)
        if normalization == "paper":
            options = {"sigreg_weight": 0.05, **options}
        super().__init__(model, **options)
        check_count("num_slices", num_slices)
        self.num_slices = num_slices
        self.normalization: SigregNormalization = normalization

    def config(self) -> dict[str, Any]:
        """Constructor arguments besides the model."""
        return {"num_slices": self.num_slices, "normalization": self.normalization, **super().config()}

    def views(self, batch: Any, draw: Draw) -> Views:
        """The views, and SIGReg's `directions` (P, K), which are the same on every rank."""
        views = super().views(batch, draw)
        generator = draw.generator(views["global"].device, "directions")  # not the numbers of the views
        return {**views, "directions": random_directions(self.projection_dim, self.num_slices, generator)}

    def forward(self, views: Views, hyper: Mapping[str, Tensor]) -> Losses:
        """The loss of one batch."""
        projections, embedding = self.project(views)
        agreement = self._distances(projections, views).mean()
        normality = sigreg(projections, views["directions"], normalization=self.normalization)
        weight = hyper["sigreg_weight"]
        loss = (1 - weight) * agreement + weight * normality
        terms = {"agreement": agreement.detach(), "sigreg": normality.detach()}
        return Losses(loss, terms, embedding.detach())

    def sample_losses(self, views: Views) -> Tensor:
        """The agreement of each sample's views, of projections that are normalised over the whole batch."""
        projections, _ = self.project(views)
        return self._distances(projections, views).mean((0, 2))

    def _distances(self, projections: Tensor, views: Views) -> Tensor:
        """Squared, of all views to the mean of the global ones: (V, B, P)."""
        centres = projections[: self.num_global(views)].mean(0)
        return (projections - centres).square()

    @classmethod
    def example(cls) -> tuple[Objective, Any]:
        """A small ViT on scikit-learn's digits, which are not mirrored."""
        from jepa.data import digits
        from jepa.models import Encoder, ImageTokenizer

        encoder = Encoder(64, depth=1, num_heads=2, tokenizer=ImageTokenizer(8, 4))
        augment = ImageViews(num_local=2, global_scale=(0.5, 1.0), local_scale=(0.3, 0.6), flip=0, grayscale=0)
        return cls(cls.model_for(encoder), augment=augment, projection_dim=32), digits("train")
