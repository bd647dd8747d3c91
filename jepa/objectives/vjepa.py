"""V-JEPA: predict the embeddings of hidden regions of a video from the visible rest.

Bardes et al. 2024 (arXiv 2404.08471); V-JEPA 2: Assran et al. 2025 (arXiv 2506.09985). Every clip is masked several
times, by groups of many small and of a few large blocks that last through the clip. Deviations: the masks have one
distribution at every time (see `jepa.masks`; `official_masks=True` draws the published ones), and variance and
covariance terms (VICReg, arXiv 2105.04906) on the mean context embedding may be added, as in I-JEPA; their weights are
0 unless set.

Axes: B batch, C channels or context tokens, T frames, H W pixels, G groups of masks, M target tokens, N tokens,
D features.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa.masks import TubeMaskSampler
from jepa.models.jepa import JEPA
from jepa.models.positions import gather_tokens
from jepa.models.predictor import MaskedPredictor
from jepa.objectives.base import (
    Draw,
    HyperParameter,
    Limits,
    Losses,
    Objective,
    Views,
    by_sample,
    check_predictor,
    describe_batch,
    grid_of,
    pooled,
    widen,
    width_of,
    with_spread,
)
from jepa.regularizers import CovarianceNormalization, check_normalization

MASK_GROUPS = ((8, 0.15), (2, 0.7))

V_JEPA_2: dict[str, Any] = {
    "learning_rate": 5.25e-4,
    "start_learning_rate_fraction": 1e-4 / 5.25e-4,
    "warmup_fraction": 0.05,
    "final_learning_rate_fraction": 1.0,
    "weight_decay": 0.04,
    "final_weight_decay": None,
    "ema_momentum": 0.99925,
    "final_ema_momentum": 0.99925,
}
"""V-JEPA 2's schedule, over that of `VJEPA.paper`: `create_trainer(..., **V_JEPA_2)`.

