"""I-JEPA: the loss against the formula, masks that belong to the global batch, and which models fit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jepa.models import (
    JEPA,
    ActionPredictor,
    Encoder,
    ImageTokenizer,
    MaskedPredictor,
    MLPPredictor,
    Predictor,
    SeriesTokenizer,
    VideoTokenizer,
)
from jepa.objectives import IJEPA, Draw, Losses
from jepa.trainer import create_trainer


def model(width: int = 16) -> JEPA:
    tokenizer = ImageTokenizer(8, 2)
    encoder = Encoder(width, depth=1, tokenizer=tokenizer)
    return JEPA(encoder, MaskedPredictor(width, tokenizer.grid, depth=1))


def hyper(variance: float = 0.0, covariance: float = 0.0) -> dict[str, Tensor]:
    return {"variance_weight": torch.tensor(variance), "covariance_weight": torch.tensor(covariance)}


def step(objective: IJEPA, images: Any, draw: Draw, weights: dict[str, Tensor]) -> Losses:
    return objective(objective.views(images, draw), weights)


def test_the_loss_equals_the_formula_block_by_block() -> None:
    net = model().double()
    for parameter in net.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    objective = IJEPA(net, num_targets=3)
    images = torch.rand(5, 1, 8, 8, dtype=torch.float64)
    views = objective.views(images, Draw(7, 3))
    context_mask, target_mask = views["context_mask"], views["target_mask"]
    losses = objective(views, {"variance_weight": torch.tensor(0.5), "covariance_weight": torch.tensor(0.25)})
    errors, embeddings = [], []
    with torch.no_grad():
        for sample in range(5):
            image, seen = images[sample : sample + 1], context_mask[sample : sample + 1]
            context = net.encoder(image, keep=seen)
            embeddings.append(context[0].mean(0))
            whole = net.target.encoder(image)[0]
            for block in range(3):
                asked = target_mask[sample, block]
                wanted = whole[asked]
                wanted = (wanted - wanted.mean(1, keepdim=True)) / (
                    wanted.var(1, correction=0, keepdim=True) + 1e-5
                ).sqrt()
                error = (net.predictor(context, seen, asked.unsqueeze(0))[0] - wanted).abs()
                errors.append(torch.where(error < 1, error**2 / 2, error - 0.5))
    prediction = torch.stack(errors).mean().item()
    matrix = torch.cov(torch.stack(embeddings).T)
    hinge = sum(max(0.0, 1 - math.sqrt(v + 1e-4)) for v in matrix.diagonal().tolist()) / 16
    redundancy = float((matrix**2).sum() - (matrix.diagonal() ** 2).sum()) / (16 * 15)
    terms = {"prediction": prediction, "variance": hinge, "covariance": redundancy}
    assert {name: value.item() for name, value in losses.terms.items()} == pytest.approx(terms, rel=1e-9)
    assert losses.loss.item() == pytest.approx(prediction + 0.5 * hinge + 0.25 * redundancy, rel=1e-9)
    torch.testing.assert_close(losses.embedding, torch.stack(embeddings))


def test_a_loss_by_hand() -> None:
    class Numbers(nn.Module):
        """An encoder whose embeddings are (0, its pixel), and a predictor that answers (0, 3)."""

        grid = (2,)
        hidden_dim = 2

        def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
            tokens = torch.stack([torch.zeros_like(x[:, 0]), x[:, 0]], dim=-1)
            return tokens if keep is None else tokens.gather(1, keep.unsqueeze(-1).expand(-1, -1, 2))

    class Three(nn.Module):
        def forward(self, context: Tensor, context_mask: Tensor, target_mask: Tensor) -> Tensor:
            return torch.tensor([0.0, 3.0]).expand(*target_mask.shape, 2)

    objective = IJEPA(JEPA(Numbers(), Three()), num_targets=2, target_scale=(0.5, 0.5))
    series = torch.tensor([[[4.0, 4.0]], [[-4.0, -4.0]]])
    losses = step(objective, series, Draw(0, 0), hyper(0.5, 0.25))
    # targets normalise to (-1, 1) and (1, -1), up to eps: errors (1, 2) and (1, 4), of which a half is quadratic
    assert losses.terms["prediction"].item() == pytest.approx((0.5 + 1.5 + 0.5 + 3.5) / 4, abs=1e-5)
    # embeddings (0, 4) and (0, -4): variances 0 and 32
    assert losses.terms["variance"].item() == pytest.approx((1 - 0.01) / 2)
    assert losses.terms["covariance"].item() == 0
    assert losses.loss.item() == pytest.approx(1.5 + 0.5 * 0.495, abs=1e-5)


@pytest.mark.parametrize("normalization", ["mean", "paper"])
def test_gradients_of_a_tiny_model_agree_with_differences(normalization: Any) -> None:
    tokenizer = SeriesTokenizer(4, 1)
    net = JEPA(Encoder(4, depth=1, tokenizer=tokenizer), MaskedPredictor(4, (4,), depth=1, predictor_dim=2)).double()
    objective = IJEPA(net, num_targets=2, normalization=normalization)
    for parameter in net.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    views = objective.views(torch.randn(3, 1, 4, dtype=torch.float64), Draw(0, 0))

    def loss(weight: Tensor, token: Tensor) -> Tensor:
        changed = {"model.encoder.embed.weight": weight, "model.predictor.mask_tokens": token}
        return torch.func.functional_call(objective, changed, (views, hyper(1.0, 1.0))).loss

    assert torch.autograd.gradcheck(loss, (net.encoder.embed.weight, net.predictor.mask_tokens))


def test_weights_are_zero_unless_set() -> None:
    objective = IJEPA(model())
    weights = {name: torch.tensor(spec.default) for name, spec in objective.hyper_parameters.items()}
    losses = step(objective, torch.rand(4, 1, 8, 8), Draw(0, 0), weights)
    assert losses.loss.item() == losses.terms["prediction"].item()


def test_masks_are_drawn_for_the_global_batch_and_sliced_by_rank() -> None:
    objective = IJEPA(model())
    images = torch.rand(6, 1, 8, 8)
    whole = objective.views(images, Draw(1, 2))
    for size in (2, 3):
        share = 6 // size
        parts = [
            objective.views(images[rank * share : (rank + 1) * share], Draw(1, 2, rank, size)) for rank in range(size)
        ]
        for name in whole:
            assert torch.equal(torch.cat([part[name] for part in parts]), whole[name]), name


def test_masks_are_a_function_of_the_draw() -> None:
    objective = IJEPA(model())
    images = torch.rand(6, 1, 8, 8)
    first = objective.views(images, Draw(1, 2))
    torch.rand(5)
    again, other = objective.views(images, Draw(1, 2)), objective.views(images, Draw(1, 3))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["target_mask"].shape != other["target_mask"].shape or not torch.equal(
        first["target_mask"], other["target_mask"]
    )


def test_images_are_taken_alone_or_with_anything_beside_them() -> None:
    objective = IJEPA(model())
    pixels = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    expected = objective.views(pixels.float() / 255, Draw(0, 0))
    for batch in (pixels, (pixels,), [pixels, torch.arange(3)], (pixels, "label", None)):
        views = objective.views(batch, Draw(0, 0))
        for name, view in expected.items():
            torch.testing.assert_close(views[name], view)


@pytest.mark.parametrize(
    ("batch", "described"),
    [
        (torch.zeros(4, 3), r"a tensor of shape \(4, 3\)"),
        ({"images": torch.zeros(4, 1, 8, 8)}, "a mapping with keys 'images'"),
        (("a", torch.zeros(4, 1, 8, 8)), r"a tuple of 2: a str, a tensor of shape \(4, 1, 8, 8\)"),
        ([], "a list of 0"),
    ],
)
def test_a_batch_of_another_layout_is_an_error_that_describes_it(batch: Any, described: str) -> None:
    with pytest.raises(TypeError, match=rf"'ijepa' takes batches images \(B, C, H, W\).*; got {described}"):
        IJEPA(model()).views(batch, Draw(0, 0))


def test_images_of_another_size_are_an_error_that_names_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"takes a batch of shape \(B, 1, 8, 8\), got \(4, 1, 6, 6\)"):
        step(IJEPA(model()), torch.zeros(4, 1, 6, 6), Draw(0, 0), hyper())


def test_series_are_masked_by_intervals() -> None:
    tokenizer = SeriesTokenizer(24, 2, channels=3)
    net = JEPA(Encoder(8, depth=1, tokenizer=tokenizer), MaskedPredictor(8, tokenizer.grid, depth=1))
    objective = IJEPA(net)
    losses = step(objective, torch.randn(4, 3, 24), Draw(0, 0), hyper(1.0, 1.0))
    losses.loss.backward()
    assert torch.isfinite(losses.loss)
    assert losses.embedding.shape == (4, 8)


def test_a_predictor_of_the_user_is_called_with_both_masks() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.positions = nn.Embedding(16, 16)
            self.linear = nn.Linear(16, 16)

        def forward(self, context: Tensor, context_mask: Tensor, target_mask: Tensor) -> Tensor:
            assert context.shape[:2] == context_mask.shape
            return self.linear(context.mean(1, keepdim=True) + self.positions(target_mask))

    net = JEPA(Encoder(16, depth=1, tokenizer=ImageTokenizer(8, 2)), Own())
    step(IJEPA(net), torch.rand(4, 1, 8, 8), Draw(0, 0), hyper()).loss.backward()
    assert all(parameter.grad is not None for parameter in net.predictor.parameters())


def test_the_paper_option_draws_the_published_masks() -> None:
    tokenizer = ImageTokenizer(28, 2)
    net = JEPA(Encoder(8, depth=1, tokenizer=tokenizer), MaskedPredictor(8, tokenizer.grid, depth=1))
    images = torch.rand(16, 1, 28, 28)
    reached = {}
    for official in (False, True):
        objective = IJEPA(net, official_masks=official)
        assert objective.config()["official_masks"] is official
        assert IJEPA(net, **objective.config()).masks.official is official
        masks = torch.cat([objective.views(images, Draw(0, batch))["context_mask"].flatten() for batch in range(20)])
        reached[official] = bool((masks // 14 == 13).any())
    assert reached == {False: True, True: False}, "the published masks never reach the last row"
    with pytest.raises(ValueError, match="the published code may draw a block of"):
        IJEPA(model(), official_masks=True)


def test_a_run_starts_from_the_schedule_of_the_paper() -> None:
    config = create_trainer(IJEPA(model()), run=False).config
    rates = (
        config.learning_rate * config.start_learning_rate_fraction,
        config.learning_rate,
        config.learning_rate * config.final_learning_rate_fraction,
    )
    assert rates == pytest.approx((2e-4, 1e-3, 1e-6))
    assert config.warmup_fraction == pytest.approx(40 / 300)
    assert (config.weight_decay, config.final_weight_decay) == (0.04, 0.4)
    assert (config.ema_momentum, config.final_ema_momentum) == (0.996, 1.0)
    assert config.betas == (0.9, 0.999)
    assert config.clip_grad_norm is None


def test_the_usual_model_around_an_encoder_trains() -> None:
    encoder = Encoder(16, depth=1, tokenizer=ImageTokenizer(8, 2))
    trainer = create_trainer(encoder, "ijepa", run=False)
    assert isinstance(trainer.objective, IJEPA)
    assert isinstance(trainer.objective.model.predictor, MaskedPredictor)
    trainer.train([torch.rand(4, 1, 8, 8)] * 2, num_epochs=1)
    assert trainer.step == 2


def test_models_without_a_grid_or_with_two_are_refused() -> None:
    with pytest.raises(ValueError, match=r"take an Encoder with a tokenizer, e.g. ImageTokenizer\(28, 4\)"):
        IJEPA(JEPA(Encoder(16, 4, depth=1), Predictor(16, depth=1)))
    with pytest.raises(ValueError, match="take an Encoder with a tokenizer"):
        IJEPA(JEPA(nn.Linear(4, 16), nn.Linear(16, 16)))
    encoder = Encoder(16, depth=1, tokenizer=ImageTokenizer(8, 2))
    for wrong in (Predictor(16, depth=1), MLPPredictor(16), ActionPredictor(16, 2)):
        message = rf"needs MaskedPredictor\(hidden_dim, grid=\(4, 4\)\), got an? {type(wrong).__name__}"
        with pytest.raises(ValueError, match=message):
            IJEPA(JEPA(encoder, wrong))
    with pytest.raises(ValueError, match="one kind of masks, and the predictor has 2 mask tokens; build MaskedPred"):
        IJEPA(JEPA(encoder, MaskedPredictor(16, (4, 4), num_mask_tokens=2)))
    with pytest.raises(ValueError, match="got no predictor"):
        IJEPA(JEPA(encoder))
    video = Encoder(16, depth=1, tokenizer=VideoTokenizer(4, 8, 2, channels=1))
    with pytest.raises(ValueError, match=r"got a token grid \(2, 4, 4\); use 'vjepa'"):
        IJEPA(JEPA(video, MaskedPredictor(16, (2, 4, 4), depth=1)))
    message = r"grid is \(4, 4\), the predictor's \(2, 8\); build MaskedPredictor\(hidden_dim, grid=\(4, 4\)\)"
    with pytest.raises(ValueError, match=message):
        IJEPA(JEPA(encoder, MaskedPredictor(16, (2, 8))))


def test_mask_options_are_checked_and_survive_a_config() -> None:
    with pytest.raises(ValueError, match="target_scale must satisfy"):
        IJEPA(model(), target_scale=(0.5, 0.1))
    with pytest.raises(ValueError, match=r"num_targets must be a whole number, got 2\.5"):
        IJEPA(model(), num_targets=2.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"'ijepa' has no num_target; .* did you mean 'num_targets'"):
        IJEPA(model(), num_target=3)
    options: dict[str, Any] = {
        "num_targets": 2,
        "target_scale": (0.1, 0.3),
        "aspect_ratio": (0.5, 2.0),
        "context_scale": (0.7, 0.9),
        "min_keep": 3,
        "normalization": "paper",
        "variance_weight": 2.0,
    }
    objective = IJEPA(model(), **options)
    rebuilt = IJEPA(model(), **objective.config())
    assert rebuilt.config() == objective.config()
    images = torch.rand(4, 1, 8, 8)
    one, other = objective.views(images, Draw(0, 0)), rebuilt.views(images, Draw(0, 0))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert one["target_mask"].shape[1] == 2


def test_a_last_batch_of_one_image_trains_on_the_prediction_alone() -> None:
    losses = step(IJEPA(model()), torch.rand(1, 1, 8, 8), Draw(0, 0), hyper(1.0, 1.0))
    assert losses.loss.item() == pytest.approx(losses.terms["prediction"].item())
    assert losses.terms["variance"] == losses.terms["covariance"] == 0
