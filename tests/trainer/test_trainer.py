"""The loop: how long it trains, what it records, and that going on equals never having stopped."""

from __future__ import annotations

import io
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from jepa.data import MemoryLoader
from jepa.files import read_lines
from jepa.models import JEPA
from jepa.objectives import StatePair
from jepa.trainer import (
    Callback,
    CheckpointError,
    JEPATrainer,
    NonFiniteLossError,
    RunConflictError,
    RunFolder,
    TrainerConfig,
    events,
)
from jepa.trainer.checkpoint import random_state, read_checkpoint
from jepa.trainer.control import SaveCheckpoint, Set, Stop
from jepa.trainer.schedules import plan_steps
from jepa.trainer.snapshot import take_snapshot
from tests.comparison import assert_same
from tests.noisy import Noisy

MakeTrainer = Callable[..., JEPATrainer]
MakeModel = Callable[..., JEPA]


class StopAfter(Callback):
    """Asks to stop after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
        """Ask."""
        if event.step == self.step:
            trainer.control.submit(Stop())


class FailAfter(Callback):
    """Raises after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
        """Raise."""
        if event.step == self.step:
            raise RuntimeError("the callback broke")


def everything(trainer: JEPATrainer) -> dict[str, Any]:
    """What two equal runs have in common, read back from a checkpoint: all but what depends on the clock."""
    buffer = io.BytesIO()
    state = take_snapshot(trainer, [random_state()])
    torch.save({key: state[key] for key in ("objective_state", "optimizer", "rates", "position", "random")}, buffer)
    kept = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    timed = {"steps_per_second", "embedding_std", "effective_rank"}
    kept["history"] = {name: (trainer.history.steps(name), trainer.history[name]) for name in trainer.history}
    kept["history"] = {name: column for name, column in kept["history"].items() if name not in timed}
    return kept


# ---------------------------------------------------------------------- how long


