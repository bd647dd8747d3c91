"""Events: frozen records, in the order things happen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest
import torch

from jepa.data import MemoryLoader
from jepa.trainer import JEPATrainer, events
from jepa.trainer.callback import EVENT_METHODS


def test_every_event_tells_step_and_epoch_and_cannot_be_changed() -> None:
    for kind in EVENT_METHODS.values():
        assert [field.name for field in fields(kind)][:2] == ["step", "epoch"]
    event = events.StateChanged(3, 1, "paused")
    with pytest.raises(FrozenInstanceError):
        event.step = 4  # type: ignore[misc]


def test_a_run_tells_its_story_in_order(
    make_trainer: Callable[..., JEPATrainer], loader: MemoryLoader, pairs: Any
) -> None:
    trainer = make_trainer(run="story", val_loader=MemoryLoader(*pairs, batch_size=16), log_every=3)
    seen: list[events.Event] = []
    trainer.subscribe(seen.append, every_step=True)
    trainer.train(loader, num_epochs=2)
    told = [type(event).__name__ for event in seen]
    assert told.count("CheckpointSaved") == 2
    assert told.index("CheckpointSaved") > told.index("EpochEnded"), "when the file is there, some steps later"
    names = [name for name in told if name != "CheckpointSaved"]
    epoch = ["EpochStarted", "StepEnded", "MetricsLogged", *["StepEnded"] * 2, "MetricsLogged", *["StepEnded"] * 3]
    epoch += ["MetricsLogged", "Evaluated", "EpochEnded"]
    second = ["EpochStarted", *[*["StepEnded"] * 3, "MetricsLogged"] * 2, "Evaluated", "EpochEnded"]
    assert names == ["RunStarted", "StateChanged", *epoch, *second, "StateChanged", "RunEnded"]
    assert [event.step for event in seen if isinstance(event, events.StepEnded)] == list(range(1, 13))
    started, ended = seen[0], seen[-1]
    assert isinstance(started, events.RunStarted)
    assert (started.total_steps, started.run) == (12, trainer.run.path if trainer.run else None)
    assert isinstance(ended, events.RunEnded)
    assert (ended.step, ended.epoch, ended.state) == (12, 2, "finished")
    assert ended.checkpoint == trainer.last_checkpoint
    assert isinstance(ended.checkpoint, Path)
    assert ended.checkpoint.is_file()


def test_step_events_hold_device_scalars_and_go_only_to_those_who_ask(
    make_trainer: Callable[..., JEPATrainer], loader: MemoryLoader
) -> None:
    trainer = make_trainer()
    every: list[events.Event] = []
    coarse: list[events.Event] = []
    trainer.subscribe(every.append, every_step=True)
    trainer.subscribe(coarse.append)
    trainer.train(loader, max_steps=3)
    steps = [event for event in every if isinstance(event, events.StepEnded)]
    assert len(steps) == 3
    assert all(isinstance(step.loss, torch.Tensor) and step.loss.ndim == 0 for step in steps)
    assert set(steps[0].terms) == {"prediction", "variance", "covariance"}
    assert not any(isinstance(event, events.StepEnded) for event in coarse)
    assert len(coarse) == len(every) - 3
    trainer.unsubscribe(every.append)
    before = len(every)
    trainer.train(loader, max_steps=4)
    assert len(every) == before, "bound methods are equal but not identical: both must be dropped"
