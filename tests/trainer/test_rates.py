"""What may be scheduled or edited, and how it reaches the optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from jepa.config.schema import TrainerConfig
from jepa.objectives import StatePair
from jepa.trainer.create import make_optimizer
from jepa.trainer.rates import Rates

CPU = torch.device("cpu")
MakeRates = Callable[..., tuple[Rates, torch.optim.Optimizer]]


@pytest.fixture
def make_rates(make_model: Callable[..., Any]) -> MakeRates:
    def make(
        scheduler: Any = "warmup_cosine", optimizer: Any = None, target: str = "ema", **options: Any
    ) -> tuple[Rates, torch.optim.Optimizer]:
        config = TrainerConfig(**options)
        objective = StatePair(make_model(target=target))
        optimizer = optimizer(objective) if optimizer else make_optimizer(objective, config)
        planned = scheduler(optimizer) if callable(scheduler) else scheduler
        return Rates(objective, optimizer, planned, config, CPU), optimizer

    return make


def test_all_groups_follow_the_plan_and_only_decayed_ones_decay(make_rates: MakeRates) -> None:
    rates, optimizer = make_rates(
        learning_rate=0.1, warmup_fraction=0.2, final_learning_rate_fraction=0.5, final_weight_decay=0.2
    )
    rates.plan(10)
    for step in range(10):
        rates.apply(step)
        angle = math.pi * (step - 2) / 7
        expected = 0.1 * (step + 1) / 3 if step < 2 else 0.05 + 0.025 * (1 + math.cos(angle))
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([expected] * 2)
        decay = 0.2 + (0.05 - 0.2) * 0.5 * (1 + math.cos(math.pi * step / 9))
        assert [group["weight_decay"] for group in optimizer.param_groups] == pytest.approx([decay, 0.0])
        assert rates.ema_momentum(step) == pytest.approx(0.99 + 0.01 * step / 9)


def test_ratios_between_groups_are_kept(make_rates: MakeRates) -> None:
    def grouped(objective: nn.Module) -> torch.optim.Optimizer:
        model = objective.model
        return torch.optim.AdamW(
            [
                {"params": list(model.encoder.parameters()), "lr": 0.01, "weight_decay": 0.1},
                {"params": list(model.predictor.parameters()), "lr": 0.04, "weight_decay": 0.4},
            ]
        )

    rates, optimizer = make_rates(optimizer=grouped)
    rates.plan(100)
    for step in (0, 50, 99):
        rates.apply(step)
        encoder, predictor = optimizer.param_groups
        assert predictor["lr"] == pytest.approx(4 * encoder["lr"])
        assert predictor["weight_decay"] == pytest.approx(4 * encoder["weight_decay"])


def test_without_a_scheduler_the_rate_stays(make_rates: MakeRates) -> None:
    rates, optimizer = make_rates(None, learning_rate=0.03)
    rates.plan(10)
    for step in range(10):
        rates.apply(step)
        assert optimizer.param_groups[0]["lr"] == 0.03


@pytest.mark.parametrize(("interval", "expected"), [("step", 0.5**3), ("epoch", 0.5)])
def test_a_users_scheduler_counts_steps_or_epochs(make_rates: MakeRates, interval: str, expected: float) -> None:
    rates, optimizer = make_rates(
        lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5), learning_rate=1.0, scheduler_interval=interval
    )
    optimizer.step()
    for _ in range(3):
        rates.after_step()
    rates.after_epoch()
    assert rates.learning_rate(3) == pytest.approx(expected)


def test_editing_a_users_schedule_rescales_its_future(make_rates: MakeRates) -> None:
    rates, optimizer = make_rates(
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)), learning_rate=1.0
    )
    optimizer.step()
    rates.after_step()
    rates.edit(1, "learning_rate", 0.05, "scale")
    assert rates.learning_rate(1) == pytest.approx(0.05)
    rates.after_step()
    assert rates.learning_rate(2) == pytest.approx(0.1 / 3)


def test_a_rate_of_zero_cannot_be_rescaled(make_rates: MakeRates) -> None:
    rates, _ = make_rates(lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: float(step > 0)))
    with pytest.raises(ValueError, match="learning rate is 0 now"):
        rates.check(0, "learning_rate", 0.1, "scale")


def test_everything_that_may_be_edited_is_listed_with_its_value(make_rates: MakeRates) -> None:
    rates, _ = make_rates(learning_rate=0.1, warmup_fraction=0.0)
    rates.plan(10)
    values = {name: value for name, (_, value) in rates.values(0).items()}
    assert values == {
        "learning_rate": 0.1,
        "weight_decay": 0.05,
        "ema_momentum": 0.99,
        "clip_grad_norm": 1.0,
        "variance_weight": 1.0,
        "covariance_weight": 0.04,
    }


def test_what_the_run_does_not_have_is_not_offered(make_rates: MakeRates) -> None:
    rates, _ = make_rates(target="stop_gradient", clip_grad_norm=None, weight_decay=0.0)
    assert set(rates.values(0)) == {"learning_rate", "variance_weight", "covariance_weight"}
    assert rates.ema_momentum(0) == 1.0
    assert rates.clip(0) is None
    assert rates.extra_metrics(0) == {}


def test_an_edit_of_a_loss_weight_reaches_the_tensor_in_place(make_rates: MakeRates) -> None:
    rates, _ = make_rates()
    tensor = rates.hyper["variance_weight"]
    assert rates.check(0, "variance_weight", 3, "scale") == {
        "name": "variance_weight",
        "old": 1.0,
        "new": 3.0,
        "mode": "scale",
    }
    assert tensor.item() == 1.0
    rates.edit(0, "variance_weight", 3.0, "scale")
    assert rates.hyper["variance_weight"] is tensor
    assert tensor.item() == 3.0


@pytest.mark.parametrize(
    ("name", "value", "mode", "sentence"),
    [
        ("learning_rat", 0.1, "scale", "unknown hyper-parameter 'learning_rat'; did you mean 'learning_rate'"),
        ("ema_momentum", 1.5, "scale", r"ema_momentum must lie in \[0, 1\], got 1.5"),
        ("learning_rate", float("nan"), "hold", r"learning_rate must lie in \[0, 1000\], got nan"),
        ("learning_rate", 0.1, "jump", "mode must be 'scale' or 'hold', got 'jump'"),
    ],
)
def test_a_bad_edit_is_refused(make_rates: MakeRates, name: str, value: float, mode: str, sentence: str) -> None:
    rates, _ = make_rates()
    with pytest.raises(ValueError, match=sentence):
        rates.check(0, name, value, mode)


def test_what_cannot_be_scaled_is_held(make_rates: MakeRates) -> None:
    rates, _ = make_rates()
    rates.plan(10)
    assert rates.check(9, "ema_momentum", 0.5, "scale")["mode"] == "hold"


def test_edits_survive_the_state_and_a_longer_plan(make_rates: MakeRates) -> None:
    first, second = make_rates()[0], make_rates()[0]
    first.plan(100)
    first.edit(10, "learning_rate", 0.5, "hold")
    first.edit(10, "covariance_weight", 0.7, "scale")
    second.load_state_dict(first.state_dict())
    second.plan(200)
    assert second.learning_rate(150) == 0.5
    assert second.hyper["covariance_weight"].item() == pytest.approx(0.7)


def test_an_unknown_scheduler_is_refused(make_rates: MakeRates) -> None:
    with pytest.raises(ValueError, match="scheduler must be a torch scheduler, 'warmup_cosine' or None, got 'cosine'"):
        make_rates("cosine")
