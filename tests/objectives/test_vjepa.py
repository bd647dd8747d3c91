"""V-JEPA: the loss against the formula, groups of masks that belong to the global batch, and which models fit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jepa.config.schema import TrainerConfig
from jepa.models import (
    JEPA,
    ActionPredictor,
    Encoder,
    ImageTokenizer,
    MaskedPredictor,
    MLPPredictor,
    Predictor,
    VideoTokenizer,
)
from jepa.objectives import VJEPA, Draw, Losses, as_objective
from jepa.objectives.vjepa import V_JEPA_2, moving_digits
from jepa.trainer import create_trainer

GRID = (2, 4, 4)


def model(width: int = 16, groups: int = 2) -> JEPA:
    encoder = Encoder(width, depth=1, tokenizer=VideoTokenizer(4, 8, 2, channels=1))
    return JEPA(encoder, MaskedPredictor(width, GRID, depth=1, num_mask_tokens=groups))


def hyper(variance: float = 0.0, covariance: float = 0.0) -> dict[str, Tensor]:
    return {"variance_weight": torch.tensor(variance), "covariance_weight": torch.tensor(covariance)}


def step(objective: VJEPA, videos: Any, draw: Draw, weights: dict[str, Tensor]) -> Losses:
    return objective(objective.views(videos, draw), weights)


@pytest.mark.parametrize("power", [1.0, 2.0, 1.5])
def test_the_loss_equals_the_formula_group_by_group_and_sample_by_sample(power: float) -> None:
    net = model().double()
    for parameter in net.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    objective = VJEPA(net, loss_power=power)
    videos = torch.rand(5, 1, 4, 8, 8, dtype=torch.float64)
    views = objective.views(videos, Draw(7, 3))
    losses = objective(views, {"variance_weight": torch.tensor(0.5), "covariance_weight": torch.tensor(0.25)})
    groups, embeddings = [], []
    with torch.no_grad():
        for group in range(2):
            errors, means = [], []
            for sample in range(5):
                video, seen = videos[sample : sample + 1], views[f"context_mask_{group}"][sample]
                asked = views[f"target_mask_{group}"][sample]
                context = net.encoder(video, keep=seen.unsqueeze(0))
                means.append(context[0].mean(0))
                guess = net.predictor(context, seen.unsqueeze(0), asked.unsqueeze(0), group=group)[0]
                for token, prediction in zip(asked.tolist(), guess, strict=True):
                    wanted = net.target.encoder(video)[0, token].tolist()
                    mean = sum(wanted) / 16
                    deviation = math.sqrt(sum((value - mean) ** 2 for value in wanted) / 16 + 1e-5)
                    pairs = zip(prediction.tolist(), wanted, strict=True)
                    errors += [abs(z - (h - mean) / deviation) ** power / power for z, h in pairs]
            groups.append(sum(errors) / len(errors))
            embeddings.append(torch.stack(means))
    embedding = (embeddings[0] + embeddings[1]) / 2
    matrix = torch.cov(embedding.T)
    hinge = sum(max(0.0, 1 - math.sqrt(v + 1e-4)) for v in matrix.diagonal().tolist()) / 16
    redundancy = float((matrix**2).sum() - (matrix.diagonal() ** 2).sum()) / (16 * 15)
    terms = {"prediction": sum(groups) / 2, "variance": hinge, "covariance": redundancy}
    assert {name: value.item() for name, value in losses.terms.items()} == pytest.approx(terms, rel=1e-9)
    assert losses.loss.item() == pytest.approx(terms["prediction"] + 0.5 * hinge + 0.25 * redundancy, rel=1e-9)
    torch.testing.assert_close(losses.embedding, embedding)


class Brightness(nn.Module):
    """An encoder whose embeddings are (0, brightness of the frame); it counts its calls."""

    grid = (2, 1, 2)
    hidden_dim = 2

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.calls: list[tuple[int, bool]] = []

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        tokens = x.flatten(1) * self.scale
        self.calls.append((0 if keep is None else keep.shape[1], torch.is_grad_enabled()))
        tokens = torch.stack([torch.zeros_like(tokens), tokens], dim=-1)
        return tokens if keep is None else tokens.gather(1, keep.unsqueeze(-1).expand(-1, -1, 2))


class Answer(nn.Module):
    """A predictor that answers (0, 3) for the first group and (0, 1) for the second."""

    def forward(self, context: Tensor, context_mask: Tensor, target_mask: Tensor, group: int) -> Tensor:
        return torch.tensor([0.0, (3.0, 1.0)[group]]).expand(*target_mask.shape, 2) + 0 * context.sum()


@pytest.mark.parametrize(("power", "expected"), [(1.0, (1.5 + 0.5) / 2), (2.0, (2.5 + 0.5) / 2 / 2)])
def test_a_loss_by_hand(power: float, expected: float) -> None:
    # every target normalises to (-1, 1), up to eps: errors (1, 2) in the first group and (1, 0) in the second
    objective = VJEPA(JEPA(Brightness(), Answer()), mask_groups=((1, 0.5), (2, 0.5)), loss_power=power)
    losses = step(objective, torch.full((3, 1, 2, 1, 2), 5.0), Draw(0, 0), hyper())
    assert losses.loss.item() == pytest.approx(expected, abs=1e-5)
    assert losses.embedding.tolist() == [[0, 5]] * 3


def test_the_target_encoder_sees_a_batch_once_and_without_a_graph() -> None:
    encoder = Brightness()
    net = JEPA(encoder, Answer())
    objective = VJEPA(net, mask_groups=((1, 0.5), (2, 0.5)))
    losses = step(objective, torch.rand(3, 1, 2, 1, 2), Draw(0, 0), hyper())
    target = net.target.encoder
    assert isinstance(target, Brightness)
    assert target.calls == [(0, False)]
    assert encoder.calls == [(2, True), (1, True)], "once for each group, on what one block and two blocks leave"
    losses.loss.backward()
    assert target.scale.grad is None
    assert encoder.scale.grad is not None


def test_gradients_of_a_tiny_model_agree_with_differences() -> None:
    encoder = Encoder(4, depth=1, tokenizer=VideoTokenizer(2, 2, 1, tubelet_size=1, channels=1))
    net = JEPA(encoder, MaskedPredictor(4, (2, 2, 2), depth=1, predictor_dim=2, num_mask_tokens=2)).double()
    for parameter in net.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    objective = VJEPA(net, mask_groups=((2, 0.25), (1, 0.5)))
    views = objective.views(torch.randn(3, 1, 2, 2, 2, dtype=torch.float64), Draw(0, 0))

    def loss(weight: Tensor, tokens: Tensor) -> Tensor:
        changed = {"model.encoder.embed.weight": weight, "model.predictor.mask_tokens": tokens}
        return torch.func.functional_call(objective, changed, (views, hyper(1.0, 1.0))).loss

    assert torch.autograd.gradcheck(loss, (encoder.embed.weight, net.predictor.mask_tokens))


def test_masks_are_drawn_for_the_global_batch_and_sliced_by_rank() -> None:
    objective = VJEPA(model())
    videos = torch.rand(6, 1, 4, 8, 8)
    whole = objective.views(videos, Draw(1, 2))
    assert set(whole) == {"videos", "context_mask_0", "target_mask_0", "context_mask_1", "target_mask_1"}
    for size in (2, 3):
        share = 6 // size
        parts = [
            objective.views(videos[rank * share : (rank + 1) * share], Draw(1, 2, rank, size)) for rank in range(size)
        ]
        for name in whole:
            assert torch.equal(torch.cat([part[name] for part in parts]), whole[name]), name
    assert not torch.equal(objective.views(videos, Draw(1, 3))["target_mask_0"], whole["target_mask_0"])


def test_videos_are_taken_alone_or_with_anything_beside_them() -> None:
    objective = VJEPA(model())
    pixels = torch.randint(0, 256, (3, 1, 4, 8, 8), dtype=torch.uint8)
    expected = objective.views(pixels.float() / 255, Draw(0, 0))
    for batch in (pixels, (pixels,), [pixels, torch.arange(3)], (pixels, "label", None)):
        views = objective.views(batch, Draw(0, 0))
        for name, view in expected.items():
            torch.testing.assert_close(views[name], view)


@pytest.mark.parametrize(
    ("batch", "described"),
    [
        (torch.zeros(4, 1, 8, 8), r"a tensor of shape \(4, 1, 8, 8\)"),
        ({"videos": torch.zeros(4, 1, 4, 8, 8)}, "a mapping with keys 'videos'"),
        (("a", torch.zeros(4, 1, 4, 8, 8)), r"a tuple of 2: a str, a tensor of shape \(4, 1, 4, 8, 8\)"),
        ([], "a list of 0"),
    ],
)
def test_a_batch_of_another_layout_is_an_error_that_describes_it(batch: Any, described: str) -> None:
    with pytest.raises(TypeError, match=rf"'vjepa' takes batches videos \(B, C, T, H, W\).*; got {described}"):
        VJEPA(model()).views(batch, Draw(0, 0))


@pytest.mark.parametrize("shape", [(4, 1, 2, 8, 8), (4, 1, 4, 16, 8), (4, 4, 1, 8, 8), (4, 1, 1, 8, 8)])
def test_videos_of_another_size_are_an_error_that_names_both_shapes(shape: tuple[int, ...]) -> None:
    got = ", ".join(map(str, shape))
    with pytest.raises(ValueError, match=rf"takes a batch of shape \(B, 1, 4, 8, 8\).*, got \({got}\)"):
        step(VJEPA(model()), torch.zeros(shape), Draw(0, 0), hyper())


def test_models_that_do_not_fit_are_refused() -> None:
    image = Encoder(16, depth=1, tokenizer=ImageTokenizer(8, 2))
    with pytest.raises(ValueError, match=r"\(time, rows, columns\), got \(4, 4\); give the encoder a VideoTokenizer"):
        VJEPA(JEPA(image, MaskedPredictor(16, (4, 4), depth=1)))
    with pytest.raises(ValueError, match="masks need a grid of tokens"):
        VJEPA(JEPA(nn.Linear(4, 16), nn.Linear(16, 16)))
    encoder = model().encoder
    needed = r"MaskedPredictor\(hidden_dim, grid=\(2, 4, 4\), num_mask_tokens=2\)"
    for wrong in (Predictor(16, depth=1), MLPPredictor(16), ActionPredictor(16, 2)):
        with pytest.raises(ValueError, match=rf"needs {needed}, got an? {type(wrong).__name__}"):
            VJEPA(JEPA(encoder, wrong))
    with pytest.raises(ValueError, match=rf"needs {needed}, got no predictor"):
        VJEPA(JEPA(encoder))
    with pytest.raises(ValueError, match=rf"2 groups of masks, and the predictor has 1 mask tokens.*; build {needed}"):
        VJEPA(model(groups=1))
    with pytest.raises(ValueError, match=r"grid is \(2, 4, 4\), the predictor's \(4, 4, 2\)"):
        VJEPA(JEPA(encoder, MaskedPredictor(16, (4, 4, 2), depth=1, num_mask_tokens=2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_power": 0.5}, "loss_power must be at least 1.*, got 0.5"),
        ({"loss_power": math.nan}, "loss_power must be at least 1.*, got nan"),
        ({"mask_groups": ()}, r"must hold pairs \(blocks, spatial scale\), such as \(8, 0.15\), got \(\)"),
        ({"mask_groups": (8, 0.15)}, r"must hold pairs .*, got \(8, 0.15\)"),
        ({"mask_groups": ((2.5, 0.15),)}, r"must hold pairs .*, got \(\(2.5, 0.15\),\)"),
        ({"mask_groups": ((8, 0.15), (2, 1.5))}, r"spatial_scale must satisfy .*, got \(1.5, 1.5\)"),
        ({"mask_groups": ((0, 0.15), (2, 0.7))}, "num_blocks must be at least 1, got 0"),
        ({"temporal_scale": (0.9, 0.2)}, "temporal_scale must satisfy"),
        ({"mask_groups": ((8, 0.15), (2, 1.0)), "aspect_ratio": (1, 1)}, "a block may cover 32 of the 32 tokens"),
        ({"normalization": "other"}, "normalization must be one of"),
    ],
)
def test_wrong_options_are_errors_that_name_the_value(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VJEPA(model(), **options)


def test_mask_options_survive_a_config() -> None:
    options: dict[str, Any] = {
        "mask_groups": [[3, 0.2], [1, 0.5], [2, 0.3]],
        "temporal_scale": (0.5, 0.5),
        "aspect_ratio": (0.5, 2.0),
        "min_keep": 3,
        "loss_power": 2.0,
        "official_masks": True,
        "normalization": "paper",
        "variance_weight": 2.0,
    }
    objective = VJEPA(model(groups=3), **options)
    rebuilt = VJEPA(model(groups=3), **objective.config())
    assert rebuilt.config() == objective.config()
    assert [sampler.official for sampler in rebuilt.masks] == [True] * 3
    videos = torch.rand(4, 1, 4, 8, 8)
    one, other = objective.views(videos, Draw(0, 0)), rebuilt.views(videos, Draw(0, 0))
    assert all(torch.equal(one[name], other[name]) for name in one)
    frames = one["target_mask_1"] // 16
    assert (frames == frames[:, :1]).all(), "one block that lasts half a clip of two"


def test_half_precision_gives_a_loss_in_full_precision() -> None:
    objective = VJEPA(model())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = step(objective, torch.rand(4, 1, 4, 8, 8), Draw(0, 0), hyper(1.0, 1.0))
    assert losses.loss.dtype == losses.embedding.dtype == torch.float32
    full = step(objective, torch.rand(4, 1, 4, 8, 8), Draw(0, 0), hyper(1.0, 1.0))
    assert losses.loss.item() == pytest.approx(full.loss.item(), rel=0.1)


def test_a_run_starts_from_the_schedule_of_the_paper() -> None:
    config = create_trainer(VJEPA(model()), run=False).config
    rates = (
        config.learning_rate * config.start_learning_rate_fraction,
        config.learning_rate,
        config.learning_rate * config.final_learning_rate_fraction,
    )
    assert rates == pytest.approx((2e-4, 6.25e-4, 1e-6))
    assert (config.weight_decay, config.final_weight_decay) == (0.04, 0.4)
    assert (config.ema_momentum, config.final_ema_momentum) == (0.998, 1.0)
    assert config.clip_grad_norm == 10


def test_the_schedule_of_the_second_version_keeps_rate_decay_and_momentum() -> None:
    config = TrainerConfig(**VJEPA.paper).updated(V_JEPA_2)
    assert config.learning_rate * config.start_learning_rate_fraction == pytest.approx(1e-4)
    assert (config.learning_rate, config.final_learning_rate_fraction) == (5.25e-4, 1.0)
    assert (config.weight_decay, config.final_weight_decay) == (0.04, None)
    assert config.ema_momentum == config.final_ema_momentum == 0.99925


def test_the_usual_model_around_an_encoder_trains() -> None:
    trainer = create_trainer(model().encoder, "vjepa", run=False)
    assert isinstance(trainer.objective, VJEPA)
    trainer.train([torch.rand(4, 1, 4, 8, 8)] * 2, num_epochs=1)
    assert trainer.step == 2


def test_the_digits_of_the_example_move_straight_and_bounce() -> None:
    videos, labels = moving_digits(frames=6).tensors
    assert videos.shape == (len(labels), 1, 6, 12, 12)
    weight = videos[:, 0].double() + 1e-12
    axis = torch.arange(12, dtype=torch.float64)
    rows = (weight.sum(3) * axis).sum(2) / weight.sum((2, 3))
    steps = rows.diff(dim=1).abs()
    assert (videos.sum((3, 4)) == videos[:, :, :1].sum((3, 4))).all(), "a digit stays whole"
    assert steps.max().item() == pytest.approx(2, abs=1e-6)
    straight = (rows.diff(n=2, dim=1).abs() < 1e-6).all(1).double().mean()
    assert 0.2 < straight < 0.9


def test_an_encoder_gets_a_mask_token_for_each_group_asked_for() -> None:
    encoder = Encoder(24, depth=1, tokenizer=VideoTokenizer(4, 16, 4, channels=1))
    objective = as_objective(encoder, "vjepa", {"mask_groups": ((2, 0.2),)})
    assert objective.model.predictor.num_mask_tokens == 1
