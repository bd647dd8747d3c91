"""Terms against collapse: pure functions of a batch of embeddings, over the samples of all ranks.

`variance` and `covariance` of VICReg (Bardes, Ponce, LeCun 2021, arXiv 2105.04906) and `sigreg` of LeJEPA (Balestriero,
LeCun 2025, arXiv 2511.08544). Deviation: by default the size of a term does not depend on the width of the embeddings,
so that a weight means the same for every model; `normalization="paper"` gives the published size. That of `sigreg` does
not depend on the batch size either. Those of VICReg do, as in the paper: N independent normal samples of deviation 1
have a mean `covariance` of 1 / (N - 1), and chance deviations below 1 leave a `variance` that falls with N too.

Each is a statistic of the whole global batch: gradients of two batches, accumulated, are not those of one twice as
large. A global batch of one sample has no spread: every term is 0 then.

Axes: V views, B batch, N samples of the global batch, D features, K slices, P points.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from jepa.distributed import all_reduce_mean, world_size

EPS = 1e-4

CovarianceNormalization = Literal["mean", "paper"]
SigregNormalization = Literal["unit", "paper"]


def variance(x: Tensor, *, target: float = 1.0) -> Tensor:
    """Hinge on each feature's standard deviation: `mean_d relu(target - sqrt(var_d + 1e-4))`.

    Args:
        x: (B, D) embeddings of this rank; every rank must hold equally many.
        target: Standard deviation below which a feature costs.

    Returns:
        0-d, at most `target`. The variance is the unbiased one over all ranks, as in the paper.
    """
    x, total = _checked(x, 2)
    if total < 2:
        return _nothing(x)
    return _hinge(all_reduce_mean(_centred(x).square().mean(0)) * (total / (total - 1)), target)


def covariance(x: Tensor, *, normalization: CovarianceNormalization = "mean") -> Tensor:
    """Squared covariances of different features.

    Args:
        x: (B, D) embeddings of this rank; every rank must hold equally many.
        normalization: `"mean"` over the D (D - 1) pairs, or `"paper"`: their sum divided by D, which grows with D.

    Returns:
        0-d. The covariances are the unbiased ones over all ranks, as in the paper.
    """
    check_normalization(normalization, CovarianceNormalization)
    x, total = _checked(x, 2)
    if total < 2:
        return _nothing(x)
    return _pairs(_covariances(x, total), normalization)


def variance_and_covariance(x: Tensor, *, normalization: CovarianceNormalization = "mean") -> tuple[Tensor, Tensor]:
    """`variance(x)` and `covariance(x, normalization=normalization)` from one matrix: half the talk between ranks."""
    check_normalization(normalization, CovarianceNormalization)
    x, total = _checked(x, 2)
    if total < 2:
        return _nothing(x), _nothing(x)
    matrix = _covariances(x, total)
    return _hinge(matrix.diagonal(), 1.0), _pairs(matrix, normalization)


def random_directions(dim: int, num_slices: int, generator: torch.Generator) -> Tensor:
    """Directions for `sigreg`, uniform on the sphere; draw them anew each step.

    Args:
        dim: Features of the embeddings, D.
        num_slices: Directions, K.
        generator: The same on every rank, so that all look along the same directions.

    Returns:
        (D, K) float32 with columns of length 1, on the generator's device.
    """
    if dim < 1 or num_slices < 1:
        raise ValueError(f"directions need at least 1 feature and 1 slice, got dim={dim} and num_slices={num_slices}")
    directions = torch.randn(dim, num_slices, generator=generator, device=generator.device)
    return directions / directions.norm(dim=0)


def sigreg(
    x: Tensor,
    directions: Tensor,
    *,
    points: int = 17,
    t_max: float = 3.0,
    normalization: SigregNormalization = "unit",
) -> Tensor:
    """Distance of the embeddings' distribution from the standard normal one, seen along random directions.

    Along each direction the characteristic function of the samples is compared with `exp(-t ** 2 / 2)` at `points`
    values of t (the test of Epps and Pulley), weighted by the same bell and integrated over [-t_max, t_max].

    Args:
        x: (B, D) embeddings of this rank, or (V, B, D) for several views, each compared by itself and averaged; every
            rank must hold equally many.
        directions: (D, K) unit columns, equal on all ranks; see `random_directions`.
        points: Values of t in [0, t_max], equally spaced.
        t_max: Largest t.
        normalization: `"paper"` is the published statistic: the integral times N, whose mean is not 0 for normal
            samples, as N of them are never quite normal. `"unit"` takes this part out (an unbiased estimate of the
            distance, which may be a little negative) and divides by the distance of a complete collapse to 0. Its mean
            is 0 for standard normal samples, and it is 1 at that collapse, whatever N, D and K are.

    Returns:
        0-d.

    Raises:
        ValueError: Shapes do not fit each other, or there are fewer than 2 points.
    """
    check_normalization(normalization, SigregNormalization)
    x, total = _checked(x, 2, 3)
    if directions.ndim != 2 or len(directions) != x.shape[-1]:
        raise ValueError(
            f"directions must have shape ({x.shape[-1]}, K) for these embeddings, got {_shape(directions)}"
        )
    if points < 2 or t_max <= 0:
        raise ValueError(f"sigreg needs at least 2 points and a positive t_max, got {points} and {t_max:g}")
    if total < 2:
        return _nothing(x)
    with _full_precision(x):
        projected = x @ directions.to(x)
    spacing = t_max / (points - 1)
    cosine, sine = all_reduce_mean(_CharacteristicFunction.apply(projected, spacing, points - 1))
    t = torch.arange(1, points, dtype=x.dtype, device=x.device) * spacing  # at t = 0 nothing differs
    bell = torch.exp(-t.square() / 2).unsqueeze(-1)  # (P, 1): the wanted characteristic function, and the weight
    step = torch.full_like(bell, 2 * spacing)  # both signs of t
    step[-1] = spacing
    weight = step * bell
    if normalization == "paper":
        distance = (cosine - bell).square() + sine.square()
        return total * (weight * distance).sum(-2).mean()
    # the square of a mean of N unit vectors is too large by their own squares
    square = (total * (cosine.square() + sine.square()) - 1) / (total - 1)
    distance = square - 2 * bell * cosine + bell.square()
    return (weight * distance).sum(-2).mean() / (weight * (1 - bell).square()).sum()


class _CharacteristicFunction(torch.autograd.Function):
    """Means over samples of cos(t x) and sin(t x) for t = spacing, 2 spacing, ...

    All powers of `exp(i spacing x)` are made by multiplication, one after the other, and the backward pass is their
    polynomial by Horner's rule: one cosine and sine a number instead of `count`, and one power in memory at a time.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, spacing: float, count: int) -> Tensor:  # type: ignore[override]
        """(..., B, K) to (2, ..., count, K)."""
        unit = torch.polar(torch.ones_like(x), x * spacing)
        ctx.save_for_backward(unit)
        ctx.spacing = spacing
        power = unit.clone()
        means = [power.mean(-2)]
        for _ in range(count - 1):
            means.append(power.mul_(unit).mean(-2))
        mean = torch.stack(means, dim=-2)
        return torch.stack([mean.real, mean.imag])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        """d/dx of a cos(t x) + b sin(t x) is the real part of t (b + i a) exp(i t x)."""
        (unit,) = ctx.saved_tensors
        of_cosine, of_sine = gradient
        count = of_cosine.shape[-2]
        t = torch.arange(1, count + 1, dtype=gradient.dtype, device=gradient.device).unsqueeze(-1) * ctx.spacing
        factors = (torch.complex(of_sine, of_cosine) * (t / unit.shape[-2])).unsqueeze(-3).unbind(-2)
        total = factors[-1] * unit
        for factor in reversed(factors[:-1]):
            total.add_(factor).mul_(unit)
        return total.real, None, None


