"""A linear classifier on frozen features: how much of the labels can be read off them."""

from __future__ import annotations

import torch
from torch import Tensor

from jepa.diagnostics.standardise import standardise

PENALTIES = tuple(10.0**power for power in range(-4, 4))


def linear_probe(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor) -> float:
    """Accuracy of ridge regression onto one-hot labels, in closed form.

    Features are standardised by the training part; the penalty is the one of eight that classifies a held-out fifth
    of the training part best, so the test part decides nothing.

    Args:
        train_x: (N, D) features, any dtype.
        train_y: (N,) integer labels.
        test_x: (M, D) features.
        test_y: (M,) integer labels.

    Returns:
        Share of the test samples classified correctly, in [0, 1].

    Raises:
        ValueError: Shapes or labels do not fit, features are not finite, or there is only one class.
    """
    for name, x, y in (("train", train_x, train_y), ("test", test_x, test_y)):
        if x.ndim != 2 or y.shape != x.shape[:1] or len(x) == 0:
            raise ValueError(
                f"{name}: expected features (N, D) and labels (N,), got {tuple(x.shape)}, {tuple(y.shape)}"
            )
        if not bool(torch.isfinite(x).all()):
            raise ValueError(f"{name} features hold NaN or infinity; look at the model before probing it")
        if y.is_floating_point() or y.min() < 0:
            got = y.dtype if y.is_floating_point() else int(y.min())
            raise ValueError(f"{name} labels must be integers from 0, got {got}")
    if train_x.shape[1] != test_x.shape[1]:
        raise ValueError(f"both parts must have the same features, got {train_x.shape[1]} and {test_x.shape[1]}")
    classes = int(max(train_y.max(), test_y.max())) + 1
    if len(train_y.unique()) < 2:
        raise ValueError(f"a probe needs at least two classes, the training labels are all {int(train_y[0])}")
    train_x, test_x = standardise(train_x, test_x)
    train_y, test_y = train_y.cpu().long(), test_y.cpu().long()
    order = torch.randperm(len(train_x), generator=torch.Generator().manual_seed(0))
    held, kept = order[: max(len(order) // 5, 1)], order[max(len(order) // 5, 1) :]
    chosen = max(
        PENALTIES,
        key=lambda penalty: _accuracy(train_x[kept], train_y[kept], train_x[held], train_y[held], classes, penalty),
    )
    return _accuracy(train_x, train_y, test_x, test_y, classes, chosen)


def _accuracy(train_x: Tensor, train_y: Tensor, x: Tensor, y: Tensor, classes: int, penalty: float) -> float:
    targets = torch.nn.functional.one_hot(train_y, classes).double()
    offset = targets.mean(0)
    gram = train_x.T @ train_x + penalty * len(train_x) * torch.eye(train_x.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, train_x.T @ (targets - offset))
    return float(((x @ weights + offset).argmax(1) == y).double().mean())
