"""I-JEPA: predict the embeddings of hidden blocks of an image from the visible rest.

Assran et al. 2023 (arXiv 2301.08243). Deviations: the masks are unbiased (see `jepa.masks`; `official_masks=True` draws
the published ones), and variance and covariance terms (VICReg, arXiv 2105.04906) on the mean context embedding may be
added. The paper has none, and their weights are 0 unless set; on small data sets, where the EMA target alone collapses,
they help. They are statistics of the whole batch: accumulating the gradients of several batches is not the same as one
larger batch.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from jepa.masks import BlockMaskSampler
from jepa.models.jepa import JEPA, JEPAOutput
from jepa.models.predictor import MaskedPredictor
from jepa.objectives.base import (
    Draw,
    HyperParameter,
    Limits,
    Losses,
    Objective,
    Views,
    check_count,
    check_predictor,
    describe_batch,
    grid_of,
    smooth_l1_by_sample,
    smooth_l1_losses,
    width_of,
)
from jepa.regularizers import CovarianceNormalization, check_normalization


class IJEPA(Objective):
    """Smooth-L1 between predicted and layer-normalised target tokens, over several target blocks.

    Args:
        model: Its encoder has a tokenizer with a grid, its predictor is a `MaskedPredictor` over that grid
            with one mask token, or a module of your own called as `predictor(context, context_mask, target_mask)`.
        num_targets: Target blocks a sample.
        target_scale: Share of the grid a target block covers, smallest and largest.
        aspect_ratio: Height / width of a target block, smallest and largest.
        context_scale: Share of the grid of the context block, smallest and largest. The ends of these three ranges may
            be changed while training: `target_scale_min`, `target_scale_max` and so on.
        min_keep: Smallest number of context tokens; a tenth of the grid by default.
        official_masks: Draw the masks of the published code, with its bias, for comparisons with it.
        normalization: Of the covariance term: `"mean"` over the pairs of features, or `"paper"`, their sum divided by
            the width.
        **weights: `variance_weight` and `covariance_weight`.

    Attributes:
        paper: 300 epochs, 40 of them warm-up, for ViT-H/14 on ImageNet with a global batch of 2,048 images.
    """

    name = "ijepa"
    layout = "images (B, C, H, W) or series (B, C, T), or a tuple that begins with them (labels are not looked at)"
    hyper_parameters = {
        "variance_weight": HyperParameter(0.0, 0.0, 1e3, "VICReg variance term, deviation 1"),
        "covariance_weight": HyperParameter(0.0, 0.0, 1e3, "VICReg covariance term"),
    }
    batch_statistics = ("variance_weight", "covariance_weight")
    paper = {
        "learning_rate": 1e-3,
        "start_learning_rate_fraction": 0.2,
        "warmup_fraction": 40 / 300,
        "final_learning_rate_fraction": 1e-3,
        "weight_decay": 0.04,
        "final_weight_decay": 0.4,
        "betas": (0.9, 0.999),
        "ema_momentum": 0.996,
        "final_ema_momentum": 1.0,
        "clip_grad_norm": None,
    }

    def __init__(
        self,
        model: JEPA,
        *,
        num_targets: int = 4,
        target_scale: tuple[float, float] = (0.15, 0.2),
        aspect_ratio: tuple[float, float] = (0.75, 1.5),
        context_scale: tuple[float, float] = (0.85, 1.0),
        min_keep: int | None = None,
        official_masks: bool = False,
        normalization: CovarianceNormalization = "mean",
        **weights: float,
    ) -> None:
        check_normalization(normalization, CovarianceNormalization)
        super().__init__(model, **weights)
        grid = grid_of(model.encoder)
        if len(grid) > 2:
            raise ValueError(f"objective 'ijepa' masks images and series, got a token grid {grid}; use 'vjepa'")
        needed = f"MaskedPredictor(hidden_dim, grid={grid})"
        if model.predictor is None:
            raise ValueError(f"objective 'ijepa' needs {needed}, got no predictor")
        check_predictor("ijepa", model.predictor, needed, MaskedPredictor)
        if isinstance(model.predictor, MaskedPredictor) and model.predictor.num_mask_tokens != 1:
            raise ValueError(
                f"objective 'ijepa' has one kind of masks, and the predictor has {model.predictor.num_mask_tokens} "
                f"mask tokens; build {needed}"
            )
        check_count("num_targets", num_targets)
        self.normalization: CovarianceNormalization = normalization
        self.masks = BlockMaskSampler(
            grid,
            num_targets=num_targets,
            target_scale=target_scale,
            aspect_ratio=aspect_ratio,
            context_scale=context_scale,
            min_keep=min_keep,
            official=official_masks,
        )
        self.view_parameters = {
            **Limits.parameters("target_scale", target_scale, "of the grid, target block"),
            **Limits.parameters("context_scale", context_scale, "of the grid, context block"),
        }
        if len(grid) == 2:
            self.view_parameters |= Limits.parameters("aspect_ratio", aspect_ratio, "height / width", high=1e3)
        self._ranges = {"target_scale": target_scale, "aspect_ratio": aspect_ratio, "context_scale": context_scale}

    @classmethod
    def model_for(cls, encoder: nn.Module, options: Mapping[str, Any] | None = None) -> JEPA:
        """A narrow transformer with mask tokens as predictor, and an EMA target."""
        return JEPA(encoder, MaskedPredictor(width_of(encoder), grid_of(encoder)))

    def config(self) -> dict[str, Any]:
        """Constructor arguments besides the model."""
        masks = self.masks
        return {
            "num_targets": masks.num_targets,
            **{name: list(limits) for name, limits in self._ranges.items()},
            "min_keep": masks.min_keep,
            "official_masks": masks.official,
            "normalization": self.normalization,
            **super().config(),
        }

    def check_view_parameters(self, now: Mapping[str, float], end: Mapping[str, float]) -> None:
        """Raise a ValueError where masks would leave no context, or a range has its ends in the wrong order."""
        Limits.check_order(now, end)
        for values in (now, end, Limits.widest(now, end)):
            masks = copy.copy(self.masks)
            vars(masks).update(Limits.of(values))
            masks.check()

    def set_view_parameters(self, values: Mapping[str, float]) -> None:
        """Draw masks of other sizes from now on."""
        vars(self.masks).update(Limits.of(values))

    def views(self, batch: Any, draw: Draw) -> Views:
        """Images to `images` and the positions `context_mask` (B, C) and `target_mask` (B, K, M).

        Masks are drawn on the images' device for the global batch and sliced, so any number of ranks sees the same
        ones. Generators of different kinds of devices give different numbers.
        """
        images = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if not isinstance(images, Tensor) or images.ndim < 3:
            raise TypeError(f"objective {self.name!r} takes batches {self.layout}; got {describe_batch(batch)}")
        masks = self.masks(draw.global_size(len(images)), draw.generator(images.device))
        context, target = (mask[draw.rows(len(images))] for mask in masks)
        return {"images": self.as_float(images), "context_mask": context, "target_mask": target}

    def forward(self, views: Views, hyper: Mapping[str, Tensor]) -> Losses:
        """The loss of one batch."""
        return smooth_l1_losses(self._predict(views), hyper, self.normalization)

    def sample_losses(self, views: Views) -> Tensor:
        """The prediction term of each image, over its target blocks."""
        return smooth_l1_by_sample(self._predict(views))

    def _predict(self, views: Views) -> JEPAOutput:
        images = views["images"]
        return self.model(images, images, context_mask=views["context_mask"], target_mask=views["target_mask"])

    @classmethod
    def example(cls) -> tuple[Objective, Any]:
        """A small ViT on scikit-learn's digits, where the EMA target alone collapses within 200 steps."""
        from jepa.data import digits
        from jepa.models import Encoder, ImageTokenizer

        tokenizer = ImageTokenizer(8, 2)
        encoder = Encoder(48, depth=2, num_heads=3, tokenizer=tokenizer)
        predictor = MaskedPredictor(48, tokenizer.grid, depth=1)
        return cls(JEPA(encoder, predictor), variance_weight=1.0, covariance_weight=2.5), digits("train")
