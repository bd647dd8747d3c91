"""What may be scheduled or edited, and how it reaches the optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from jepa.config.schema import TrainerConfig
from jepa.data.memory import MemoryLoader
from jepa.objectives import StatePair
from jepa.trainer import Callback, JEPATrainer, events
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


def group_rates(optimizer: torch.optim.Optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def two_rates(objective: nn.Module) -> torch.optim.Optimizer:
    """The predictor learns four times as fast as the encoder."""
    encoder, predictor = (list(part.parameters()) for part in (objective.model.encoder, objective.model.predictor))
    return torch.optim.AdamW([{"params": encoder, "lr": 0.1}, {"params": predictor, "lr": 0.4}])


def one_cycle(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    return lr_scheduler.OneCycleLR(optimizer, max_lr=[0.1, 0.4], total_steps=40)


def two_phases(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    phases = [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=8), lr_scheduler.CosineAnnealingLR(optimizer, 32)]
    return lr_scheduler.SequentialLR(optimizer, phases, milestones=[8])


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]] = {
    "ExponentialLR": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.9),
    "LambdaLR": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
    "OneCycleLR": one_cycle,
    "SequentialLR": two_phases,
}
each_scheduler = pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)


def follow(rates: Rates, optimizer: torch.optim.Optimizer, start: int, stop: int) -> list[list[float]]:
    """The rates used in these steps."""
    used = []
    for step in range(start, stop):
        rates.apply(step)
        used.append(group_rates(optimizer))
        assert rates.applied_rate == rates.learning_rate(step) == max(used[-1])
        optimizer.step()
        rates.after_step()
    return used


@each_scheduler
def test_scaling_a_users_schedule_rescales_its_whole_future(make_rates: MakeRates, scheduler: Any) -> None:
    plan = follow(*make_rates(scheduler, two_rates), 0, 40)
    rates, optimizer = make_rates(scheduler, two_rates)
    assert follow(rates, optimizer, 0, 5) == plan[:5]
    rates.edit(5, "learning_rate", 0.02, "scale")
    factor = 0.02 / max(plan[5])
    assert max(group_rates(optimizer)) == pytest.approx(0.02)
    torch.testing.assert_close(
        torch.tensor(follow(rates, optimizer, 5, 20)), factor * torch.tensor(plan[5:20]), rtol=1e-6, atol=0
    )
    rates.edit(20, "learning_rate", max(plan[20]), "scale")
    torch.testing.assert_close(
        torch.tensor(follow(rates, optimizer, 20, 40)), torch.tensor(plan[20:]), rtol=1e-6, atol=1e-9
    )


@each_scheduler
def test_holding_a_users_schedule_stays_until_it_is_scaled_again(make_rates: MakeRates, scheduler: Any) -> None:
    plan = follow(*make_rates(scheduler, two_rates), 0, 40)
    rates, optimizer = make_rates(scheduler, two_rates)
    follow(rates, optimizer, 0, 5)
    rates.edit(5, "learning_rate", 0.02, "hold")
    assert follow(rates, optimizer, 5, 30) == [pytest.approx([0.005, 0.02])] * 25
    assert rates.check(30, "learning_rate", 0.03, "scale")["mode"] == "scale"
    rates.edit(30, "learning_rate", 0.03, "scale")
    later, expected = torch.tensor(follow(rates, optimizer, 30, 40)), torch.tensor(plan[30:])
    torch.testing.assert_close(later, expected * 0.03 / max(plan[30]), rtol=1e-6, atol=1e-9)


@each_scheduler
@pytest.mark.parametrize("mode", ["scale", "hold", None])
def test_an_edited_users_schedule_goes_on_from_its_state(make_rates: MakeRates, scheduler: Any, mode: Any) -> None:
    (whole, its_optimizer), (first, optimizer) = (make_rates(scheduler, two_rates) for _ in range(2))
    for rates, owner in ((whole, its_optimizer), (first, optimizer)):
        follow(rates, owner, 0, 5)
        if mode:
            rates.edit(5, "learning_rate", 0.02, mode)
        follow(rates, owner, 5, 12)
    second, new_optimizer = make_rates(scheduler, two_rates)
    follow(second, new_optimizer, 0, 2)
    second.edit(2, "learning_rate", 0.7, "hold")  # of a past that loading gives up
    assert first.scheduler is not None
    assert second.scheduler is not None
    new_optimizer.load_state_dict(optimizer.state_dict())
    second.scheduler.load_state_dict(first.scheduler.state_dict())
    second.load_state_dict(first.state_dict())
    assert follow(second, new_optimizer, 12, 40) == follow(whole, its_optimizer, 12, 40)


def test_a_scaled_schedule_of_the_user_stays_in_the_range_of_a_rate(make_rates: MakeRates) -> None:
    rates, optimizer = make_rates(lambda o: lr_scheduler.LambdaLR(o, lambda step: 10.0**step))
    rates.edit(0, "learning_rate", 500.0, "scale")
    optimizer.step()
    rates.after_step()
    assert rates.learning_rate(1) == 1000.0


def test_a_run_with_a_users_scheduler_goes_on_as_if_uninterrupted(
    make_model: Callable[..., Any], loader: MemoryLoader, tmp_path: Path
) -> None:
    def trainer() -> JEPATrainer:
        model = make_model()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        schedule = lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=18)
        return JEPATrainer(model, optimizer, schedule, config=TrainerConfig(log_every=1, progress=False))

    whole, first, second = (trainer() for _ in range(3))
    for one in (whole, first):
        one.train(loader, max_steps=6)
        one.rates.edit(6, "learning_rate", 2e-3, "scale")
        one.train(loader, max_steps=10)
    second.load_checkpoint(first.save_checkpoint(tmp_path / "step-10.pt"))
    for one in (whole, second):
        one.train(loader, max_steps=18)
    assert second.history["learning_rate"] == whole.history["learning_rate"]
    for name, weight in whole.objective.state_dict().items():
        assert torch.equal(weight, second.objective.state_dict()[name]), name


def test_a_scheduler_that_needs_a_metric_is_refused_with_the_next_move(make_rates: MakeRates) -> None:
    with pytest.raises(ValueError, match=r"ReduceLROnPlateau needs a metric.*scheduler=None.*on_epoch_ended callback"):
        make_rates(lr_scheduler.ReduceLROnPlateau)


def test_a_scheduler_that_a_callback_steps_moves_the_rate(make_model: Callable[..., Any], loader: MemoryLoader) -> None:
    class Plateau(Callback):
        def on_epoch_ended(self, trainer: JEPATrainer, event: events.EpochEnded) -> None:
            plateau.step(1.0)

    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    config = TrainerConfig(log_every=1, progress=False)
    trainer = JEPATrainer(model, optimizer, config=config, callbacks=[Plateau()])
    history = trainer.train(loader, num_epochs=3)
    assert history["learning_rate"] == pytest.approx([0.01] * 12 + [0.005] * 6)
    trainer.rates.edit(18, "learning_rate", 0.001, "hold")
    assert trainer.train(loader, num_epochs=4)["learning_rate"][18:] == pytest.approx([0.001] * 6)


def test_a_rate_that_the_scheduler_set_to_zero_is_held(make_rates: MakeRates) -> None:
    rates, optimizer = make_rates(lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: float(step > 0)))
    optimizer.step()
    assert rates.check(0, "learning_rate", 0.1, "scale")["mode"] == "hold"
    rates.edit(0, "learning_rate", 0.1, "hold")
    for _ in range(3):
        assert group_rates(optimizer) == [0.1, 0.1]
        rates.after_step()


def test_everything_that_may_be_edited_is_listed_with_its_value(make_rates: MakeRates) -> None:
    rates, _ = make_rates(learning_rate=0.1, warmup_fraction=0.0)
    rates.plan(10)
    values = {name: value for name, (_, value) in rates.values(0).items()}
    assert values == {
        "learning_rate": 0.1,
        "weight_decay": 0.05,
        "ema_momentum": 0.99,
        "clip_grad_norm": 1.0,
        "log_every": 10,
        "variance_weight": 1.0,
        "covariance_weight": 2.5,
    }


def test_what_the_run_does_not_have_is_not_offered(make_rates: MakeRates) -> None:
    rates, _ = make_rates(target="stop_gradient", clip_grad_norm=None, weight_decay=0.0)
    assert set(rates.values(0)) == {"learning_rate", "log_every", "variance_weight", "covariance_weight"}
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
        "course": "rescaled x 3",
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
        ("learning_rate", 0.1, "jump", "mode must be 'scale', 'hold' or 'schedule', got 'jump'"),
    ],
)
def test_a_bad_edit_is_refused(make_rates: MakeRates, name: str, value: float, mode: str, sentence: str) -> None:
    rates, _ = make_rates()
    with pytest.raises(ValueError, match=sentence):
        rates.check(0, name, value, mode)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("clip_grad_norm", "it clips nothing; create the trainer with a limit"),
        ("weight_decay", "create the trainer with some weight_decay"),
        ("ema_momentum", "no moving average"),
    ],
)
def test_what_a_run_does_not_have_is_refused_with_the_reason(make_rates: MakeRates, name: str, sentence: str) -> None:
    rates, _ = make_rates(target="shared", clip_grad_norm=None, weight_decay=0.0)
    with pytest.raises(ValueError, match=f"{name} cannot be set in this run: .*{sentence}"):
        rates.check(0, name, 0.5, "scale")


def test_a_schedule_laid_by_hand_moves_a_loss_weight_at_every_step(make_rates: MakeRates) -> None:
    rates, other = make_rates()[0], make_rates()[0]
    rates.plan(11)
    said = rates.check(1, "variance_weight", 0.0, "schedule")
    assert (said["old"], said["new"], said["course"]) == (1.0, 0.0, "cosine to 0 at step 11")
    assert rates.courses()["variance_weight"] == "as planned"
    rates.edit(1, "variance_weight", 0.0, "schedule")
    assert rates.courses()["variance_weight"] == said["course"]
    moved = []
    for step in range(1, 11):
        rates.apply(step)
        moved.append(rates.hyper["variance_weight"].item())
    assert moved == pytest.approx([(1 + math.cos(math.pi * step / 9)) / 2 for step in range(10)])
    other.load_state_dict(rates.state_dict())
    other.plan(11, step=5)
    assert other.hyper["variance_weight"].item() == pytest.approx(moved[4]), "before the first step, too"


def test_no_schedule_is_laid_beside_a_scheduler_of_the_users(make_rates: MakeRates) -> None:
    rates, _ = make_rates(lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 10))
    with pytest.raises(ValueError, match=r"moved by your own scheduler or code.*'scale' or 'hold'"):
        rates.check(0, "learning_rate", 1e-5, "schedule")
    assert rates.courses()["learning_rate"] == "as planned"
    assert rates.check(0, "learning_rate", 5e-4, "scale")["course"] == "rescaled x 0.5"
    rates.edit(0, "learning_rate", 5e-4, "scale")
    assert rates.courses()["learning_rate"] == "rescaled x 0.5"
    rates.edit(0, "learning_rate", 5e-4, "hold")
    assert rates.courses()["learning_rate"] == "held"


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


@pytest.mark.parametrize(("start", "total", "longer"), [(76, 80, 160), (80, 80, 160), (30, 80, 40), (4, 80, 400)])
def test_a_rescaled_schedule_goes_on_from_its_value_under_another_plan(
    make_rates: MakeRates, start: int, total: int, longer: int
) -> None:
    plain, rates = make_rates(final_ema_momentum=0.999)[0], make_rates(final_ema_momentum=0.999)[0]
    rates.plan(total)
    edited = min(start, total - 1)
    rates.edit(edited, "learning_rate", 5e-4, "scale")
    rates.edit(edited, "ema_momentum", 0.9, "scale")
    before = rates.learning_rate(start), rates.ema_momentum(start)
    state = rates.state_dict()

    taken_up = make_rates(final_ema_momentum=0.999)[0]  # in a new process, where the old plan was never laid
    taken_up.load_state_dict(state)
    plain.plan(longer)
    for one in (rates, taken_up):
        one.plan(longer, step=start, previous_total=total)
        assert (one.learning_rate(start), one.ema_momentum(start)) == pytest.approx(before, rel=1e-12)
        for step in range(start, longer):
            shape = plain.learning_rate(step) / plain.learning_rate(start)
            assert one.learning_rate(step) == pytest.approx(before[0] * shape)
            shape = (1 - plain.ema_momentum(step)) / (1 - plain.ema_momentum(start))
            assert 1 - one.ema_momentum(step) == pytest.approx((1 - before[1]) * shape)


def test_a_late_edit_does_not_explode_when_the_run_is_extended(make_rates: MakeRates) -> None:
    rates, _ = make_rates(learning_rate=1e-3)
    rates.plan(80)
    rates.edit(76, "learning_rate", 5e-4, "scale")
    rates.plan(160, step=80, previous_total=80)
    assert max(rates.learning_rate(step) for step in range(80, 160)) <= 5e-4


def test_a_rescaled_value_at_its_anchor_starts_the_new_plan_unscaled(make_rates: MakeRates) -> None:
    plain, rates = make_rates()[0], make_rates()[0]
    rates.plan(80)
    rates.edit(76, "ema_momentum", 0.9, "scale")
    assert rates.ema_momentum(80) == 1.0
    rates.plan(160, step=80, previous_total=80)
    plain.plan(160)
    assert [rates.ema_momentum(step) for step in range(80, 160)] == [plain.ema_momentum(s) for s in range(80, 160)]


def test_the_same_or_a_first_plan_keeps_a_scale_as_it_is(make_rates: MakeRates) -> None:
    rates, _ = make_rates()
    rates.plan(80, step=0, previous_total=0)
    rates.edit(40, "learning_rate", 1e-4, "scale")
    expected = [rates.learning_rate(step) for step in range(80)]
    rates.plan(80, step=60, previous_total=80)
    assert [rates.learning_rate(step) for step in range(80)] == expected


def test_a_value_that_the_new_plan_cannot_scale_is_held(make_rates: MakeRates) -> None:
    rates, _ = make_rates(learning_rate=1.0, final_learning_rate_fraction=0.0, warmup_fraction=0.0)
    rates.plan(80)
    rates.edit(20, "learning_rate", 0.1, "scale")
    before = rates.learning_rate(40)
    rates.plan(30, step=40, previous_total=80)
    assert rates.learning_rate(40) == rates.learning_rate(41) == before


def test_an_unknown_scheduler_is_refused(make_rates: MakeRates) -> None:
    with pytest.raises(ValueError, match="scheduler must be a torch scheduler, 'warmup_cosine' or None, got 'cosine'"):
        make_rates("cosine")


def test_the_log_interval_is_a_whole_number_that_stays(make_rates: MakeRates) -> None:
    rates, other = make_rates(log_every=7)[0], make_rates(log_every=7)[0]
    spec, value = rates.values(0)["log_every"]
    assert (spec.low, spec.unit, value) == (1, "steps between two records", 7)
    said = rates.check(0, "log_every", 3, "scale")
    assert (said["mode"], said["course"]) == ("hold", "held")
    rates.edit(0, "log_every", said["new"], said["mode"])
    other.load_state_dict(rates.state_dict())
    assert (rates.log_every, other.log_every) == (3, 3)
    for value, mode, sentence in (
        (2.5, "hold", "whole number in"),
        (0, "hold", r"in \[1, 1e\+09\]"),
        (4, "schedule", "no schedule"),
    ):
        with pytest.raises(ValueError, match=sentence):
            rates.check(0, "log_every", value, mode)


def test_records_follow_the_log_interval_from_the_next_step_on(
    make_trainer: Callable[..., Any], loader: Any, make_gate: Any
) -> None:
    gate = make_gate(4)
    trainer = make_trainer(callbacks=[gate], log_every=4)
    run = trainer.start(loader, max_steps=12, wait=False)
    assert gate.reached.wait(30)
    ticket = run.set("log_every", 3)
    gate.opened.set()
    assert ticket.result(30)["new"] == 3
    assert run.wait(30).steps("grad_norm") == [1, 4, 6, 9, 12]