def check_normalization(value: str, allowed: Any) -> None:
    """Raise a ValueError unless `value` is one of the `Literal` type's."""
    if value not in get_args(allowed):
        raise ValueError(f"normalization must be one of {', '.join(map(repr, get_args(allowed)))}, got {value!r}")


def _checked(x: Tensor, *axes: int) -> tuple[Tensor, int]:
    """The embeddings in at least float32, and the number of samples of the global batch."""
    if x.ndim not in axes:
        views = " or (V, B, D)" if 3 in axes else ""
        raise ValueError(
            f"expected embeddings of shape (B, D){views}, got {_shape(x)}; pool or flatten the tokens first"
        )
    total = x.shape[-2] * world_size()
    if total < 1:
        raise ValueError(f"expected at least one sample, got embeddings of shape {_shape(x)}")
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x, total


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)


def _centred(x: Tensor) -> Tensor:
    return x - all_reduce_mean(x.mean(0))


def _covariances(x: Tensor, total: int) -> Tensor:
    """(D, D), unbiased, over all ranks."""
    centred = _centred(x)
    with _full_precision(x):
        product = centred.T @ centred
    return all_reduce_mean(product / len(x)) * (total / (total - 1))


def _hinge(variances: Tensor, target: float) -> Tensor:
    return torch.relu(target - (variances + EPS).sqrt()).mean()


def _pairs(matrix: Tensor, normalization: CovarianceNormalization) -> Tensor:
    features = len(matrix)
    pairs = matrix.square().sum() - matrix.diagonal().square().sum()
    return pairs / (features if normalization == "paper" else features * max(features - 1, 1))


def _nothing(x: Tensor) -> Tensor:
    """0 that still belongs to the graph, so that every parameter has a gradient."""
    return (x * 0).sum()


def _full_precision(x: Tensor) -> torch.autocast:
    """Autocast would compute products of float32 embeddings in bfloat16."""
    return torch.autocast(x.device.type, enabled=False)
