"""The linear probe: what can be read off is found, noise is not, and the test part decides nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jepa.diagnostics import linear_probe


def clusters(samples: int, classes: int = 5, noise: float = 0.1, features: int = 8) -> tuple[Tensor, Tensor]:
    centres = torch.randn(classes, features, generator=torch.Generator().manual_seed(1)) * 3
    labels = torch.arange(samples) % classes
    return centres[labels] + noise * torch.randn(samples, features), labels


def test_classes_that_are_apart_are_told_apart() -> None:
    assert linear_probe(*clusters(200), *clusters(100)) == 1.0


def test_labels_that_the_features_do_not_hold_are_guessed_at_chance() -> None:
    accuracies = []
    for _ in range(5):
        x, y = torch.randn(600, 10), torch.randint(0, 4, (600,))
        accuracies.append(linear_probe(x[:400], y[:400], x[400:], y[400:]))
    assert sum(accuracies) / 5 == pytest.approx(0.25, abs=0.06)


def test_more_noise_means_less_accuracy() -> None:
    scores = [linear_probe(*clusters(500, noise=noise), *clusters(500, noise=noise)) for noise in (0.1, 4.0, 12.0)]
    assert scores[0] == 1.0
    assert scores[0] > scores[1] > scores[2] > 0.2


def test_a_penalty_saves_it_where_there_are_as_many_features_as_samples() -> None:
    scores = []
    for _ in range(5):
        parts = [clusters(samples, classes=3, features=4, noise=1.0) for samples in (60, 600)]
        (x, y), (test_x, test_y) = ((torch.cat([x, torch.randn(len(x), 56)], 1), y) for x, y in parts)
        scores.append(linear_probe(x, y, test_x, test_y))
    assert sum(scores) / 5 > 0.65, "less than a half with next to no penalty"


def test_the_test_part_decides_nothing() -> None:
    x, y = clusters(100, noise=3.0)
    test_x, test_y = clusters(40, noise=3.0)
    whole = linear_probe(x, y, test_x, test_y)
    halves = [linear_probe(x, y, test_x[part], test_y[part]) for part in (slice(0, 20), slice(20, 40))]
    assert sum(halves) / 2 == pytest.approx(whole)


def test_equal_to_the_normal_equations_when_the_penalty_does_not_matter() -> None:
    x, y = clusters(300, noise=4.0)
    test_x, test_y = clusters(300, noise=4.0)
    mean, deviation = x.double().mean(0), x.double().std(0)
    z, test_z = (x - mean) / deviation, (test_x - mean) / deviation
    design = torch.cat([z, torch.ones(300, 1)], 1)
    weights = torch.linalg.lstsq(design, torch.nn.functional.one_hot(y).double()).solution
    predicted = (torch.cat([test_z, torch.ones(300, 1)], 1) @ weights).argmax(1)
    assert linear_probe(x, y, test_x, test_y) == pytest.approx((predicted == test_y).double().mean().item(), abs=0.02)


def test_scale_and_offset_of_a_feature_do_not_matter_and_constants_are_ignored() -> None:
    x, y = clusters(200, noise=3.0)
    test_x, test_y = clusters(200, noise=3.0)
    plain = linear_probe(x, y, test_x, test_y)
    scale, offset = torch.logspace(-4, 4, 8), torch.linspace(-50, 50, 8)
    assert linear_probe(x * scale + offset, y, test_x * scale + offset, test_y) == pytest.approx(plain, abs=0.011)
    constant = torch.full((200, 1), 7.0)
    with_constant = torch.cat([x, constant], 1), torch.cat([test_x, constant], 1)
    assert linear_probe(with_constant[0], y, with_constant[1], test_y) == plain


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_of_any_integer_type_and_features_of_any_precision_are_taken(dtype: torch.dtype) -> None:
    x, y = clusters(100)
    test_x, test_y = clusters(50)
    assert linear_probe(x.bfloat16(), y.to(dtype), test_x.double(), test_y.to(dtype)) == 1.0


def test_a_class_that_is_only_in_the_test_part_is_never_right() -> None:
    x, y = clusters(100, classes=3)
    test_x, test_y = clusters(60, classes=3)
    test_y[:30] = 7
    assert linear_probe(x, y, test_x, test_y) == 0.5


def test_the_same_data_gives_the_same_number_and_the_global_generator_is_left_alone() -> None:
    data = *clusters(100, noise=4.0), *clusters(50, noise=4.0)
    state = torch.get_rng_state()
    first = linear_probe(*data)
    torch.rand(3)
    torch.set_rng_state(state)
    assert linear_probe(*data) == first
    assert torch.equal(torch.get_rng_state(), state)


X, Y = torch.randn(10, 3), torch.arange(10) % 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X.unsqueeze(1), Y, X, Y), r"train: expected features \(N, D\) and labels \(N,\), got \(10, 1, 3\), \(10,\)"),
        ((X, Y, X, Y[:9]), r"test: expected features \(N, D\) and labels \(N,\), got \(10, 3\), \(9,\)"),
        ((X[:0], Y[:0], X, Y), r"train: expected features .* got \(0, 3\), \(0,\)"),
        ((X, Y, X[:, :2], Y), r"the same features.*got 3 and 2"),
        ((X, Y, X / 0, Y), "test features hold NaN or infinity; look at the model before probing it"),
        ((X, torch.ones(10, dtype=torch.int64), X, Y), "at least two classes, the training labels are all 1"),
        ((X, Y.float(), X, Y), "train labels must be integers from 0, got torch.float32"),
        ((X, Y, X, Y - 1), "test labels must be integers from 0, got -1"),
    ],
)
def test_wrong_data_is_an_error_that_says_what_is_wrong(arguments: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linear_probe(*arguments)


def test_two_samples_are_enough() -> None:
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1])
    assert linear_probe(x, y, x, y) == 1.0
