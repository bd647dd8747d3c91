"""State pair: the loss against the formula, and which batches it takes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jepa.models import JEPA, ActionPredictor, Encoder, ImageTokenizer, MaskedPredictor, MLPPredictor, Predictor
from jepa.objectives import Draw, StatePair

DRAW = Draw(seed=0, batch=0)


def hyper(variance: float = 1.0, covariance: float = 2.5) -> dict[str, Tensor]:
    values = {"variance_weight": variance, "covariance_weight": covariance}
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def reference(
    prediction: Tensor, target: Tensor, context: Tensor, variance: float, covariance: float, paper: bool
) -> dict[str, float]:
    """The loss in plain Python numbers, from tensors of shape (B, D) or (B, N, D)."""
    pairs = context.shape[-1] * (1 if paper else context.shape[-1] - 1)
    errors = []
    for p, t in zip(prediction.flatten(0, -2).tolist(), target.flatten(0, -2).tolist(), strict=True):
        mean = sum(t) / len(t)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in t) / len(t) + 1e-5)
        for value, wanted in zip(p, ((value - mean) / deviation for value in t), strict=True):
            error = abs(value - wanted)
            errors.append(0.5 * error**2 if error < 1 else error - 0.5)
    pooled = context if context.ndim == 2 else context.mean(1)
    matrix = torch.cov(pooled.T)
    hinges = [max(0.0, 1 - math.sqrt(v + 1e-4)) for v in matrix.diagonal().tolist()]
    terms = {
        "prediction": sum(errors) / len(errors),
        "variance": sum(hinges) / len(hinges),
        "covariance": float((matrix**2).sum() - (matrix.diagonal() ** 2).sum()) / pairs,
    }
    loss = terms["prediction"] + variance * terms["variance"] + covariance * terms["covariance"]
    return {"loss": loss, **terms}


@pytest.mark.parametrize("kind", ["ema", "stop_gradient", "shared"])
@pytest.mark.parametrize("shape", [(6, 3), (6, 4, 3)])
@pytest.mark.parametrize("normalization", ["mean", "paper"])
def test_the_loss_equals_the_formula(shape: tuple[int, ...], kind: Any, normalization: Any) -> None:
    model = JEPA(Encoder(8, 3, depth=1), Predictor(8, depth=1), target=kind).double()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    objective = StatePair(model, normalization=normalization)
    before, after = torch.randn(2, *shape, dtype=torch.float64)
    losses = objective(objective.views((before, after), DRAW), hyper(1.5, 0.2))
    with torch.no_grad():
        context = model.encoder(before)
        predictor = model.predictor
        assert predictor is not None
        paper = normalization == "paper"
        expected = reference(predictor(context), model.target.encoder(after), context, 1.5, 0.2, paper)
    assert losses.loss.item() == pytest.approx(expected.pop("loss"), rel=1e-10)
    assert {name: value.item() for name, value in losses.terms.items()} == pytest.approx(expected, rel=1e-10)
    torch.testing.assert_close(losses.embedding, context if context.ndim == 2 else context.mean(1))
    assert losses.loss.requires_grad
    assert not losses.embedding.requires_grad
    assert not any(term.requires_grad for term in losses.terms.values())


def test_the_loss_of_a_batch_computed_by_hand() -> None:
    model = JEPA(nn.Identity(), nn.Identity())
    objective = StatePair(model)
    before = torch.tensor([[1.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    after = torch.tensor([[2.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    # normalised targets are (1, -1) and (-1, 1) up to the epsilon: errors 0, 1, 4, 1 -> (0 + .5 + 3.5 + .5) / 4
    losses = objective(objective.views((before, after), DRAW), hyper(2.0, 10.0))
    assert losses.terms["prediction"].item() == pytest.approx(4.5 / 4, abs=1e-4)
    assert losses.terms["variance"].item() == pytest.approx((0 + 0.99) / 2)
    assert losses.terms["covariance"].item() == 0
    assert losses.loss.item() == pytest.approx(4.5 / 4 + 2 * 0.495, abs=1e-4)


def test_the_weight_of_the_paper_goes_with_its_normalization() -> None:
    model = JEPA(nn.Linear(3, 8), nn.Linear(8, 8))
    assert StatePair(model).config() == {"normalization": "mean", "variance_weight": 1.0, "covariance_weight": 2.5}
    assert StatePair(model, normalization="paper").config()["covariance_weight"] == 0.04
    assert StatePair(model, normalization="paper", covariance_weight=1).config()["covariance_weight"] == 1
    with pytest.raises(ValueError, match="normalization must be one of 'mean', 'paper', got 'sum'"):
        StatePair(model, normalization="sum")  # type: ignore[arg-type]


def test_zero_weights_leave_the_prediction_alone() -> None:
    objective = StatePair(JEPA(nn.Linear(3, 8), nn.Linear(8, 8)))
    losses = objective(objective.views(tuple(torch.randn(2, 6, 3)), DRAW), hyper(0.0, 0.0))
    assert losses.loss.item() == pytest.approx(losses.terms["prediction"].item())
    assert losses.terms["variance"] > 0, "still measured"


@pytest.mark.parametrize(
    ("encoder", "predictor", "shape"),
    [
        (nn.Linear(3, 8), nn.Linear(8, 8), (6, 3)),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 8)), nn.Linear(8, 8), (6, 1, 8, 8)),
        (Encoder(8, depth=1, tokenizer=ImageTokenizer(8, 4)), nn.Linear(8, 8), (6, 1, 8, 8)),
        (nn.Linear(3, 8), Predictor(8, depth=1), (6, 5, 3)),
    ],
)
def test_any_module_trains_as_encoder_and_predictor(
    encoder: nn.Module, predictor: nn.Module, shape: tuple[int, ...]
) -> None:
    model = JEPA(encoder, predictor)
    objective = StatePair(model)
    objective(objective.views(tuple(torch.randn(2, *shape)), DRAW), hyper()).loss.backward()
    for parameter in (*encoder.parameters(), *predictor.parameters()):
        assert parameter.grad is not None
        assert parameter.grad.any()
    assert all(parameter.grad is None for parameter in model.target.parameters())


def test_predictors_that_need_more_than_embeddings_are_refused() -> None:
    encoder = nn.Linear(3, 8)
    for wrong in (MaskedPredictor(8, (2,)), ActionPredictor(8, 2)):
        message = (
            rf"'state_pair' needs Predictor\(hidden_dim\) or MLPPredictor\(hidden_dim\), got an? {type(wrong).__name__}"
        )
        with pytest.raises(ValueError, match=message):
            StatePair(JEPA(encoder, wrong))
    StatePair(JEPA(encoder, MLPPredictor(8)))


def test_bytes_are_scaled_and_other_numbers_left_alone() -> None:
    objective = StatePair(JEPA(nn.Flatten(), nn.Identity()))
    pixels = torch.randint(0, 256, (2, 4, 1, 2, 2), dtype=torch.uint8)
    views = objective.views(tuple(pixels), DRAW)
    torch.testing.assert_close(views["context"], pixels[0].float() / 255)
    torch.testing.assert_close(views["target"], pixels[1].float() / 255)
    states = torch.randn(2, 4, 3) * 300
    assert objective.views([states[0], states[1]], DRAW)["target"] is not None
    assert torch.equal(objective.views([states[0], states[1]], DRAW)["context"], states[0])


def test_half_precision_outputs_are_compared_in_float32() -> None:
    objective = StatePair(JEPA(nn.Linear(3, 8), nn.Linear(8, 8)).bfloat16())
    weights = {name: value.float() for name, value in hyper().items()}
    losses = objective(objective.views(tuple(torch.randn(2, 6, 3).bfloat16()), DRAW), weights)
    assert losses.loss.dtype == losses.embedding.dtype == torch.float32
    assert torch.isfinite(losses.loss)


def test_a_last_batch_of_one_sample_trains_on_the_prediction_alone() -> None:
    objective = StatePair(JEPA(nn.Linear(3, 8), nn.Linear(8, 8)))
    losses = objective(objective.views(tuple(torch.randn(2, 1, 3)), DRAW), hyper())
    losses.loss.backward()
    assert losses.terms["variance"] == losses.terms["covariance"] == 0
    assert losses.loss.item() == pytest.approx(losses.terms["prediction"].item())


class Batch(dict[str, Tensor]):
    """Something that is neither tensor nor tuple."""


@pytest.mark.parametrize(
    ("batch", "described"),
    [
        (torch.zeros(4, 3), r"a tensor of shape \(4, 3\)"),
        ((torch.zeros(4, 3),), r"a tuple of 1: a tensor of shape \(4, 3\)"),
        ([torch.zeros(4, 3)] * 3, r"a list of 3: a tensor"),
        ((torch.zeros(4, 3), torch.zeros(4)), r"a tuple of 2: a tensor of shape \(4, 3\), a tensor of shape \(4,\)"),
        ((torch.zeros(4, 3), "label"), r"a tuple of 2: a tensor of shape \(4, 3\), a str"),
        (Batch(state=torch.zeros(4, 3), next=torch.zeros(4, 3)), r"a mapping with keys 'state', 'next'"),
        (None, "a NoneType"),
        ((), "a tuple of 0"),
    ],
)
def test_a_batch_of_another_layout_is_an_error_that_describes_it(batch: Any, described: str) -> None:
    objective = StatePair(JEPA(nn.Linear(3, 8), nn.Linear(8, 8)))
    message = rf"'state_pair' takes batches \(state_t, state_t1\): two tensors of one shape, B first; got {described}"
    with pytest.raises(TypeError, match=message):
        objective.views(batch, DRAW)