Left out is the short run after it, on longer clips at a falling rate.
"""


class VJEPA(Objective):
    """L1 between predicted and layer-normalised target tokens, averaged over groups of masks.

    The target encoder sees each clip once, the context encoder and the predictor once for each group.

    Args:
        model: Its encoder has a tokenizer with a grid of three axes, its predictor is a `MaskedPredictor` over that
            grid with one mask token a group. A predictor of your own is called as
            `predictor(context, context_mask, target_mask, group=number)`.
        mask_groups: For each group the number of blocks and the share of a frame that each covers.
        temporal_scale: Share of the clip's length that a block lasts, smallest and largest.
        aspect_ratio: Height / width of a block, smallest and largest. The scales of the groups and the ends of these
            two ranges may be changed while training: `spatial_scale_0`, ..., `temporal_scale_min` and so on.
        min_keep: Smallest number of context tokens; a fiftieth of the grid by default.
        loss_power: p of the loss `mean |prediction - target| ** p / p`, at least 1.
        official_masks: Draw the masks of the published code, with its bias, for comparisons with it.
        normalization: Of the covariance term: `"mean"` over the pairs of features, or `"paper"`, their sum divided by
            the width.
        **weights: `variance_weight` and `covariance_weight`.

    Attributes:
        paper: V-JEPA's schedule; for V-JEPA 2's see `V_JEPA_2`.
    """

    name = "vjepa"
    layout = "videos (B, C, T, H, W), or a tuple that begins with them (labels are not looked at)"
    hyper_parameters = {
        "variance_weight": HyperParameter(0.0, 0.0, 1e3, "VICReg variance term, deviation 1"),
        "covariance_weight": HyperParameter(0.0, 0.0, 1e3, "VICReg covariance term"),
    }
    batch_statistics = ("variance_weight", "covariance_weight")
    paper = {
        "learning_rate": 6.25e-4,
        "start_learning_rate_fraction": 2e-4 / 6.25e-4,
        "warmup_fraction": 40 / 300,
        "final_learning_rate_fraction": 1e-6 / 6.25e-4,
        "weight_decay": 0.04,
        "final_weight_decay": 0.4,
        "betas": (0.9, 0.999),
        "ema_momentum": 0.998,
        "final_ema_momentum": 1.0,
        "clip_grad_norm": 10.0,
    }

    def __init__(
        self,
        model: JEPA,
        *,
        mask_groups: Sequence[Sequence[float]] = MASK_GROUPS,
        temporal_scale: tuple[float, float] = (1.0, 1.0),
        aspect_ratio: tuple[float, float] = (0.75, 1.5),
        min_keep: int | None = None,
        loss_power: float = 1.0,
        official_masks: bool = False,
        normalization: CovarianceNormalization = "mean",
        **weights: float,
    ) -> None:
        check_normalization(normalization, CovarianceNormalization)
        super().__init__(model, **weights)
        if not loss_power >= 1:
            raise ValueError(
                f"loss_power must be at least 1, where the loss has a gradient everywhere, got {loss_power}"
            )
        self.mask_groups = _checked_groups(mask_groups)
        grid = grid_of(model.encoder)
        if len(grid) != 3:
            raise ValueError(
                f"objective 'vjepa' masks videos, whose token grid is (time, rows, columns), got {grid}; give the "
                "encoder a VideoTokenizer, or use 'ijepa' for images and series"
            )
        _check_predictor(model.predictor, grid, len(self.mask_groups))
        self.loss_power = loss_power
        self.normalization: CovarianceNormalization = normalization
        self.masks = [
            TubeMaskSampler(
                grid,
                num_blocks=blocks,
                spatial_scale=(scale, scale),
                temporal_scale=temporal_scale,
                aspect_ratio=aspect_ratio,
                min_keep=min_keep,
                official=official_masks,
            )
            for blocks, scale in self.mask_groups
        ]
        self.view_parameters = {
            f"spatial_scale_{group}": HyperParameter(scale, 0.0, 1.0, f"of a frame, each of {blocks} block(s)")
            for group, (blocks, scale) in enumerate(self.mask_groups)
        }
        if grid[0] > 1:
            self.view_parameters |= Limits.parameters("temporal_scale", temporal_scale, "of the clip's length")
        self.view_parameters |= Limits.parameters("aspect_ratio", aspect_ratio, "height / width", high=1e3)
        self._ranges = {"temporal_scale": temporal_scale, "aspect_ratio": aspect_ratio}

    @classmethod
    def model_for(cls, encoder: nn.Module, options: Mapping[str, Any] | None = None) -> JEPA:
        """A narrow transformer with a mask token for each group as predictor, and an EMA target."""
        groups = len((options or {}).get("mask_groups", MASK_GROUPS))
        predictor = MaskedPredictor(width_of(encoder), grid_of(encoder), num_mask_tokens=groups)
        return JEPA(encoder, predictor)

    def config(self) -> dict[str, Any]:
        """Constructor arguments besides the model."""
        masks = self.masks[0]
        return {
            "mask_groups": [list(group) for group in self.mask_groups],
            **{name: list(limits) for name, limits in self._ranges.items()},
            "min_keep": masks.min_keep,
            "loss_power": self.loss_power,
            "official_masks": masks.official,
            "normalization": self.normalization,
            **super().config(),
        }

    def check_view_parameters(self, now: Mapping[str, float], end: Mapping[str, float]) -> None:
        """Raise a ValueError where masks would leave no context, or a range has its ends in the wrong order."""
        Limits.check_order(now, end)
        for values in (now, end, Limits.widest(now, end)):
            masks = [copy.copy(sampler) for sampler in self.masks]
            _give(masks, values)
            for sampler in masks:
                sampler.check()

    def set_view_parameters(self, values: Mapping[str, float]) -> None:
        """Draw masks of other sizes from now on."""
        _give(self.masks, values)

    def views(self, batch: Any, draw: Draw) -> Views:
        """Clips to `videos`, and for each group g the positions `context_mask_g` (B, C) and `target_mask_g` (B, M).

        Masks are drawn on the videos' device for the global batch and sliced, so any number of ranks sees the same
        ones.
        """
        videos = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if not isinstance(videos, Tensor) or videos.ndim != 5:
            raise TypeError(f"objective {self.name!r} takes batches {self.layout}; got {describe_batch(batch)}")
        views = {"videos": self.as_float(videos)}
        generator, rows = draw.generator(videos.device), draw.rows(len(videos))
        for group, sampler in enumerate(self.masks):
            context, target = sampler(draw.global_size(len(videos)), generator)
            views |= {f"context_mask_{group}": context[rows], f"target_mask_{group}": target[rows]}
        return views

    def forward(self, views: Views, hyper: Mapping[str, Tensor]) -> Losses:
        """The loss of one batch."""
        errors, embeddings = [], []
        for error, context in self._errors(views):
            errors.append(error.mean() / self.loss_power)  # exact where the power is 1
            embeddings.append(pooled(context))
        error, embedding = torch.stack(errors).mean(), torch.stack(embeddings).mean(0)
        return with_spread(error, embedding, hyper, self.normalization)

    def sample_losses(self, views: Views) -> Tensor:
        """The prediction term of each clip, over all groups of masks."""
        samples = len(views["videos"])
        errors = [by_sample(error, samples) / self.loss_power for error, _ in self._errors(views)]
        return torch.stack(errors).mean(0)

    def _errors(self, views: Views) -> Iterator[tuple[Tensor, Tensor]]:
        """For each group of masks `|prediction - target| ** loss_power` (B, M, D), and the context's embeddings."""
        videos = views["videos"]
        target = widen(self.model.target(videos))
        target = F.layer_norm(target, target.shape[-1:])
        for group in range(len(self.masks)):
            seen, hidden = views[f"context_mask_{group}"], views[f"target_mask_{group}"]
            context = self.model.encoder(videos, keep=seen)
            prediction = self.model.predictor(context, seen, hidden, group=group)  # type: ignore[misc]
            yield self._error(prediction, gather_tokens(target, hidden)), context

    def _error(self, prediction: Tensor, target: Tensor) -> Tensor:
        if prediction.shape != target.shape:
            raise ValueError(
                f"the predictor returned {tuple(prediction.shape)}, but the target embedding is {tuple(target.shape)}; "
                "its output must have the target's shape"
            )
        distance = (widen(prediction) - target).abs()
        return distance if self.loss_power == 1 else distance.pow(self.loss_power)

    @classmethod
    def example(cls) -> tuple[Objective, Any]:
        """A small ViT on scikit-learn's digits in motion; without the added terms it collapses within 200 steps."""
        from jepa.models import Encoder, VideoTokenizer

        encoder = Encoder(32, depth=1, num_heads=2, tokenizer=VideoTokenizer(4, 12, 2, channels=1))
        predictor = MaskedPredictor(32, grid_of(encoder), depth=1, num_mask_tokens=len(MASK_GROUPS))
        return cls(JEPA(encoder, predictor), variance_weight=1.0, covariance_weight=2.5), moving_digits()


