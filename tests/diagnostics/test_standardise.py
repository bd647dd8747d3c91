"""Features on one scale, and those that do not vary left out of it."""

from __future__ import annotations

import torch

from jepa.diagnostics import linear_probe, regression_probe
from jepa.diagnostics.standardise import standardise


def test_both_parts_are_put_on_the_training_parts_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    train, test = torch.randn(50, 3, generator=generator) * 4 + 7, torch.randn(20, 3, generator=generator) * 4 + 7
    ours, theirs = standardise(train, test)
    torch.testing.assert_close(ours.mean(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.std(0), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(theirs, (test.double() - train.double().mean(0)) / train.double().std(0))


def test_a_feature_that_is_rounding_in_training_decides_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    train, test = torch.randn(80, 4, generator=generator), torch.randn(60, 4, generator=generator)
    states = (part[:, :2] @ torch.tensor([[1.0, 0.5], [-0.3, 1.0]]) for part in (train, test))
    train_y, test_y = states
    for noise in (1e-14 * torch.randn(80, 1, generator=generator), 3 + 1e-7 * torch.rand(80, 1, generator=generator)):
        wide = torch.cat([train.double(), noise.double()], 1)
        wild = torch.cat([test.double(), 5 * torch.randn(60, 1, generator=generator).double()], 1)
        assert float(regression_probe(wide, train_y, wild, test_y).min()) > 0.999
        labels = ((train_y[:, 0] > 0).long(), (test_y[:, 0] > 0).long())
        assert linear_probe(wide, labels[0], wild, labels[1]) == linear_probe(train, labels[0], test, labels[1])


def test_constant_features_are_zero_not_nan() -> None:
    for part in standardise(torch.full((5, 2), 3.0), torch.ones(4, 2)):
        assert torch.equal(part, torch.zeros_like(part))
