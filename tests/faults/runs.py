"""The run that everything here is done to, and what tells it from an undisturbed one: not a bit.

It has a few MB of state, so that writing a checkpoint takes a while; dropout and a callback that draw from the
process-wide generators; a checkpoint every six steps; and a learning rate that is set by hand on the way.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from jepa.data import MemoryLoader
from jepa.files import read_lines
from jepa.models import JEPA
from jepa.trainer import Callback, JEPATrainer, create_trainer, events
from jepa.trainer.checkpoint import read_checkpoint
from jepa.trainer.control import Set, Stop
from jepa.trainer.utils import setup_reproducibility
from tests.comparison import assert_same

WIDTH, SAMPLES, BATCH = 256, 48, 8
EPOCHS, PER_EPOCH = 20, SAMPLES // BATCH
STEPS = EPOCHS * PER_EPOCH
TIMED = {"steps_per_second", "embedding_std", "effective_rank", "times"}  # columns that depend on the clock
QUIET: dict[str, Any] = {"live_plot": False, "control_panel": False, "progress": False, "device": "cpu"}


class StopAfter(Callback):
    """Asks to stop after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
        if event.step == self.step:
            trainer.submit(Stop())


class Draws(Callback):
    """Draws from each process-wide generator after every step, and keeps the sums in the checkpoints."""

    def __init__(self) -> None:
        self.sums = [0.0, 0.0, 0.0]

    def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
        drawn = (float(torch.rand(())), random.random(), float(np.random.rand()))
        self.sums = [kept + new for kept, new in zip(self.sums, drawn, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums = list(state["sums"])


class Hand(Callback):
    """Sets the learning rate after a step, as a person would: again only if the journal knows nothing of it."""

    def __init__(self, step: int = STEPS // 3) -> None:
        self.step = step

    def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
        if event.step != self.step or trainer.run is None:
            return
        lines = read_lines(trainer.run.journal_path)
        if not any(line.get("command", {}).get("type") == "Set" for line in lines):
            trainer.submit(Set("learning_rate", 3e-4))


def model(seed: int = 0) -> JEPA:
    """The same weights for the same seed, and all process-wide generators with it."""
    setup_reproducibility(seed)
    encoder = nn.Sequential(nn.Linear(16, WIDTH), nn.Dropout(0.1), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH))
    return JEPA(encoder, nn.Linear(WIDTH, WIDTH))


def data() -> MemoryLoader:
    """Six batches an epoch."""
    states = torch.randn(SAMPLES, 16, generator=torch.Generator().manual_seed(7))
    return MemoryLoader(states, states.roll(1, 1), batch_size=BATCH)


def trainer(path: Path, *callbacks: Callback, seed: int = 0, **options: Any) -> JEPATrainer:
    """A trainer whose run folder is `path`."""
    own = (Draws(), Hand(), *callbacks)
    return create_trainer(model(seed), run=path, callbacks=own, **{"log_every": 1, **QUIET, **options})


def train(path: Path, *callbacks: Callback, seed: int = 0, **options: Any) -> JEPATrainer:
    """Begin the run, or go on with it, until its end."""
    one = trainer(path, *callbacks, seed=seed, **options)
    one.train(data(), num_epochs=EPOCHS)
    return one


def last_checkpoint(path: Path) -> Path:
    """Of a run folder."""
    return sorted((path / "checkpoints").glob("step-*.pt"))[-1]


def outcome(checkpoint: Path) -> dict[str, Any]:
    """Everything of a checkpoint that equal runs have in common: all but what depends on the clock."""
    state = read_checkpoint(checkpoint)
    kept = {name: part for name, part in state.items() if name != "journal"}
    kept["callbacks"] = {name: own for name, own in state["callbacks"].items() if name.startswith("Draws")}
    for part in ("history", "moments"):
        kept[part] = {name: column for name, column in state[part].items() if name not in TIMED}
    return kept


def assert_whole(path: Path, undisturbed: dict[str, Any]) -> None:
    """The run in a folder has come to an end that equals the undisturbed one, and left nothing behind."""
    assert_same(outcome(last_checkpoint(path)), undisturbed)
    lines = read_lines(path / "journal.jsonl")
    ticks = [line["tick"] for line in lines]
    assert ticks == sorted(set(ticks)), "each line of the journal has a number of its own"
    assert (lines[-1]["event"], lines[-1]["state"], lines[-1]["step"]) == ("RunEnded", "finished", STEPS)
    assert [file.name for file in path.rglob("*.tmp")] == [], "of a write that was cut off"


def assert_all_recorded(path: Path, undisturbed: dict[str, Any]) -> None:
    """The metrics file has the loss of every step; where a step was repeated, the later record counts."""
    losses = {line["step"]: line["loss"] for line in read_lines(path / "metrics" / "train.jsonl") if "loss" in line}
    column = undisturbed["history"]["loss"]
    assert losses == dict(zip(column["steps"].tolist(), column["values"].tolist(), strict=True))
