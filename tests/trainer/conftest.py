"""Small models, data and trainers, and runs that never outlive their test."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from jepa.data.memory import MemoryLoader
from jepa.models import JEPA, Encoder, ImageTokenizer, Predictor
from jepa.models.predictor import MaskedPredictor
from jepa.trainer import Callback, JEPATrainer, RunHandle, create_trainer, events, saver
from jepa.trainer.checkpoint import write_staged
from jepa.trainer.live import LIVE_TRAINERS

MakeModel = Callable[..., JEPA]
MakeTrainer = Callable[..., JEPATrainer]


@pytest.fixture
def make_model() -> MakeModel:
    """`make_model(objective="state_pair", seed=0, hidden_dim=8)`: the same weights for the same seed."""

    def make(objective: str = "state_pair", *, seed: int = 0, hidden_dim: int = 8, **options: Any) -> JEPA:
        torch.manual_seed(seed)
        if objective == "ijepa":
            tokenizer = ImageTokenizer(8, 2)
            encoder = Encoder(hidden_dim, depth=1, tokenizer=tokenizer)
            return JEPA(encoder, MaskedPredictor(hidden_dim, tokenizer.grid, depth=1), **options)
        return JEPA(Encoder(hidden_dim, 4, depth=1), Predictor(hidden_dim, depth=1), **options)

    return make


@pytest.fixture
def pairs() -> tuple[Tensor, Tensor]:
    """48 states of width 4 and their successors."""
    generator = torch.Generator().manual_seed(7)
    states = torch.randn(48, 4, generator=generator)
    return states, states.roll(1, dims=1) + 0.1 * torch.randn(48, 4, generator=generator)


@pytest.fixture
def images() -> Tensor:
    """48 byte images of 8 x 8."""
    return torch.randint(0, 256, (48, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))


@pytest.fixture
def loader(pairs: tuple[Tensor, Tensor]) -> MemoryLoader:
    """Six batches of 8 an epoch."""
    return MemoryLoader(*pairs, batch_size=8)


@pytest.fixture
def make_trainer(make_model: MakeModel, tmp_path: Path) -> Iterator[MakeTrainer]:
    """`make_trainer(model=None, run=False, **options)`; whatever still trains when the test ends is stopped."""

    def make(model: Any = None, *, run: Any = False, **options: Any) -> JEPATrainer:
        model = make_model(options.get("objective", "state_pair")) if model is None else model
        silent = {"live_plot": False, "control_panel": False, "progress": False, "device": "cpu"}
        return create_trainer(model, run=run, runs_dir=tmp_path / "runs", **{**silent, **options})

    yield make
    for trainer in list(LIVE_TRAINERS):
        RunHandle(trainer).stop()
        assert trainer.ended.wait(30)


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint takes longer than the few steps that these tests train after it."""

    def write_slowly(state: Mapping[str, Any], path: Path) -> None:
        time.sleep(0.2)
        write_staged(state, path)

    monkeypatch.setattr(saver, "write_staged", write_slowly)


class Gate(Callback):
    """Holds the training thread right after step `at`, until it is opened."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.reached = threading.Event()
        self.opened = threading.Event()

    def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
        """Wait at the step."""
        if event.step == self.at:
            self.reached.set()
            assert self.opened.wait(30)


@pytest.fixture
def make_gate() -> Iterator[Callable[[int], Gate]]:
    """`make_gate(step)`: a callback that holds the run after that step; wait for `reached`, then set `opened`."""
    gates: list[Gate] = []

    def make(at: int) -> Gate:
        gates.append(Gate(at))
        return gates[-1]

    yield make
    for gate in gates:
        gate.opened.set()


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """`wait_until(condition)`: fails unless it becomes true in time."""

    def wait(condition: Callable[[], object], timeout: float = 30.0) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"not true within {timeout} s"
            time.sleep(0.002)

    return wait
