"""Small runs with a view, and a shell that keeps what is displayed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from jepa_widgets import RunView, attach
from torch import Tensor
from traitlets.config import Config

from jepa.data.memory import MemoryLoader
from jepa.models import JEPA, Encoder, Predictor
from jepa.trainer import Callback, JEPATrainer, create_trainer, events
from jepa.trainer.control import Stop

MakeTrainer = Callable[..., JEPATrainer]
MakeView = Callable[..., RunView]
WaitUntil = Callable[[Callable[[], Any]], None]


class Gate(Callback):
    """Holds the training thread after a step, as a long step would, until it is opened."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.reached = threading.Event()
        self.open = threading.Event()

    def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
        if event.step == self.step:
            self.reached.set()
            assert self.open.wait(30)


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A callback that holds the training thread after step 3 until `gate.open.set()`."""
    gate = Gate(3)
    yield gate
    gate.open.set()


@pytest.fixture
def wait_until() -> WaitUntil:
    """Wait for a condition; fails after 20 seconds."""

    def wait(condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true within 20 s"
            time.sleep(0.005)

    return wait


@pytest.fixture
def pairs() -> tuple[Tensor, Tensor]:
    """48 states of width 4 and their successors."""
    states = torch.randn(48, 4, generator=torch.Generator().manual_seed(7))
    return states, states.roll(1, dims=1)


@pytest.fixture
def loader(pairs: tuple[Tensor, Tensor]) -> MemoryLoader:
    """Six batches of 8 an epoch."""
    return MemoryLoader(*pairs, batch_size=8)


@pytest.fixture
def make_trainer(tmp_path: Path) -> Iterator[MakeTrainer]:
    """`make_trainer(**options)`: a small trainer in the test's own folder; whatever still trains is stopped."""
    made: list[JEPATrainer] = []

    def make(**options: Any) -> JEPATrainer:
        torch.manual_seed(0)
        model = JEPA(Encoder(8, 4, depth=1), Predictor(8, depth=1))
        made.append(create_trainer(model, runs_dir=tmp_path / "runs", **{"log_every": 1, **options}))
        return made[-1]

    yield make
    for trainer in made:
        trainer.submit(Stop())
        assert trainer.ended.wait(30)


@pytest.fixture
def make_view() -> Iterator[MakeView]:
    """`make_view(trainer)`: panel and curves, closed at the end of the test."""
    made: list[RunView] = []

    def make(trainer: JEPATrainer, **options: Any) -> RunView:
        made.append(attach(trainer, **options))
        trainer.view = made[-1]
        return made[-1]

    yield make
    for view in made:
        view.close()


@pytest.fixture
def displayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What a notebook would be sent: messages with `data`, `transient` and `update`."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    publisher = CapturingDisplayPublisher(parent=shell)
    shell.display_pub = publisher
    yield publisher.outputs
    InteractiveShell.clear_instance()
