"""The regression probe: R² as the textbook has it, a penalty that leave-one-out chooses, and clear refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from torch import Tensor

from jepa.diagnostics import regression_probe
from jepa.diagnostics.regression_probe import PENALTIES


def problem(samples: int, features: int, noise: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features, and two numbers that depend on them up to noise."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(features, 2, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    x = torch.randn(samples, features, generator=generator, dtype=torch.float64)
    return x, x @ weights + noise * torch.randn(samples, 2, generator=generator, dtype=torch.float64)


def leave_one_out(x: np.ndarray, y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray) -> float:
    """R² with the penalty that predicts each sample best from all others, every one of these fits done anew."""
    mean, deviation = x.mean(0), x.std(0, ddof=1)
    x, test_x = (x - mean) / deviation, (test_x - mean) / deviation

    def fit(rows: np.ndarray, penalty: float) -> tuple[np.ndarray, float, np.ndarray]:
        inside, answers = x[rows], y[rows]
        middle = inside.mean(0)
        gram = (inside - middle).T @ (inside - middle) + penalty * len(x) * np.eye(x.shape[1])
        slopes = np.linalg.solve(gram, (inside - middle).T @ (answers - answers.mean()))
        return slopes, answers.mean(), middle

    def error(penalty: float) -> float:
        squares = []
        for left in range(len(x)):
            slopes, offset, middle = fit(np.delete(np.arange(len(x)), left), penalty)
            squares.append((y[left] - offset - (x[left] - middle) @ slopes) ** 2)
        return float(np.mean(squares))

    slopes, offset, middle = fit(np.arange(len(x)), min(PENALTIES, key=error))
    return float(r2_score(test_y, offset + (test_x - middle) @ slopes))


@pytest.mark.parametrize(("samples", "features", "noise"), [(40, 5, 1.0), (25, 12, 3.0), (12, 30, 0.5)])
def test_it_equals_ridge_with_a_penalty_chosen_by_leaving_out_each_sample(
    samples: int, features: int, noise: float
) -> None:
    x, y = problem(samples, features, noise)
    test_x, test_y = problem(50, features, noise, seed=1)
    found = regression_probe(x, y, test_x, test_y)
    for column in range(2):
        wanted = leave_one_out(x.numpy(), y[:, column].numpy(), test_x.numpy(), test_y[:, column].numpy())
        assert float(found[column]) == pytest.approx(wanted, abs=1e-9)


def test_it_agrees_with_scikit_learn() -> None:
    x, y = problem(60, 8, 2.0)
    test_x, test_y = problem(40, 8, 2.0, seed=1)
    mean, deviation = x.mean(0), x.std(0)
    model = RidgeCV(alphas=[penalty * len(x) for penalty in PENALTIES], alpha_per_target=True)
    model.fit(((x - mean) / deviation).numpy(), y.numpy())
    wanted = r2_score(test_y, model.predict(((test_x - mean) / deviation).numpy()), multioutput="raw_values")
    torch.testing.assert_close(regression_probe(x, y, test_x, test_y), torch.from_numpy(np.asarray(wanted)))


def test_what_depends_linearly_is_explained_and_noise_is_not() -> None:
    x, y = problem(300, 6, 0.0)
    test_x, test_y = problem(100, 6, 0.0, seed=1)
    torch.testing.assert_close(regression_probe(x, y, test_x, test_y), torch.ones(2, dtype=torch.float64))
    noise = torch.randn(400, 1, dtype=torch.float64)
    assert abs(float(regression_probe(x, noise[:300], test_x, noise[300:]))) < 0.1


def test_a_hand_computed_value() -> None:
    x, y = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([0.0, 1.0, 2.0, 3.0])
    # answers of 1 and 4 where 0 and 3 are read off: errors of 1, against a variance of 2.25
    found = regression_probe(x, y, torch.tensor([[0.0], [3.0]]), torch.tensor([1.0, 4.0]))
    assert float(found) == pytest.approx(1 - 1 / 2.25, abs=1e-6)


def test_scale_offset_and_constant_features_do_not_matter() -> None:
    x, y = problem(80, 4, 1.0)
    test_x, test_y = problem(40, 4, 1.0, seed=1)
    plain = regression_probe(x, y, test_x, test_y)
    changed = [torch.cat([1e3 * part + 7, torch.full((len(part), 2), 3.0)], dim=1) for part in (x, test_x)]
    torch.testing.assert_close(regression_probe(changed[0], y, changed[1], test_y), plain)
    torch.testing.assert_close(regression_probe(x, 50 * y - 3, test_x, 50 * test_y - 3), plain)


def test_answers_of_the_test_part_decide_nothing_but_the_score() -> None:
    x, y = problem(60, 30, 4.0)
    test_x, test_y = problem(40, 30, 4.0, seed=1)
    shifted = regression_probe(x, y, test_x, test_y + 2.0)
    predicted_better = regression_probe(x, y, test_x, test_y)
    spread = test_y.var(0, correction=0)
    errors, moved = (1 - predicted_better) * spread, (1 - shifted) * spread
    # E(p - y - 2)^2 = E(p - y)^2 - 4 E(p - y) + 4 with the same predictions p, so the mean of them can be told
    mean_prediction = test_y.mean(0) + (errors + 4 - moved) / 4
    assert bool((mean_prediction - y.mean(0)).abs().max() < 3)
    assert not torch.equal(shifted, predicted_better)


def test_half_precision_features_are_taken() -> None:
    x, y = problem(80, 4, 0.0)
    test_x, test_y = problem(40, 4, 0.0, seed=1)
    found = regression_probe(x.bfloat16(), y.float(), test_x.bfloat16(), test_y.float())
    assert found.dtype == torch.float64
    assert bool((found > 0.99).all())


GOOD = (torch.arange(8.0).view(4, 2).square(), torch.arange(4.0), torch.ones(2, 2), torch.arange(2.0))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, torch.ones(4), r"train: expected .* features \(N, D\) and states \(N, S\), got \(4,\), \(4, 1\)"),
        (1, torch.ones(3), r"train: expected .* got \(4, 2\), \(3, 1\)"),
        (2, torch.ones(1, 2), r"test: expected at least two samples .* got \(1, 2\), \(2, 1\)"),
        (0, torch.full((4, 2), torch.nan), "train features hold NaN or infinity; look at the model before probing it"),
        (1, torch.tensor([0.0, torch.inf, 1.0, 2.0]), "train states hold NaN or infinity; drop those samples"),
        (3, torch.tensor([2.5, 2.5]), "test: number 0 of the state is 2.5 everywhere; drop it"),
        (2, torch.ones(2, 3), "both parts must have the same features and states, got 2 and 3 features, 1 and 1"),
        (3, torch.arange(4.0).view(2, 2), "got 2 and 2 features, 1 and 2 numbers in a state"),
    ],
)
def test_what_does_not_fit_is_named(place: int, value: Tensor, message: str) -> None:
    arguments = list(GOOD)
    arguments[place] = value
    with pytest.raises(ValueError, match=message):
        regression_probe(*arguments)
