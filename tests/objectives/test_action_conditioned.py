"""Action conditioned: the loss against the formula, what rollouts see, and which batches and models fit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from jepa.models import (
    JEPA,
    ActionPredictor,
    Encoder,
    ImageTokenizer,
    MaskedPredictor,
    MLPEncoder,
    MLPPredictor,
    Predictor,
)
from jepa.objectives import ActionConditioned, Draw, Losses
from jepa.objectives.action_conditioned import windows
from jepa.trainer import create_trainer

DRAW = Draw(seed=0, batch=0)


class LinearPredictor(nn.Module):
    """The next embedding is `z A + a C`, frame by frame."""

    def __init__(self, width: int, action_dim: int) -> None:
        super().__init__()
        self.state = nn.Parameter(torch.randn(width, width))
        self.action = nn.Parameter(torch.randn(action_dim, width))

    def forward(self, context: Tensor, actions: Tensor) -> Tensor:
        return context @ self.state + actions @ self.action


def hyper(**weights: float) -> dict[str, Tensor]:
    usual = dict.fromkeys(ActionConditioned.hyper_parameters, 0.0)
    names = {f"{name}_weight": weight for name, weight in weights.items()}
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in {**usual, **names}.items()}


def linear_objective(target: Any = "shared", **options: Any) -> ActionConditioned:
    encoder = nn.Linear(3, 4, bias=False)
    encoder.hidden_dim = 4  # type: ignore[assignment]
    model = JEPA(encoder, LinearPredictor(4, 2), target=target)
    return ActionConditioned(model, **{"action_dim": 2, "num_slices": 8, **options}).double()


def batch(frames: int = 6, samples: int = 5) -> tuple[Tensor, Tensor]:
    return torch.randn(samples, frames, 3).double(), torch.randn(samples, frames - 1, 2).double()


def step(objective: ActionConditioned, of: Any, weights: dict[str, Tensor], draw: Draw = DRAW) -> Losses:
    return objective(objective.views(of, draw), weights)


def reference(objective: ActionConditioned, observations: Tensor, actions: Tensor, power: Any) -> tuple[Tensor, Tensor]:
    """Teacher-forced and rollout loss by loops over samples, windows and steps, with the linear maps spelled out."""
    encoder, predictor = objective.model.encoder, objective.model.predictor
    assert isinstance(encoder, nn.Linear)
    assert isinstance(predictor, LinearPredictor)
    embedding = observations @ encoder.weight.T
    target = embedding.detach() if objective.model.target.kind == "stop_gradient" else embedding
    history, steps = objective.history, objective.rollout_steps
    forced, rolled = [], []
    for sample in range(len(observations)):
        for first in range(observations.shape[1] - history - steps + 1):
            for frame in range(first, first + history):
                guess = embedding[sample, frame] @ predictor.state + actions[sample, frame] @ predictor.action
                forced.append(power(guess - target[sample, frame + 1]).mean())
            now = embedding[sample, first + history - 1]
            for frame in range(first + history - 1, first + history - 1 + steps):
                now = now @ predictor.state + actions[sample, frame] @ predictor.action
                rolled.append(power(now - target[sample, frame + 1]).mean())
    return torch.stack(forced).mean(), torch.stack(rolled).mean()


POWERS = {
    "mse": torch.square,
    "l1": torch.abs,
    "smooth_l1": lambda e: torch.where(e.abs() < 1, e.square() / 2, e.abs() - 0.5),
}


@pytest.mark.parametrize("target", ["shared", "stop_gradient"])
@pytest.mark.parametrize(
    ("distance", "history", "rollout_steps"), [("mse", 3, 2), ("l1", 1, 2), ("smooth_l1", 2, 4), ("mse", 2, 1)]
)
def test_the_loss_and_its_gradients_equal_the_formula(
    distance: str, history: int, rollout_steps: int, target: str
) -> None:
    objective = linear_objective(target, distance=distance, history=history, rollout_steps=rollout_steps)
    observations, actions = batch()
    losses = step(objective, (observations, actions), hyper(rollout=0.7))
    forced, rolled = reference(objective, observations, actions, POWERS[distance])
    assert losses.terms["prediction"].item() == pytest.approx(forced.item(), rel=1e-12)
    assert losses.terms["rollout"].item() == pytest.approx(rolled.item(), rel=1e-12)
    parameters = [*objective.model.parameters()]
    own = torch.autograd.grad(losses.loss, parameters)
    for gradient, wanted in zip(own, torch.autograd.grad(forced + 0.7 * rolled, parameters), strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-12)


def test_the_loss_of_a_trajectory_computed_by_hand() -> None:
    class Double(nn.Module):
        def forward(self, context: Tensor, actions: Tensor) -> Tensor:
            return 2 * context + actions

    encoder = nn.Identity()
    encoder.hidden_dim = 1  # type: ignore[assignment]
    objective = ActionConditioned(JEPA(encoder, Double(), target="shared"), action_dim=1, history=1, rollout_steps=2)
    observations, actions = torch.tensor([[[1.0], [4.0], [6.0]]]), torch.tensor([[[1.0], [-1.0]]])
    losses = step(objective, (observations, actions), hyper(rollout=10.0))
    # 2 * 1 + 1 = 3 for 4; then 2 * 3 - 1 = 5 for 6
    assert losses.terms["prediction"].item() == 1.0
    assert losses.terms["rollout"].item() == 1.0
    assert losses.loss.item() == 11.0
    losses = step(objective, (observations, actions + 1), hyper(rollout=10.0))
    # 2 * 1 + 2 = 4 for 4; then 2 * 4 + 0 = 8 for 6
    assert (losses.terms["prediction"].item(), losses.terms["rollout"].item()) == (0.0, 2.0)


def test_the_other_terms_equal_their_formulas_and_the_loss_is_their_sum() -> None:
    objective = linear_objective(normalization="paper")
    observations, actions = batch()
    views = objective.views((observations, actions), DRAW)
    weights = hyper(rollout=0.5, sigreg=0.25, variance=2.0, covariance=3.0, inverse=4.0)
    losses = objective(views, weights)
    embedding = (observations @ objective.model.encoder.weight.T).detach()  # type: ignore[operator]
    matrix = torch.cov(embedding.flatten(0, 1).T)
    terms = {name: term.item() for name, term in losses.terms.items()}
    hinge = sum(max(0.0, 1 - math.sqrt(v + 1e-4)) for v in matrix.diagonal().tolist()) / 4
    assert terms["variance"] == pytest.approx(hinge)
    assert terms["covariance"] == pytest.approx(float(matrix.square().sum() - matrix.diagonal().square().sum()) / 12)
    statistic = 0.0
    t = torch.linspace(0, 3, 17, dtype=torch.float64)
    bell = torch.exp(-(t**2) / 2)
    assert views["directions"].shape == (4, 8)
    for frame in range(6):
        for direction in views["directions"].double().T:
            angle = t * (embedding[:, frame] @ direction).unsqueeze(1)
            error = (angle.cos().mean(0) - bell) ** 2 + angle.sin().mean(0) ** 2
            statistic += 2 * 5 * float(torch.trapezoid(error * bell, t)) / (6 * 8)
    assert terms["sigreg"] == pytest.approx(statistic)
    pairs = torch.cat([embedding[:, :-1], embedding[:, 1:]], dim=-1)
    assert terms["inverse"] == pytest.approx((objective.inverse(pairs) - actions).square().mean().item())
    total = terms["prediction"] + sum(float(weights[f"{name}_weight"]) * terms[name] for name in list(terms)[1:])
    assert losses.loss.item() == pytest.approx(total)
    torch.testing.assert_close(losses.embedding, embedding[:, 0])


def test_a_moving_average_gives_the_targets_without_a_gradient() -> None:
    objective = linear_objective("ema")
    observations, actions = batch()
    average = objective.model.target.encoder
    assert isinstance(average, nn.Linear)
    average.weight.data += 1
    losses = step(objective, (observations, actions), hyper())
    losses.loss.backward()
    assert average.weight.grad is None
    embedding = observations @ objective.model.encoder.weight.T  # type: ignore[operator]
    wanted = observations @ average.weight.T
    guess = objective.model.predictor(embedding[:, :-1], actions)  # type: ignore[misc]
    errors = [(guess - wanted[:, 1:])[:, first : first + 3].square().mean() for first in (0, 1)]
    assert losses.terms["prediction"].item() == pytest.approx(torch.stack(errors).mean().item())


def transformer(**options: Any) -> ActionConditioned:
    predictor = ActionPredictor(8, 2, history=3, depth=1, num_heads=2)
    for parameter in predictor.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return ActionConditioned(
        JEPA(MLPEncoder(3, 8), predictor, target="shared"), **{"num_slices": 4, **options}
    ).double()


def test_one_step_of_rollout_is_the_last_of_the_teacher_forced_predictions() -> None:
    objective = transformer(rollout_steps=1)
    observations, actions = batch(frames=4)
    losses = step(objective, (observations, actions), hyper())
    embedding = objective.model.encoder(observations)
    assert objective.model.predictor is not None
    error = (objective.model.predictor(embedding[:, :3], actions) - embedding[:, 1:]).square()
    assert losses.terms["prediction"].item() == pytest.approx(error.mean().item())
    assert losses.terms["rollout"].item() == pytest.approx(error[:, -1].mean().item())


def test_a_rollout_equals_the_predictor_rolled_out_by_itself() -> None:
    objective = transformer(rollout_steps=3)
    observations, actions = batch(frames=6)
    losses = step(objective, (observations, actions), hyper())
    embedding = objective.model.encoder(observations)
    predicted = objective.model.predictor.rollout(embedding[:, :3], actions)  # type: ignore[union-attr, operator]
    expected = (predicted - embedding[:, 3:]).square().mean()
    assert losses.terms["rollout"].item() == pytest.approx(expected.item())


def test_windows_are_all_runs_of_neighbours() -> None:
    x = torch.arange(10).view(2, 5)
    assert windows(x, 3).tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [5, 6, 7], [6, 7, 8], [7, 8, 9]]
    assert windows(torch.zeros(2, 5, 7, 4), 5).shape == (2, 5, 7, 4)


@pytest.mark.parametrize("kind", ["shared", "ema"])
def test_images_are_encoded_frame_by_frame_into_tokens(kind: Any) -> None:
    tokenizer = ImageTokenizer(8, 4)
    encoder = Encoder(8, depth=1, tokenizer=tokenizer)
    predictor = ActionPredictor(8, 2, grid=tokenizer.grid, depth=1)
    objective = ActionConditioned(JEPA(encoder, predictor, target=kind), num_slices=4)
    pixels = torch.randint(0, 256, (3, 5, 1, 8, 8), dtype=torch.uint8)
    weights = {name: value.float() for name, value in hyper(rollout=1.0, sigreg=1.0, inverse=1.0).items()}
    losses = step(objective, {"observations": pixels, "actions": torch.randn(3, 4, 2)}, weights)
    losses.loss.backward()
    torch.testing.assert_close(losses.embedding, encoder(pixels[:, 0].float() / 255).mean(1))
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_every_parameter_has_a_gradient_even_at_weight_zero() -> None:
    objective = transformer()
    step(objective, batch(), hyper()).loss.backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())
    assert not any(parameter.grad.any() for parameter in objective.inverse.parameters())  # type: ignore[union-attr]


def test_a_frozen_encoder_leaves_the_predictor_to_train() -> None:
    objective = linear_objective("stop_gradient", distance="l1", sigreg_weight=0.0)
    objective.model.encoder.requires_grad_(False)
    step(objective, batch(), hyper(rollout=1.0)).loss.backward()
    assert objective.model.encoder.weight.grad is None
    assert objective.model.predictor is not None
    assert all(parameter.grad.any() for parameter in objective.model.predictor.parameters())  # type: ignore[union-attr]


def test_half_precision_outputs_are_compared_in_float32() -> None:
    objective = transformer().bfloat16()
    observations, actions = (part.bfloat16() for part in batch())
    weights = {name: value.float() for name, value in hyper(rollout=1.0, sigreg=1.0, inverse=1.0).items()}
    losses = step(objective, (observations, actions), weights)
    assert losses.loss.dtype == losses.embedding.dtype == torch.float32
    assert torch.isfinite(losses.loss)


def test_directions_are_those_of_the_draw_and_of_no_rank() -> None:
    objective = linear_objective()
    of = batch()
    one = objective.views(of, Draw(1, 2))["directions"]
    assert torch.equal(one, objective.views(of, Draw(1, 2, rank=1, world_size=2))["directions"])
    assert not torch.equal(one, objective.views(of, Draw(1, 3))["directions"])


def test_a_mapping_and_a_tuple_are_the_same_batch() -> None:
    objective = linear_objective()
    observations, actions = batch(samples=3)
    mapping = {"observations": observations, "actions": actions}
    assert objective.samples(mapping) == objective.samples([observations, actions]) == 3
    one, other = objective.views(mapping, DRAW), objective.views([observations, actions], DRAW)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("of", "described"),
    [
        (torch.zeros(4, 6, 3), r"a tensor of shape \(4, 6, 3\)"),
        ((torch.zeros(4, 6), torch.zeros(4, 5, 2)), r"a tuple of 2: a tensor of shape \(4, 6\), a tensor"),
        ((torch.zeros(4, 6, 3), torch.zeros(4, 5)), r"a tuple of 2: .* a tensor of shape \(4, 5\)"),
        ((torch.zeros(4, 6, 3), torch.zeros(4, 5, 2, dtype=torch.int64)), "a tuple of 2"),
        ({"observations": torch.zeros(4, 6, 3)}, "a mapping with keys 'observations'"),
        ((torch.zeros(4, 6, 3),), "a tuple of 1"),
    ],
)
def test_a_batch_of_another_layout_is_an_error_that_describes_it(of: Any, described: str) -> None:
    with pytest.raises(TypeError, match=rf"'action_conditioned' takes batches \(observations .*; got {described}"):
        linear_objective().views(of, DRAW)


def test_trajectories_that_do_not_fit_are_errors_that_name_the_numbers() -> None:
    objective = linear_objective()
    with pytest.raises(ValueError, match=r"of 4 frames is shorter than history=3 \+ rollout_steps=2 = 5; use longer"):
        objective.views(batch(frames=4), DRAW)
    observations, actions = batch()
    for wrong in (actions[:, :4], torch.cat([actions, actions], 1), actions[..., :1], actions[:3]):
        message = rf"5 trajectories of 6 frames take actions of shape \(5, 5, 2\): .*; got \({len(wrong)}, "
        with pytest.raises(ValueError, match=message):
            objective.views((observations, wrong), DRAW)


def test_numbers_that_are_not_finite_are_an_error_in_the_first_batch() -> None:
    observations, actions = batch()
    actions[1, 2] = math.nan
    with pytest.raises(ValueError, match="actions of the first batch hold 2 numbers of 50 not finite"):
        linear_objective().views((observations, actions), DRAW)
    objective = linear_objective()
    observations[0, 0, 0] = math.inf
    with pytest.raises(ValueError, match="observations of the first batch hold 1 numbers of 90 not finite"):
        objective.views((observations, actions.nan_to_num()), DRAW)
    objective.views(batch(), DRAW)
    assert objective.views((observations, actions), DRAW), "later batches are not waited for"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distance": "cosine"}, "distance must be one of 'mse', 'l1', 'smooth_l1', got 'cosine'"),
        ({"rollout_steps": 0}, "rollout_steps must be at least 1, got 0"),
        ({"rollout_steps": 1.5}, "rollout_steps must be a whole number, got 1.5"),
        ({"history": 0}, "history must be at least 1, got 0"),
        ({"history": 4}, r"history=4 is longer than the predictor's 3; build ActionPredictor\(..., history=4\)"),
        ({"num_slices": 0}, "num_slices must be at least 1, got 0"),
        ({"action_dim": 3}, "action_dim=3 contradicts the predictor, whose actions have 2 numbers"),
        ({"normalization": "none"}, "normalization must be one of 'unit', 'paper', got 'none'"),
        ({"rollout_weight": -1.0}, r"rollout_weight must lie in \[0, 1000\], got -1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transformer(**options)


def test_models_that_lack_something_are_refused_with_what_to_build() -> None:
    with pytest.raises(ValueError, match=r"build JEPA\(encoder, ActionPredictor\(8, action_dim\), target='shared'\)"):
        ActionConditioned.model_for(MLPEncoder(3, 8))
    with pytest.raises(ValueError, match=r"needs a predictor: JEPA\(encoder, ActionPredictor"):
        ActionConditioned(JEPA(MLPEncoder(3, 8), target="shared"))
    for wrong in (Predictor(8, depth=1), MaskedPredictor(8, (2,)), MLPPredictor(8)):
        message = rf"needs ActionPredictor\(hidden_dim, action_dim\), got an? {type(wrong).__name__}"
        with pytest.raises(ValueError, match=message):
            ActionConditioned(JEPA(MLPEncoder(3, 8), wrong, target="shared"), action_dim=2)
    with pytest.raises(ValueError, match="LinearPredictor does not say how many numbers an action has"):
        ActionConditioned(JEPA(MLPEncoder(3, 4), LinearPredictor(4, 2), target="shared"))
    with pytest.raises(ValueError, match="Linear does not say how wide its embeddings are"):
        ActionConditioned(JEPA(nn.Linear(3, 4), nn.Linear(4, 4), target="shared"), action_dim=2)


def test_a_predictor_that_does_not_answer_every_frame_is_an_error() -> None:
    class Last(LinearPredictor):
        def forward(self, context: Tensor, actions: Tensor) -> Tensor:
            return super().forward(context, actions)[:, -1]

    objective = ActionConditioned(JEPA(MLPEncoder(3, 4), Last(4, 2), target="shared"), action_dim=2, num_slices=4)
    with pytest.raises(
        ValueError, match=r"returned \(10, 4\) for a context \(10, 3, 4\); it must return one prediction"
    ):
        step(objective.double(), batch(), hyper())


def test_the_weight_of_the_paper_goes_with_its_normalization() -> None:
    assert transformer().config()["sigreg_weight"] == 5
    assert transformer(normalization="paper").config()["sigreg_weight"] == 0.09
    assert transformer(normalization="paper", sigreg_weight=2).config()["sigreg_weight"] == 2


def test_options_survive_a_config() -> None:
    objective = transformer(distance="l1", rollout_steps=3, history=2, inverse_weight=0.5, normalization="paper")
    config = objective.config()
    assert config["inverse_weight"] == 0.5
    assert ActionConditioned(objective.model, **config).config() == config


@pytest.mark.slow
def test_what_it_learns_foresees_several_steps_by_the_actions_taken() -> None:
    objective, data = ActionConditioned.example()
    observations, actions = data[:]
    create_trainer(objective, run=False, learning_rate=3e-3).train(
        DataLoader(TensorDataset(observations[:384], actions[:384]), batch_size=64, shuffle=True), max_steps=200
    )
    model = objective.model
    predictor = model.predictor
    assert isinstance(predictor, ActionPredictor)
    with torch.no_grad():
        embedding = model.encoder(observations[384:].flatten(0, 1)).unflatten(0, (128, 5))

        def error(taken: Tensor) -> float:
            return float((predictor.rollout(embedding[:, :3], taken) - embedding[:, 3:]).square().mean())

        still = float((embedding[:, 2:3] - embedding[:, 3:]).square().mean())
        true, other = error(actions[384:]), error(actions[384:].roll(1, 0))
    assert true < 0.5 * other
    assert true < 0.1 * still


def test_an_encoder_and_the_width_of_an_action_are_enough() -> None:
    trainer = create_trainer(
        MLPEncoder(3, 16), "action_conditioned", objective_options={"action_dim": 2, "history": 2}, run=False
    )
    assert isinstance(trainer.model.predictor, ActionPredictor)
    assert (trainer.model.predictor.action_dim, trainer.model.predictor.history) == (2, 2)
    with pytest.raises(ValueError, match=r"pass objective_options=\{'action_dim': \.\.\.\}, or build JEPA"):
        create_trainer(MLPEncoder(3, 16), "action_conditioned", run=False)