@pytest.mark.parametrize(
    ("batches", "accumulate", "epochs", "steps", "expected"),
    [
        (10, 1, 3, None, 30),
        (10, 3, 3, None, 12),
        (10, 1, 3, 25, 25),
        (10, 1, 3, 99, 30),
        (None, 1, None, 7, 7),
        (1, 8, 2, None, 2),
    ],
)
def test_planned_steps(
    batches: int | None, accumulate: int, epochs: int | None, steps: int | None, expected: int
) -> None:
    assert plan_steps(batches, accumulate, epochs, steps) == expected


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((10, 1, None, None), r"say how long to train: num_epochs=... or max_steps=..."),
        ((None, 1, 3, None), "the loader has no length.*pass max_steps"),
        ((10, 1, 0, None), "num_epochs must be a positive whole number, got 0"),
        ((10, 1, 1.5, None), "num_epochs must be a positive whole number, got 1.5"),
        ((10, 1, None, -1), "max_steps must be a positive whole number, got -1"),
    ],
)
def test_an_impossible_length_is_refused(arguments: tuple[Any, ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        plan_steps(*arguments)


@pytest.mark.parametrize(
    ("batch_size", "drop_last", "accumulate", "per_epoch"),
    [(8, False, 1, 6), (9, False, 1, 6), (9, True, 1, 5), (9, False, 4, 2), (48, False, 1, 1)],
)
@pytest.mark.parametrize("kind", ["memory", "torch"])
def test_steps_and_schedules_cover_the_true_length(
    make_trainer: MakeTrainer, pairs: Any, batch_size: int, drop_last: bool, accumulate: int, per_epoch: int, kind: str
) -> None:
    if kind == "memory":
        loader: Any = MemoryLoader(*pairs, batch_size=batch_size, drop_last=drop_last)
    else:
        loader = DataLoader(TensorDataset(*pairs), batch_size=batch_size, drop_last=drop_last, shuffle=True)
    trainer = make_trainer(accumulate=accumulate, log_every=1, warmup_fraction=0.0, learning_rate=0.5)
    history = trainer.train(loader, num_epochs=3)
    assert (trainer.step, trainer.epoch, trainer.total_steps) == (3 * per_epoch, 3, 3 * per_epoch)
    assert history.steps("learning_rate") == list(range(1, 3 * per_epoch + 1))
    assert history["learning_rate"][0] == pytest.approx(0.5)
    assert history["learning_rate"][-1] == pytest.approx(0.005)
    assert history["ema_momentum"][-1] == pytest.approx(1.0)


def test_a_loader_without_length_trains_max_steps_over_several_epochs(make_trainer: MakeTrainer, pairs: Any) -> None:
    class Stream:
        def __iter__(self) -> Iterator[Any]:
            return iter([tuple(part[i : i + 8] for part in pairs) for i in range(0, 24, 8)])

    trainer = make_trainer()
    trainer.train(Stream(), max_steps=8)
    assert (trainer.step, trainer.epoch) == (8, 2)


def test_a_step_sees_each_sample_once_an_epoch(make_trainer: MakeTrainer, pairs: Any) -> None:
    seen: list[Tensor] = []

    class Keep(Callback):
        def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
            seen.append(trainer.last_batch[0])

    make_trainer(callbacks=[Keep()]).train(MemoryLoader(*pairs, batch_size=8), num_epochs=2)
    for epoch in (seen[:6], seen[6:]):
        order = torch.cat(epoch)
        assert torch.equal(order.sort(dim=0).values, pairs[0].sort(dim=0).values)
    assert not torch.equal(torch.cat(seen[:6]), torch.cat(seen[6:])), "epochs have orders of their own"


# ---------------------------------------------------------------------- what it records


def test_history_holds_interval_means_and_epoch_means(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    losses: list[float] = []

    class Keep(Callback):
        def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
            losses.append(event.loss.item())

    history = make_trainer(callbacks=[Keep()], log_every=4).train(loader, num_epochs=3)
    assert history.steps("loss") == [1, 4, 8, 12, 16, 18]
    bounds = [0, 1, 4, 8, 12, 16, 18]
    expected = [sum(losses[a:b]) / (b - a) for a, b in pairwise(bounds)]
    assert history["loss"] == pytest.approx(expected, rel=1e-6)
    assert history.steps("epoch_loss") == [6, 12, 18]
    assert history["epoch_loss"] == pytest.approx([sum(losses[i : i + 6]) / 6 for i in (0, 6, 12)], rel=1e-6)
    names = {"loss", "prediction", "variance", "covariance", "learning_rate", "ema_momentum", "grad_norm"}
    assert names <= set(history)
    assert {"embedding_std", "effective_rank"} <= set(history)
    assert all(math.isfinite(value) for record in history.records for value in record.values())


def test_validation_runs_every_few_epochs_in_evaluation_mode(
    make_trainer: MakeTrainer, make_model: MakeModel, loader: MemoryLoader, pairs: Any
) -> None:
    model = make_model()
    modes: list[bool] = []
    model.encoder.register_forward_hook(lambda module, i, o: modes.append(module.training))
    trainer = make_trainer(model, val_loader=MemoryLoader(*pairs, batch_size=48), eval_every=2)
    history = trainer.train(loader, num_epochs=5)
    assert history.steps("val_loss") == [12, 24]
    assert {"val_prediction", "val_variance", "val_covariance"} <= set(history)
    assert modes == [*[True] * 12, False, *[True] * 12, False, *[True] * 6]
    assert trainer.objective.training


def test_evaluation_is_the_same_every_time_and_moves_nothing(make_trainer: MakeTrainer, images: Tensor) -> None:
    trainer = make_trainer(objective="ijepa", val_loader=MemoryLoader(images, batch_size=16, shuffle=False))
    trainer.train(MemoryLoader(images, batch_size=16), num_epochs=1)
    before = everything(trainer)
    first, second = trainer.evaluate(), trainer.evaluate()
    assert first == second
    after = everything(trainer)
    assert_same({k: v for k, v in before.items() if k != "history"}, {k: v for k, v in after.items() if k != "history"})


def test_evaluate_works_before_the_first_training(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    assert set(make_trainer(val_loader=loader).evaluate()) == {
        "val_loss",
        "val_prediction",
        "val_variance",
        "val_covariance",
    }
    with pytest.raises(ValueError, match="there is no validation data: pass val_loader="):
        make_trainer().evaluate()


@pytest.mark.parametrize("disk", ["quick", "slow"])
def test_the_best_checkpoint_is_the_one_of_the_lowest_monitor(
    make_trainer: MakeTrainer, loader: MemoryLoader, request: pytest.FixtureRequest, disk: str
) -> None:
    values = iter([0.5, 0.2, 0.4, 0.3])
    if disk == "slow":  # the next epoch ends before the last one's checkpoint is written
        request.getfixturevalue("slow_disk")

    class Scripted(Callback):
        def on_epoch_ended(self, trainer: JEPATrainer, event: events.EpochEnded) -> None:
            event.metrics["val_loss"] = next(values)  # type: ignore[index]

    trainer = make_trainer(run="best", val_loader=loader, callbacks=[Scripted()])
    trainer.train(loader, num_epochs=4)
    assert trainer.run is not None
    assert read_checkpoint(trainer.run.checkpoints.best)["position"]["step"] == 12
    assert [path.name for path in trainer.run.checkpoints.files] == [f"step-{step:08d}.pt" for step in (12, 18, 24)]


def test_a_checkpoint_is_due_after_ten_minutes_even_in_mid_epoch(
    make_trainer: MakeTrainer, loader: MemoryLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jepa.trainer.saver.CHECKPOINT_SECONDS", 0.0)
    trainer = make_trainer(run="often", log_every=2, keep_checkpoints=9)
    trainer.train(loader, num_epochs=1)
    assert trainer.run is not None
    assert [path.name for path in trainer.run.checkpoints.files] == [f"step-{n:08d}.pt" for n in (1, 2, 4, 6)]


def test_the_default_recipe_does_not_collapse(make_trainer: MakeTrainer) -> None:
    objective, data = StatePair.example()
    loader = DataLoader(data, batch_size=64, shuffle=True)
    history = make_trainer(objective.model, log_every=10, diagnostics_budget=1.0).train(loader, max_steps=300)
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    assert history["embedding_std"][-1] > 0.3
    assert history["effective_rank"][-1] > 2.0


# ---------------------------------------------------------------------- going on


def data_for(objective: str, kind: str, pairs: Any, images: Tensor) -> Any:
    arrays = pairs if objective == "state_pair" else (images,)
    if kind == "memory":
        return MemoryLoader(*arrays, batch_size=8)
    workers = int(kind)
    dataset: Any = Noisy(pairs) if objective == "state_pair" else TensorDataset(images)
    return DataLoader(dataset, batch_size=8, shuffle=True, num_workers=workers)


CASES = [
    pytest.param(objective, kind, accumulate, marks=[pytest.mark.slow] if kind == "2" else [])
    for objective in ("state_pair", "ijepa")
    for kind in ("memory", "0", "2")
    for accumulate in (1, 2)
]


@pytest.mark.parametrize(("objective", "kind", "accumulate"), CASES)
def test_interrupted_run_equals_uninterrupted_run(
    objective: str,
    kind: str,
    accumulate: int,
    make_trainer: MakeTrainer,
    make_model: MakeModel,
    pairs: Any,
    images: Tensor,
) -> None:
    options = {"objective": objective, "accumulate": accumulate, "log_every": 4, "final_weight_decay": 0.2}
    data = data_for(objective, kind, pairs, images)
    whole = make_trainer(run="whole", **options)
    whole.train(data, num_epochs=4)
    expected = everything(whole)
    per_epoch = 6 // accumulate
    at = {per_epoch + 2, 2 * per_epoch + 1}  # in the middle of an epoch and of a logging interval
    for stop in sorted(at):
        part = make_trainer(make_model(objective, seed=5), run="part", callbacks=[StopAfter(stop)], **options)
        if stop == min(at):
            part.model.load_state_dict(make_model(objective).state_dict())
        part.train(data, num_epochs=4)
        assert (part.step, part.state) == (stop, "stopped")
        torch.randn(3)  # what else the process draws must not matter
    last = make_trainer(make_model(objective, seed=6), run="part", **options)
    last.train(data, num_epochs=4)
    assert_same(everything(last), expected)


def test_the_same_trainer_goes_on_as_if_it_had_not_stopped(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    whole, part = make_trainer(log_every=4), make_trainer(callbacks=[StopAfter(5), StopAfter(11)], log_every=4)
    whole.train(loader, num_epochs=3)
    for _ in range(3):
        part.train(loader, num_epochs=3)
    assert part.state == "finished"
    assert_same(everything(part), everything(whole))


def test_dropout_of_a_users_module_goes_on_where_it_was(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    def model() -> JEPA:
        torch.manual_seed(0)
        return JEPA(nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 8)), nn.Linear(8, 8))

    whole = make_trainer(model(), run="whole")
    torch.manual_seed(1)
    whole.train(loader, num_epochs=2)
    first = make_trainer(model(), run="part", callbacks=[StopAfter(7)])
    torch.manual_seed(1)
    first.train(loader, num_epochs=2)
    second = make_trainer(model(), run="part")
    torch.manual_seed(2)
    second.train(loader, num_epochs=2)
    assert_same(everything(second), everything(whole))


def test_edits_made_while_training_outlive_an_interruption(
    make_trainer: MakeTrainer, make_model: MakeModel, loader: MemoryLoader
) -> None:
    class Edit(Callback):
        def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
            if event.step == 3:
                trainer.control.submit(Set("learning_rate", 0.01))
                trainer.control.submit(Set("ema_momentum", 0.5, "hold"))
                trainer.control.submit(Set("variance_weight", 4.0))

    whole = make_trainer(callbacks=[Edit()], log_every=4)
    whole.train(loader, num_epochs=3)
    make_trainer(run="part", callbacks=[Edit(), StopAfter(8)], log_every=4).train(loader, num_epochs=3)
    part = make_trainer(make_model(seed=1), run="part", log_every=4)
    part.train(loader, num_epochs=3)
    assert_same(everything(part), everything(whole))
    assert part.rates.hyper["variance_weight"].item() == 4.0
    assert part.history["ema_momentum"][-1] == 0.5


@pytest.mark.parametrize("kind", ["exponential", "onecycle"])
def test_a_users_scheduler_goes_on_where_it_was(
    kind: str, make_model: MakeModel, loader: MemoryLoader, tmp_path: Path
) -> None:
    def trainer(name: str, *callbacks: Callback) -> JEPATrainer:
        model = make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        scheduler: Any = (
            torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
            if kind == "exponential"
            else torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=40)
        )
        return JEPATrainer(model, optimizer, scheduler, run=RunFolder(tmp_path / name), callbacks=callbacks)

    whole = trainer("whole")
    whole.train(loader, num_epochs=2)
    trainer("part", StopAfter(7)).train(loader, num_epochs=2)
    part = trainer("part")
    part.train(loader, num_epochs=2)
    assert_same(everything(part), everything(whole))
    if kind == "exponential":
        assert part.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.9**12)


def test_edits_after_the_last_checkpoint_are_made_again_after_a_kill(
    make_trainer: MakeTrainer, make_model: MakeModel, loader: MemoryLoader, tmp_path: Path
) -> None:
    class Edit(Callback):
        def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
            if event.step == 15:
                trainer.submit(Set("learning_rate", 1e-5, "hold"))
            if event.step == 16:
                trainer.submit(Set("variance_weight", 3.0))

    class Copy(Callback):
        def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
            if event.step == 17:  # as a kill would leave the folder
                assert trainer.run is not None
                shutil.copytree(trainer.run.path, tmp_path / "runs" / "killed")

    whole = make_trainer(run="whole", callbacks=[Edit(), Copy()])
    whole.train(loader, num_epochs=4)
    killed = make_trainer(make_model(seed=1), run="killed")
    killed.train(loader, num_epochs=4)
    assert killed.step == 24
    assert_same(everything(killed), everything(whole))
    again = [
        line for line in read_lines(tmp_path / "runs" / "killed" / "journal.jsonl") if line.get("source") == "journal"
    ]
    assert [(line["step"], line["command"]["name"]) for line in again] == [
        (15, "learning_rate"),
        (16, "variance_weight"),
    ]


def test_a_command_that_fails_has_the_last_word_in_the_journal(
    make_trainer: MakeTrainer, loader: MemoryLoader, tmp_path: Path
) -> None:
    class Ask(Callback):
        def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
            if event.step == 2:
                trainer.submit(SaveCheckpoint(tmp_path / "file" / "x.pt"))
                trainer.submit(Set("learning_rate", -1.0))

    (tmp_path / "file").write_text("in the way")
    trainer = make_trainer(run="a", callbacks=[Ask()])
    trainer.train(loader, num_epochs=1)
    assert trainer.run is not None
    lines = [line for line in read_lines(trainer.run.journal_path) if "command" in line]
    told = [(line["event"], line["command"]["type"]) for line in lines]
    assert told[0] == ("CommandApplied", "SaveCheckpoint")
    assert sorted(told[1:]) == [("CommandRefused", "SaveCheckpoint"), ("CommandRefused", "Set")]
    assert "learning_rate must lie in" in next(line["error"] for line in lines if line["command"]["type"] == "Set")


def test_a_bad_loss_names_every_batch_of_its_step(make_trainer: MakeTrainer, pairs: tuple[Tensor, Tensor]) -> None:
    pairs[0][3] = float("nan")
    trainer = make_trainer(accumulate=3, log_every=1)
    loader = MemoryLoader(*pairs, batch_size=8, shuffle=False)
    with pytest.raises(
        NonFiniteLossError, match=r"step 1 \(epoch 0, batch 0, samples 0, 1, 2, 3, .*; batch 1, .*; batch 2"
    ):
        trainer.train(loader, num_epochs=1)


def test_a_checkpoint_asked_for_is_the_last_good_one(
    make_trainer: MakeTrainer, loader: MemoryLoader, pairs: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    trainer = make_trainer(log_every=1)
    trainer.train(loader, num_epochs=1)
    trainer.save_checkpoint(tmp_path / "good.pt")
    pairs[0].fill_(float("nan"))
    with pytest.raises(NonFiniteLossError, match=r"last good checkpoint is .*good\.pt"):
        trainer.train(loader, num_epochs=2)


def test_checkpoints_come_as_often_as_asked_for(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    saved: list[int] = []
    trainer = make_trainer(run="a", checkpoint_every=2)
    trainer.subscribe(lambda event: saved.append(event.epoch) if isinstance(event, events.CheckpointSaved) else None)
    trainer.train(loader, num_epochs=5)
    assert saved == [2, 4, 5]


def test_a_run_fails_also_where_nothing_can_be_written_any_more(
    make_trainer: MakeTrainer, loader: MemoryLoader
) -> None:
    class Break(Callback):
        def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
            assert trainer.run is not None
            trainer.saver.settle()
            shutil.rmtree(trainer.run.path)
            trainer.run.path.write_text("a file in its place")
            raise RuntimeError("the first error")

    trainer = make_trainer(run="a", callbacks=[Break()])
    with (
        pytest.warns(RuntimeWarning, match="cannot be written to now"),
        pytest.warns(RuntimeWarning, match="no checkpoint could be written"),
        pytest.raises(RuntimeError, match="the first"),
    ):
        trainer.train(loader, num_epochs=1)
    assert trainer.state == "failed"
    assert trainer.ended.is_set()


def test_the_recorded_rate_is_the_one_the_step_used(make_model: MakeModel, loader: MemoryLoader) -> None:
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    trainer = JEPATrainer(model, optimizer, scheduler, config=TrainerConfig(log_every=1))
    history = trainer.train(loader, max_steps=3)
    assert history["learning_rate"] == pytest.approx([0.1, 0.05, 0.025])


def test_a_validation_metric_without_validation_data_is_refused(
    make_trainer: MakeTrainer, loader: MemoryLoader
) -> None:
    with pytest.raises(ValueError, match=r"monitor='val_loss' needs validation data: pass val_loader="):
        make_trainer(monitor="val_loss").train(loader, num_epochs=1)


def test_a_second_call_with_the_same_total_has_nothing_to_do(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    trainer = make_trainer()
    trainer.train(loader, num_epochs=2)
    before = everything(trainer)
    with pytest.warns(UserWarning, match="nothing to do: the run is at step 12 of 12; a larger num_epochs"):
        history = trainer.train(loader, num_epochs=2)
    assert history.last_step == 12
    assert_same(everything(trainer), before)


def test_a_larger_total_goes_on_and_plans_anew(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    trainer = make_trainer(run="longer", log_every=1, warmup_fraction=0.0)
    trainer.train(loader, num_epochs=2)
    history = trainer.train(loader, num_epochs=4)
    assert (trainer.step, trainer.epoch) == (24, 4)
    assert history.steps("loss") == list(range(1, 25))
    expected = 1e-5 + (1e-3 - 1e-5) * 0.5 * (1 + math.cos(math.pi * 12 / 23))
    assert history["learning_rate"][12] == pytest.approx(expected)
    assert trainer.run is not None
    started = [line for line in read_lines(trainer.run.journal_path) if line["event"] == "RunStarted"]
    assert [(line["segment"], line["step"], line["total_steps"]) for line in started] == [(0, 0, 12), (1, 12, 24)]


def test_a_loaded_checkpoint_never_starts_at_epoch_zero(
    make_trainer: MakeTrainer, make_model: MakeModel, loader: MemoryLoader, tmp_path: Path
) -> None:
    whole = make_trainer()
    whole.train(loader, num_epochs=4)
    first = make_trainer(callbacks=[StopAfter(12)])
    first.train(loader, num_epochs=4)
    assert first.save_checkpoint(tmp_path / "deep" / "two.pt") == tmp_path / "deep" / "two.pt"
    epochs: list[int] = []

    class Epochs(Callback):
        def on_epoch_started(self, trainer: JEPATrainer, event: events.EpochStarted) -> None:
            epochs.append(event.epoch)

    second = make_trainer(make_model(seed=3), callbacks=[Epochs()])
    second.load_checkpoint(tmp_path / "deep" / "two.pt")
    assert (second.step, second.epoch) == (12, 2)
    second.train(loader, num_epochs=4)
    assert epochs == [2, 3]
    assert_same(everything(second), everything(whole))


def test_going_back_to_an_earlier_checkpoint_keeps_what_is_written_from_there(
    make_trainer: MakeTrainer, make_model: MakeModel, loader: MemoryLoader, tmp_path: Path
) -> None:
    trainer = make_trainer(run="back", callbacks=[StopAfter(3)])
    trainer.train(loader, num_epochs=5)
    trainer.save_checkpoint(tmp_path / "early.pt")
    trainer.train(loader, num_epochs=5)
    trainer.load_checkpoint(tmp_path / "early.pt")
    with pytest.warns(UserWarning, match="planned for 30 steps, and now for 7"):
        trainer.train(loader, max_steps=7)
    assert trainer.last_checkpoint is not None
    assert trainer.last_checkpoint.is_file()
    fresh = make_trainer(make_model(seed=9), run="back")
    fresh.train(loader, max_steps=8)
    assert fresh.step == 8
    started = [line["step"] for line in read_lines(fresh.run.journal_path) if line["event"] == "RunStarted"]  # type: ignore[union-attr]
    assert started == [0, 3, 3, 7]


SCRIPT = """
import sys
import torch
from jepa.data import MemoryLoader
from jepa.models import JEPA, Encoder, Predictor
from jepa.trainer import Callback, create_trainer
from jepa.trainer.control import SaveCheckpoint, Set, Stop
from jepa.trainer.utils import setup_reproducibility

torch.set_num_threads(1)
setup_reproducibility(0)
class StopAfter(Callback):
    def on_step_ended(self, trainer, event):
        if event.step == int(sys.argv[2]):
            trainer.control.submit(Stop())

torch.manual_seed(0)
model = JEPA(Encoder(8, 4, depth=1), Predictor(8, depth=1))
states = torch.randn(48, 4, generator=torch.Generator().manual_seed(7))
loader = MemoryLoader(states, states.roll(1, 1), batch_size=8)
trainer = create_trainer(model, run=sys.argv[1], callbacks=[StopAfter()], log_every=4, device="cpu")
trainer.train(loader, num_epochs=3)
trainer.save_checkpoint(sys.argv[1] + "-end.pt")
"""


@pytest.mark.slow
def test_a_new_process_goes_on_as_if_there_had_been_one(tmp_path: Path) -> None:
    for name, stops in (("whole", [99]), ("part", [4, 8, 99])):
        for stop in stops:
            command = [sys.executable, "-W", "error", "-c", SCRIPT, name, str(stop)]
            subprocess.run(command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, timeout=120)
    whole, part = (read_checkpoint(tmp_path / f"{name}-end.pt") for name in ("whole", "part"))
    for key in ("objective_state", "optimizer", "rates", "position", "random"):
        assert_same(part[key], whole[key], key)
    for name in ("loss", "epoch_loss", "learning_rate", "ema_momentum", "grad_norm"):
        assert_same(part["history"][name], whole["history"][name], name)


# ---------------------------------------------------------------------- what goes wrong


def test_an_empty_loader_is_refused_before_anything_is_written(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer(run="empty")
    with pytest.raises(ValueError, match="the loader is empty"):
        trainer.train([], num_epochs=1)
    with pytest.raises(ValueError, match="the loader is empty: 0 samples"):
        trainer.train(DataLoader(TensorDataset(torch.zeros(0, 4), torch.zeros(0, 4)), batch_size=4), num_epochs=1)

    class Nothing:
        def __iter__(self) -> Iterator[Any]:
            return iter([])

    assert not (tmp_path / "runs").exists()
    with pytest.raises(ValueError, match="the loader gave no batch in epoch 0"):
        trainer.train(Nothing(), max_steps=5)
    assert trainer.state == "failed"


def test_an_iterator_is_refused(make_trainer: MakeTrainer, pairs: Any) -> None:
    with pytest.raises(TypeError, match="an iterator is used up after one epoch"):
        make_trainer().train(iter([pairs]), max_steps=2)


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [
        (lambda p: p[0], r"takes batches \(state_t, state_t1\).*got a tensor of shape \(48, 4\)"),
        (lambda p: (*p, p[0]), "got a tuple of 3"),
        (lambda p: (p[0], p[1][:, :3]), r"\(48, 4\), a tensor of shape \(48, 3\)"),
        (lambda p: {"x": p[0], "y": p[1]}, "got a mapping with keys 'x', 'y'"),
    ],
)
def test_a_wrong_batch_names_the_layout_and_what_it_got(
    batch: Callable[[Any], Any], sentence: str, make_trainer: MakeTrainer, pairs: Any
) -> None:
    with pytest.raises(TypeError, match=sentence):
        make_trainer().train([batch(pairs)], num_epochs=1)


def test_a_failed_batch_in_mid_run_leaves_a_checkpoint_to_go_on_from(make_trainer: MakeTrainer, pairs: Any) -> None:
    good = [tuple(part[i : i + 8] for part in pairs) for i in range(0, 48, 8)]
    bad = [*good[:4], good[4][0], good[5]]
    trainer = make_trainer(run="mid")
    with pytest.raises(TypeError, match="takes batches"):
        trainer.train(bad, num_epochs=2)
    assert (trainer.state, trainer.step) == ("failed", 4)
    assert trainer.last_checkpoint is not None
    assert read_checkpoint(trainer.last_checkpoint)["position"]["step"] == 4
    assert trainer.run is not None
    assert not trainer.run.is_open
    assert read_lines(trainer.run.journal_path)[-1]["event"] == "RunFailed"


@pytest.mark.parametrize("same", [True, False])
def test_a_failure_under_accumulation_leaves_no_gradient_behind(
    same: bool, make_trainer: MakeTrainer, make_model: MakeModel, pairs: Any
) -> None:
    good = [tuple(part[i : i + 8] for part in pairs) for i in range(0, 48, 8)]
    bad = [good[0], good[1], good[2], good[3][0], good[4], good[5]]
    options = {"accumulate": 2, "log_every": 1}
    whole = make_trainer(**options)
    whole.train(good, num_epochs=1)
    part = make_trainer(run="part", **options)
    with pytest.raises(TypeError, match="takes batches"):
        part.train(bad, num_epochs=1)
    if not same:
        part = make_trainer(make_model(seed=2), run="part", **options)
    with pytest.warns(UserWarning, match="list decides its own order"):
        part.train(good, num_epochs=1)
    assert_same(everything(part), everything(whole))


class Poisoned(nn.Module):
    """A linear encoder that returns NaN when it is told to."""

    def __init__(self, at: int | None = None) -> None:
        super().__init__()
        self.linear, self.at, self.calls = nn.Linear(4, 8), at, 0

    def forward(self, x: Tensor) -> Tensor:
        """Encode."""
        self.calls += self.training and torch.is_grad_enabled()
        y = self.linear(x)
        return y * float("nan") if self.calls == self.at else y


def test_a_nan_loss_stops_and_the_last_good_checkpoint_stays(make_trainer: MakeTrainer, pairs: Any) -> None:
    torch.manual_seed(0)
    states = pairs[0].clone()
    states[13, 2] = float("nan")
    clean = MemoryLoader(*pairs, batch_size=8, shuffle=False)
    dirty = MemoryLoader(states, pairs[1], batch_size=8, shuffle=False)
    trainer = make_trainer(run="nan", log_every=3, keep_checkpoints=2)
    trainer.train(clean, num_epochs=2)
    good = {path.name: path.read_bytes() for path in trainer.run.checkpoints.path.iterdir()}  # type: ignore[union-attr]
    sentence = (
        r"the loss is nan at step 14 \(epoch 2, batch 1, samples 8, 9, 10, 11, 12, 13, 14, 15\); "
        r"the last good checkpoint is .*step-00000012.pt; try a lower learning_rate"
    )
    with pytest.raises(NonFiniteLossError, match=sentence):
        trainer.train(dirty, num_epochs=4)
    assert trainer.state == "failed"
    assert trainer.run is not None
    assert {path.name: path.read_bytes() for path in trainer.run.checkpoints.path.iterdir()} == good
    again = make_trainer(run="nan", log_every=3, keep_checkpoints=2)
    again.train(clean, num_epochs=3)
    assert again.step == 18
    assert all(torch.isfinite(p).all() for p in again.model.parameters())


def test_weights_that_became_nan_without_a_nan_loss_are_not_kept(make_trainer: MakeTrainer, pairs: Any) -> None:
    class Cliff(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
            return gradient * float("nan")

    class Encoder(Poisoned):
        def forward(self, x: Tensor) -> Tensor:
            self.calls += self.training and torch.is_grad_enabled()
            y = self.linear(x)
            return Cliff.apply(y) if self.calls == self.at else y  # type: ignore[no-any-return]

    trainer = make_trainer(JEPA(Encoder(at=12), nn.Linear(8, 8)), run="cliff")
    with pytest.raises(
        NonFiniteLossError, match=r"at step 12, although .*the last good checkpoint is .*step-00000006.pt"
    ):
        trainer.train(MemoryLoader(*pairs, batch_size=8), num_epochs=3)
    assert trainer.run is not None
    for path in trainer.run.checkpoints.path.glob("*.pt"):
        state = read_checkpoint(path)["objective_state"]
        assert all(torch.isfinite(tensor).all() for tensor in state.values()), path.name


def test_a_nan_is_found_before_a_checkpoint_even_between_two_records(make_trainer: MakeTrainer, pairs: Any) -> None:
    trainer = make_trainer(JEPA(Poisoned(at=4), nn.Linear(8, 8)), run="between", log_every=1000)
    with pytest.raises(NonFiniteLossError, match="nan at step 4"):
        trainer.train(MemoryLoader(*pairs, batch_size=8), num_epochs=1)
    assert trainer.run is not None
    assert trainer.run.checkpoints.files == []


def test_a_callback_that_raises_ends_the_run_with_a_checkpoint(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    whole = make_trainer()
    whole.train(loader, num_epochs=2)
    trainer = make_trainer(run="callback", callbacks=[FailAfter(8)])
    with pytest.raises(RuntimeError, match="the callback broke"):
        trainer.train(loader, num_epochs=2)
    assert trainer.status().error == "RuntimeError: the callback broke"
    assert "on_step_ended" in trainer.traceback
    again = make_trainer(run="callback")
    again.train(loader, num_epochs=2)
    assert torch.equal(again.model.encoder.embed.weight, whole.model.encoder.embed.weight)


def test_a_sink_that_raises_is_dropped_with_a_warning(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    calls: list[events.Event] = []

    def broken(event: events.Event) -> None:
        calls.append(event)
        raise OSError("no space left")

    trainer = make_trainer()
    trainer.subscribe(broken)
    with pytest.warns(
        UserWarning, match=r"broken.* failed on RunStarted \(OSError\('no space left'\)\) and gets no more"
    ):
        trainer.train(loader, num_epochs=1)
    assert len(calls) == 1
    assert trainer.step == 6


class TornSGD(torch.optim.SGD):
    """Is interrupted in the middle of its update number `at`."""

    at, done = 0, 0

    def step(self, closure: Any = None) -> Any:
        """Update."""
        self.done += 1
        if self.done == self.at:
            self.param_groups[0]["params"][0].data.add_(1.0)
            raise KeyboardInterrupt
        return super().step(closure)


@pytest.mark.parametrize("same", [True, False])
def test_an_interrupt_in_mid_update_is_never_kept(
    same: bool, make_model: MakeModel, loader: MemoryLoader, tmp_path: Path
) -> None:
    def trainer(name: str, at: int = 0) -> JEPATrainer:
        model = make_model()
        optimizer = TornSGD(model.parameters(), lr=0.1)
        optimizer.at = at
        return JEPATrainer(model, optimizer, run=RunFolder(tmp_path / name), config=TrainerConfig(log_every=1))

    whole = trainer("whole")
    whole.train(loader, num_epochs=3)
    part = trainer("part", at=9)
    with pytest.raises(KeyboardInterrupt):
        part.train(loader, num_epochs=3)
    assert part.run is not None
    assert [path.name for path in part.run.checkpoints.files] == ["step-00000006.pt"]
    if not same:
        part = trainer("part")
    part.train(loader, num_epochs=3)
    assert_same(everything(part), everything(whole))


def test_a_missing_checkpoint_says_where_it_looked(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*none.pt \(looked from "):
        make_trainer().load_checkpoint(tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("other", "objective", "sentence"),
    [
        ({"hidden_dim": 16}, "state_pair", "does not fit this model"),
        (
            {"objective": "ijepa"},
            "ijepa",
            "is of objective 'state_pair', this trainer has 'ijepa'.*objective='state_pair'",
        ),
        ({"target": "shared"}, "state_pair", "does not fit this model"),
    ],
)
def test_a_checkpoint_of_another_model_or_objective_is_refused_and_changes_nothing(
    other: dict[str, Any],
    objective: str,
    sentence: str,
    make_trainer: MakeTrainer,
    make_model: MakeModel,
    loader: MemoryLoader,
    tmp_path: Path,
) -> None:
    first = make_trainer()
    first.train(loader, num_epochs=1)
    path = first.save_checkpoint(tmp_path / "model.pt")
    second = make_trainer(make_model(seed=4, **other), objective=objective)
    before = everything(second)
    with pytest.raises(CheckpointError, match=sentence):
        second.load_checkpoint(path)
    assert_same(everything(second), before)
    assert second.step == 0


def test_a_checkpoint_of_another_optimizer_is_refused_and_changes_nothing(
    make_trainer: MakeTrainer, make_model: MakeModel, loader: MemoryLoader, tmp_path: Path
) -> None:
    first = make_trainer()
    first.train(loader, num_epochs=1)
    path = first.save_checkpoint(tmp_path / "model.pt")
    model = make_model(seed=4)
    second = JEPATrainer(model, torch.optim.SGD(model.parameters(), lr=0.1))
    before = everything(second)
    with pytest.raises(CheckpointError, match="does not fit this optimizer"):
        second.load_checkpoint(path)
    assert_same(everything(second), before)


def test_without_a_run_folder_a_checkpoint_needs_a_path(make_trainer: MakeTrainer) -> None:
    with pytest.raises(ValueError, match=r"no run folder: pass the file to write, save_checkpoint\('model.pt'\)"):
        make_trainer().save_checkpoint()


def test_saving_while_idle_does_not_hold_the_run_folder(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    first = make_trainer(run="idle", callbacks=[StopAfter(4)])
    first.train(loader, num_epochs=1)
    first.save_checkpoint()
    second = make_trainer(run="idle")
    second.train(loader, num_epochs=1)
    assert second.step == 6


def test_a_named_run_with_other_parameters_shows_the_difference_and_is_not_held(
    make_trainer: MakeTrainer, loader: MemoryLoader
) -> None:
    make_trainer(run="named").train(loader, num_epochs=1)
    other = make_trainer(run="named", learning_rate=0.5)
    with pytest.raises(
        RunConflictError,
        match=r"run 'named' exists with other parameters \(training.learning_rate: was 0.001, now 0.5\)",
    ):
        other.train(loader, num_epochs=2)
    assert other.state == "idle"
    same = make_trainer(run="named")
    same.train(loader, num_epochs=2)
    assert same.step == 12


def test_a_checkpoint_that_does_not_fit_leaves_the_run_folder_free(
    make_trainer: MakeTrainer, make_model: MakeModel, loader: MemoryLoader, tmp_path: Path
) -> None:
    first = make_trainer(run="misfit")
    first.train(loader, num_epochs=1)
    wide = make_trainer(make_model(hidden_dim=16))
    wide.train(loader, num_epochs=1)
    wide.save_checkpoint(first.run.checkpoints.file(50))  # type: ignore[union-attr]
    second = make_trainer(run="misfit")
    with pytest.raises(CheckpointError, match=r"step-00000050.pt does not fit this model"):
        second.train(loader, num_epochs=2)
    assert second.state == "idle"
    assert second.run is not None
    assert not second.run.is_open
    second.run.checkpoints.file(50).unlink()
    make_trainer(run="misfit").train(loader, num_epochs=2)


def test_a_callback_that_raises_at_the_start_leaves_nothing_running(
    make_trainer: MakeTrainer, loader: MemoryLoader
) -> None:
    class Refuse(Callback):
        def on_state_changed(self, trainer: JEPATrainer, event: events.StateChanged) -> None:
            if event.state == "running" and not allowed:
                raise RuntimeError("not today")

    allowed: list[bool] = []
    trainer = make_trainer(run="refused", callbacks=[Refuse()])
    with pytest.raises(RuntimeError, match="not today"):
        trainer.train(loader, num_epochs=1)
    assert not trainer.is_live
    assert trainer.ended.is_set()
    assert trainer.run is not None
    assert not trainer.run.is_open
    allowed.append(True)
    trainer.train(loader, num_epochs=1)
    assert trainer.step == 6


def test_a_view_that_cannot_be_shown_leaves_nothing_running(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    class Broken:
        def show(self) -> None:
            raise RuntimeError("no display")

    trainer = make_trainer(run="view")
    trainer.view = Broken()
    with pytest.raises(RuntimeError, match="no display"):
        trainer.train(loader, num_epochs=1)
    assert not trainer.is_live
    trainer.view = None
    trainer.train(loader, num_epochs=1)
    assert trainer.step == 6


def test_an_optimizer_of_another_model_is_refused(make_model: MakeModel) -> None:
    model, other = make_model(), make_model()
    with pytest.raises(ValueError, match=r"the optimizer holds (\d+) of \1 parameters that are not the model's"):
        JEPATrainer(model, torch.optim.AdamW(other.parameters()))


def test_something_that_is_no_model_is_refused() -> None:
    layer = nn.Linear(2, 2)
    with pytest.raises(TypeError, match="expected a JEPA, an encoder or an Objective, got dict; build JEPA"):
        JEPATrainer({}, torch.optim.SGD(layer.parameters(), lr=0.1))  # type: ignore[arg-type]


def test_something_that_is_no_callback_is_refused(make_model: MakeModel) -> None:
    model = make_model()
    with pytest.raises(TypeError, match="callbacks must derive from Callback, got function"):
        JEPATrainer(model, torch.optim.SGD(model.parameters(), lr=0.1), callbacks=[lambda: None])  # type: ignore[list-item]


def test_a_loader_with_its_own_order_is_skipped_forward_and_says_so(make_trainer: MakeTrainer, pairs: Any) -> None:
    batches = [tuple(part[i : i + 8] for part in pairs) for i in range(0, 48, 8)]
    whole = make_trainer(log_every=4)
    whole.train(batches, num_epochs=2)
    part = make_trainer(callbacks=[StopAfter(8)], log_every=4)
    part.train(batches, num_epochs=2)
    with pytest.warns(
        UserWarning, match="list decides its own order, so continuing in mid-epoch skips its first batches"
    ):
        part.train(batches, num_epochs=2)
    assert_same(everything(part), everything(whole))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # the compiler's own
@pytest.mark.skipif(os.name == "nt", reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_follows_the_eager_one(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:
        pytest.skip(f"torch.compile finds no C++ compiler: {error}")
    eager = make_trainer(log_every=1).train(loader, max_steps=4)
    trainer = make_trainer(log_every=1, compile=True)
    compiled = trainer.train(loader, max_steps=4)
    assert compiled["loss"] == pytest.approx(eager["loss"], rel=1e-4)
    assert not any("_orig_mod" in name for name in trainer.objective.state_dict())