def moving_digits(frames: int = 4, size: int = 12) -> Any:
    """scikit-learn's digits, each moving straight at its own speed and bouncing off the borders.

    Returns:
        A dataset of videos (1, frames, size, size) uint8 and labels.
    """
    from torch.utils.data import TensorDataset

    from jepa.data import digits

    images, labels = digits("train").tensors
    room = size - images.shape[-1]
    generator = torch.Generator().manual_seed(0)
    start = torch.randint(2 * room, (len(images), 2), generator=generator)
    speed = torch.randint(-2, 3, (len(images), 2), generator=generator)
    videos = images.new_zeros(len(images), 1, frames, size, size)
    number = torch.arange(len(images)).view(-1, 1, 1)
    pixel = torch.arange(images.shape[-1])
    for time in range(frames):
        there_and_back = (start + time * speed) % (2 * room)
        top, left = torch.minimum(there_and_back, 2 * room - there_and_back).unsqueeze(-1).unbind(1)
        rows, columns = (top + pixel).unsqueeze(2), (left + pixel).unsqueeze(1)
        videos[number, 0, time, rows, columns] = images[:, 0]
    return TensorDataset(videos, labels)


def _give(masks: Sequence[TubeMaskSampler], values: Mapping[str, float]) -> None:
    for group, sampler in enumerate(masks):
        scale = values[f"spatial_scale_{group}"]
        vars(sampler).update(spatial_scale=(scale, scale), **Limits.of(values))


def _checked_groups(groups: Any) -> tuple[tuple[int, float], ...]:
    try:
        pairs = tuple((int(blocks), float(scale)) for blocks, scale in groups)
        whole = all(blocks == number for (blocks, _), (number, _) in zip(groups, pairs, strict=True))
    except (TypeError, ValueError):
        pairs, whole = (), False
    if not (pairs and whole):
        raise ValueError(f"mask_groups must hold pairs (blocks, spatial scale), such as (8, 0.15), got {groups!r}")
    return pairs


def _check_predictor(predictor: nn.Module | None, grid: tuple[int, ...], groups: int) -> None:
    needed = f"MaskedPredictor(hidden_dim, grid={grid}, num_mask_tokens={groups})"
    if predictor is None:
        raise ValueError(f"objective 'vjepa' needs {needed}, got no predictor")
    check_predictor("vjepa", predictor, needed, MaskedPredictor)
    if isinstance(predictor, MaskedPredictor) and predictor.num_mask_tokens != groups:
        raise ValueError(
            f"there are {groups} groups of masks, and the predictor has {predictor.num_mask_tokens} mask tokens, one "
            f"for each; build {needed}"
        )
