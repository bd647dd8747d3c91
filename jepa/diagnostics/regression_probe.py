"""A linear regression on frozen features: how much of the true state can be read off them.

Axes: N training samples, M test samples, D features, S numbers in a state, R directions of the training features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jepa.diagnostics.standardise import standardise

PENALTIES = tuple(10.0**power for power in range(-8, 4))


def regression_probe(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor) -> Tensor:
    """R² of ridge regression, one for each number of the state.

    Features are standardised by the training part. Each number of the state has the penalty, of twelve, with the
    smallest leave-one-out error on the training part, which has a closed form; the test part decides nothing.

    Args:
        train_x: (N, D) features, any dtype.
        train_y: (N, S) states, or (N,) for a single number.
        test_x: (M, D) features.
        test_y: (M, S) or (M,).

    Returns:
        (S,) float64 on the CPU, at most 1: the share of the variance of the test states that is explained. 0 is as good
        as the mean of the test states, and a negative value is worse than that.

    Raises:
        ValueError: Shapes do not fit, a value is not finite, or a state does not vary.

    Source: leave-one-out residuals of a linear smoother, Golub, Heath, Wahba 1979 (Technometrics 21).
    """
    train_y, test_y = (y.unsqueeze(1) if y.ndim == 1 else y for y in (train_y, test_y))
    _check(train_x, train_y, test_x, test_y)
    train_y, test_y = train_y.double().cpu(), test_y.double().cpu()
    train_x, test_x = standardise(train_x, test_x)
    offset = train_y.mean(0)
    values, directions = torch.linalg.eigh(train_x.T @ train_x)
    used = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    values, directions = values[used], directions[:, used]
    basis = train_x @ directions / values.sqrt()  # (N, R), orthonormal columns
    parts = basis.T @ (train_y - offset)  # (R, S)
    penalties = torch.tensor(PENALTIES, dtype=values.dtype) * len(train_x)
    errors = torch.stack([_left_out(basis, p / (values + p), parts, train_y - offset) for p in penalties])
    chosen = penalties[errors.argmin(0)]  # (S,)
    slopes = parts * values.sqrt().unsqueeze(1) / (values.unsqueeze(1) + chosen)
    predicted = (test_x @ directions) @ slopes + offset
    return 1 - (test_y - predicted).square().mean(0) / test_y.var(0, correction=0)


def _left_out(basis: Tensor, shrinkage: Tensor, parts: Tensor, wanted: Tensor) -> Tensor:
    """(S,) mean squared error of each training sample, predicted from all the others.

    Both residuals and what a sample weighs in them are sums of what is outside the span of the features and of what the
    penalty takes away inside, so that nothing cancels where there are more features than samples.
    """
    residuals = wanted - basis @ parts + basis @ (shrinkage.unsqueeze(1) * parts)
    outside = (1 - 1 / len(wanted) - basis.square().sum(1)).clamp(min=0)
    own = outside + basis.square() @ shrinkage
    return (residuals / own.unsqueeze(1)).square().mean(0)


def _check(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor) -> None:
    for name, x, y in (("train", train_x, train_y), ("test", test_x, test_y)):
        if x.ndim != 2 or y.ndim != 2 or len(y) != len(x) or len(x) < 2:
            raise ValueError(
                f"{name}: expected at least two samples of features (N, D) and states (N, S), got {tuple(x.shape)}, "
                f"{tuple(y.shape)}"
            )
        if not bool(torch.isfinite(x).all()):
            raise ValueError(f"{name} features hold NaN or infinity; look at the model before probing it")
        if not bool(torch.isfinite(y).all()):
            raise ValueError(f"{name} states hold NaN or infinity; drop those samples")
        still = [column for column in range(y.shape[1]) if bool((y[:, column] == y[0, column]).all())]
        if still:
            raise ValueError(f"{name}: number {still[0]} of the state is {float(y[0, still[0]]):g} everywhere; drop it")
    if train_x.shape[1] != test_x.shape[1] or train_y.shape[1] != test_y.shape[1]:
        raise ValueError(
            f"both parts must have the same features and states, got {train_x.shape[1]} and {test_x.shape[1]} "
            f"features, {train_y.shape[1]} and {test_y.shape[1]} numbers in a state"
        )
