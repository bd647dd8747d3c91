"""What is measured: means over the interval, speed without pauses, diagnostics within their budget."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from jepa.data import MemoryLoader
from jepa.diagnostics import effective_rank, embedding_std
from jepa.files import read_lines
from jepa.trainer import Callback, JEPATrainer, events, recorder
from jepa.trainer.remote import read_history

MakeTrainer = Callable[..., JEPATrainer]


def test_diagnostics_are_those_of_the_last_batch(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    before: dict[int, Any] = {}

    class Keep(Callback):
        """Embeddings as the weights before each step give them."""

        def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
            if event.step > 1:
                with torch.no_grad():
                    before[event.step] = previous.encoder(trainer.last_batch[0])
            previous.load_state_dict(trainer.model.state_dict())

    import copy

    trainer = make_trainer(callbacks=[Keep()], log_every=1, diagnostics_budget=1.0)
    previous = copy.deepcopy(trainer.model)
    history = trainer.train(loader, max_steps=4)
    for step in (2, 3, 4):
        index = history.steps("embedding_std").index(step)
        assert history["embedding_std"][index] == pytest.approx(float(embedding_std(before[step])), rel=1e-5)
        assert history["effective_rank"][index] == pytest.approx(float(effective_rank(before[step])), rel=1e-5)


def test_diagnostics_stay_within_their_budget(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    never = make_trainer(log_every=1, diagnostics_budget=0.0).train(loader, num_epochs=5)
    assert never.steps("embedding_std") == [1], "the first record always has them"
    always = make_trainer(log_every=1, diagnostics_budget=1.0).train(loader, num_epochs=5)
    assert len(always["embedding_std"]) > 25


def test_a_cold_first_measurement_does_not_use_up_the_budget(
    make_trainer: MakeTrainer, loader: MemoryLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    spread, clock, calls = recorder._spread, itertools.count(step=0.001), []

    def cold_at_first(embedding: Any) -> dict[str, float]:
        calls.append(embedding)
        if len(calls) == 1:
            for _ in range(10_000):  # 10 seconds
                next(clock)
        return spread(embedding)

    monkeypatch.setattr(recorder, "_spread", cold_at_first)
    times = {"perf_counter": lambda: next(clock), "monotonic": time.monotonic, "time": time.time}
    monkeypatch.setattr(recorder, "time", SimpleNamespace(**times))
    history = make_trainer(log_every=1, diagnostics_budget=0.9).train(loader, num_epochs=5)
    assert len(history["embedding_std"]) > 20


def test_a_smaller_last_batch_is_not_taken_for_a_collapse(make_trainer: MakeTrainer, pairs: Any) -> None:
    history = make_trainer(log_every=1, diagnostics_budget=1.0).train(MemoryLoader(*pairs, batch_size=46), num_epochs=3)
    assert history.steps("loss") == [1, 2, 3, 4, 5, 6]
    assert history.steps("effective_rank") == [1, 3, 5]


def test_speed_leaves_pauses_out(
    make_trainer: MakeTrainer, loader: MemoryLoader, make_gate: Any, wait_until: Callable[..., None]
) -> None:
    trainer = make_trainer(log_every=10)
    run = trainer.start(loader, max_steps=10**6, wait=False)
    wait_until(lambda: trainer.status().steps_per_second > 0)
    run.pause().result(30)
    run.step(20 - trainer.step % 10).result(30)  # to a record
    wait_until(lambda: run.state == "paused")
    paused, step = time.monotonic(), trainer.step
    wait_until(lambda: time.monotonic() > paused + 1.0)
    resumed = time.monotonic()
    run.step(40).result(30)
    wait_until(lambda: run.state == "paused")
    assert trainer.step == step + 40
    seconds = sum(10 / speed for speed in trainer.history["steps_per_second"][-4:])
    assert seconds < time.monotonic() - resumed + 0.5, "the pause of a second was counted"


def test_records_reach_history_file_and_sinks_alike(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    trainer = make_trainer(run="alike", log_every=5)
    logged: list[events.MetricsLogged] = []
    trainer.subscribe(lambda event: logged.append(event) if isinstance(event, events.MetricsLogged) else None)
    history = trainer.train(loader, num_epochs=2)
    lines = [line for line in read_lines(trainer.run.metrics_path) if "loss" in line]  # type: ignore[union-attr]
    assert [event.step for event in logged] == [1, 5, 10, 12]
    for event, line in zip(logged, lines, strict=True):
        assert {**event.metrics, "step": event.step} == {
            name: value for name, value in line.items() if name not in ("segment", "epoch", "time")
        }
        assert event.segment == 0
    assert [event.metrics["loss"] for event in logged] == history["loss"]


def test_the_loss_is_read_from_the_device_only_at_the_interval(
    make_trainer: MakeTrainer, loader: MemoryLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    original = torch.Tensor.tolist
    trainer = make_trainer(log_every=6)

    def counted(tensor: torch.Tensor) -> Any:
        reads.append(trainer.step)
        return original(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", counted)
    trainer.train(loader, max_steps=18)
    assert set(reads) <= {0, 1, 6, 12, 18}


def test_epoch_and_time_of_every_record_outlive_the_process(
    make_trainer: MakeTrainer, make_model: Any, loader: MemoryLoader
) -> None:
    make_trainer(run="part", log_every=2).train(loader, num_epochs=2)
    part = make_trainer(make_model(seed=1), run="part", log_every=2)
    part.train(loader, num_epochs=4)
    assert part.run is not None
    told = {record["step"]: record for record in reversed(read_lines(part.run.metrics_path))}
    moments = part.history.moments()
    assert [moment.step for moment in moments] == [1, *range(2, 25, 2)]
    assert moments == [(step, told[step]["epoch"], told[step]["time"]) for step in sorted(told)]
    assert [moment.epoch for moment in moments] == [0] * 4 + [1] * 3 + [2] * 3 + [3] * 3
    assert read_history(part.run.path).moments() == moments
