"""What methods have in common that compare several views of each sample: making, encoding and projecting them.

Axes: V views, B batch, N tokens, D features of an embedding, P features of a projection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from jepa.augmentations import BatchRandom
from jepa.distributed import all_reduce_mean
from jepa.models.jepa import JEPA
from jepa.objectives.base import Draw, Objective, Views, describe_batch, pooled, precision_of, widen, width_of
from jepa.views import (
    AUGMENTS,
    Augment,
    ImageViews,
    ReadyViews,
    SeriesViews,
    VectorViews,
    build_augment,
    describe_augment,
)

AXES: dict[type[Augment], int] = {ImageViews: 4, SeriesViews: 3, VectorViews: 2}


class MultiView(Objective):
    """One encoder for all views, and a projector (VICReg's expander) that is the objective's own.

    Args:
        model: Has no predictor, and the target `"shared"`.
        augment: How views are made, or `ReadyViews` where batches hold them: an object of `jepa.views`, or its
            description as files have it, `{"type": "ImageViews", "num_local": 4}`. By default the method's own choice
            for batches of images, series or vectors.
        projection_dim: Features that are compared, P.
        projector_width: Features of the projector's hidden layers; four times the encoder's width by default.
        projector_depth: Hidden layers of the projector.
        **weights: Other values for the declared hyper-parameters.

    Attributes:
        usual: The method's own choice of `augment`, by the number of axes of a batch.
    """

    layout = (
        "images (B, C, H, W), series (B, C, T) or vectors (B, D), or a tuple that begins with them (labels are not "
        "looked at); with augment=ReadyViews(...) a tensor (B, V, ...) or a list of V tensors (B, ...), or a "
        "tuple that begins with either"
    )
    targets = ("shared",)
    batch_statistics = True
    usual: ClassVar[Mapping[int, Augment]]

    def __init__(
        self,
        model: JEPA,
        *,
        augment: Augment | Mapping[str, Any] | None = None,
        projection_dim: int = 64,
        projector_width: int | None = None,
        projector_depth: int = 2,
        **weights: float,
    ) -> None:
        super().__init__(model, **weights)
        if model.predictor is not None and any(True for _ in model.predictor.parameters()):
            raise ValueError(
                f"objective {self.name!r} compares embeddings without a predictor, got a model with a "
                f"{type(model.predictor).__name__}; build it with JEPA(encoder, target='shared')"
            )
        self.augment = build_augment(augment) if isinstance(augment, Mapping) else augment
        if self.augment is not None:
            self._check_augment(self.augment)
        width = width_of(model.encoder)
        self.projection_dim = projection_dim
        self.projector_width = 4 * width if projector_width is None else projector_width
        self.projector_depth = projector_depth
        self.projector: nn.Module = make_projector(width, projection_dim, self.projector_width, projector_depth)

    def _check_augment(self, augment: Any) -> None:
        """Raise an error unless these are views that the method can compare."""
        if not isinstance(augment, tuple(AUGMENTS.values())):
            raise TypeError(f"augment must be one of {', '.join(AUGMENTS)}, got a {type(augment).__name__}")
        if augment.num_global + augment.num_local < 2:
            raise ValueError(f"objective {self.name!r} compares at least 2 views of a sample, got {augment}")

    @classmethod
    def model_for(cls, encoder: nn.Module, options: Mapping[str, Any] | None = None) -> JEPA:
        """The encoder alone, which encodes all views."""
        return JEPA(encoder, target="shared")

    def config(self) -> dict[str, Any]:
        """Constructor arguments besides the model."""
        return {
            "augment": None if self.augment is None else describe_augment(self.augment),
            "projection_dim": self.projection_dim,
            "projector_width": self.projector_width,
            "projector_depth": self.projector_depth,
            **super().config(),
        }

    def samples(self, batch: Any) -> int:
        """Number of samples in a batch."""
        first = batch[0] if isinstance(batch, tuple | list) and batch else batch
        return super().samples(first if isinstance(first, tuple | list) else batch)

    def views(self, batch: Any, draw: Draw) -> Views:
        """A batch to `global` (V, B, ...) views and, where these have another size, `local` ones.

        Views are drawn for the global batch and sliced, so that any number of ranks sees the same.
        """
        augment = self.augment
        groups = self._ready(batch, augment) if isinstance(augment, ReadyViews) else self._made(batch, draw)
        if len({group.shape[1:] for group in groups}) == 1:
            return {"global": torch.cat(groups)}  # which the encoder can take at once
        return dict(zip(("global", "local"), groups, strict=True))

    def _made(self, batch: Any, draw: Draw) -> tuple[Tensor, ...]:
        x = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if not isinstance(x, Tensor):
            raise self._misfit(batch)
        augment = self.augment or self.usual.get(x.ndim)
        if augment is None or isinstance(augment, ReadyViews) or AXES[type(augment)] != x.ndim:
            raise self._misfit(batch)
        random = BatchRandom(draw.generator(x.device), draw.global_size(len(x)), draw.rows(len(x)))
        return augment(self.as_float(x), random)

    def _ready(self, batch: Any, augment: ReadyViews) -> tuple[Tensor, ...]:
        first = batch[0] if isinstance(batch, tuple | list) and batch else None
        for views in (batch, first):  # the views themselves, or what begins with them
            if groups := ready_groups(views, augment):
                return tuple(self.as_float(torch.stack([*group])) for group in groups)
        raise self._misfit(batch)

    def _misfit(self, batch: Any) -> TypeError:
        wanted = "" if self.augment is None else f" and was built with {self.augment}"
        return TypeError(f"objective {self.name!r} takes batches {self.layout}{wanted}; got {describe_batch(batch)}")

    def num_global(self, views: Views) -> int:
        """How many of the views, which begin with them, are global ones."""
        return (self.augment or self.usual[views["global"].ndim - 1]).num_global

    def project(self, views: Views) -> tuple[Tensor, Tensor]:
        """Encode and project all views.

        Returns:
            Projections (V, B, P), global views first, and the embedding (B, D) of the first view.
        """
        groups = [views[name] for name in ("global", "local") if name in views]
        embeddings = [pooled(self.model.encoder(group.flatten(0, 1))) for group in groups]
        embedding = torch.cat(embeddings)
        projections = widen(self.projector(embedding.to(precision_of(self.projector, embedding.dtype))))
        samples = groups[0].shape[1]
        return projections.unflatten(0, (-1, samples)), embeddings[0][:samples]


def ready_groups(views: Any, augment: ReadyViews) -> Sequence[Sequence[Tensor]]:
    """Global views (B, ...) and, where there are any, local ones; nothing if these are not the views asked for."""
    if isinstance(views, Tensor) and views.ndim > 2:
        views = views.unbind(1)
    if not (isinstance(views, tuple | list) and all(isinstance(view, Tensor) and view.ndim > 1 for view in views)):
        return []
    if len(views) != augment.num_global + augment.num_local or len({len(view) for view in views}) != 1:
        return []
    groups = [group for group in (views[: augment.num_global], views[augment.num_global :]) if group]
    return groups if all(len({(view.shape, view.dtype) for view in group}) == 1 for group in groups) else []


class GlobalBatchNorm(nn.Module):
    """Each feature of (N, D) to mean 0 and deviation 1 over the rows of all ranks, in training and evaluation alike.

    It is what lets a method leave the point where all embeddings are nearly equal, as they are at the start: there both
    the agreement and the terms against collapse have next to no gradient. There are no running statistics, as nothing
    but the loss is computed from projections, and no scale and offset, as a linear layer follows.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, D) to (N, D) in the precision of `x`; the statistics are computed in at least float32."""
        wide = widen(x)
        centred = wide - all_reduce_mean(wide.mean(0))
        return (centred * (all_reduce_mean(centred.square().mean(0)) + 1e-5).rsqrt()).to(x.dtype)


def make_projector(input_dim: int, output_dim: int, width: int, depth: int) -> nn.Sequential:
    """`depth` hidden layers (linear, GELU, batch normalisation) of `width` features, and a linear layer after them.

    The papers' normalise before the activation, which leaves the encoder's last bias without any effect on the loss:
    what remains of its gradient is rounding noise, and Adam takes full steps along it. A bias of the last layer would
    be such a parameter too, with methods that ignore the mean.
    """
    if min(output_dim, width) < 1 or depth < 0:
        raise ValueError(
            "projection_dim and projector_width must be at least 1 and projector_depth at least 0, got "
            f"{output_dim}, {width} and {depth}"
        )
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(input_dim, width), nn.GELU(), GlobalBatchNorm()]
        input_dim = width
    return nn.Sequential(*layers, nn.Linear(input_dim, output_dim, bias=False))
