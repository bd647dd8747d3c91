"""Small notebooks that train, and waiting for what other processes do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

PARAMETERS = """
num_epochs = 2
shape = (16, 3)  # states a batch, numbers a state
slow = ""        # while this file exists, steps take their time
"""
# Four steps an epoch.
TRAIN = """
import time
from pathlib import Path

import torch

from jepa import JEPA, Encoder, Predictor, create_trainer
from jepa.data import make_loader
from jepa.trainer import Callback


class Slow(Callback):
    def on_step_ended(self, trainer, event):
        if slow and Path(slow).exists():
            time.sleep(0.05)


torch.manual_seed(0)
states = torch.randn(64, shape[1])
model = JEPA(Encoder(8, shape[1], depth=1), Predictor(8, depth=1))
trainer = create_trainer(model, log_every=1, progress=False, callbacks=[Slow()])
history = trainer.train(make_loader((states, states.roll(1, 1)), batch_size=shape[0]), num_epochs)
print("trained", trainer.step, "steps on rank", trainer.rank)
"""


@pytest.fixture(scope="session")
def make_notebook() -> Callable[..., Path]:
    """`make_notebook(path, *cells)`: a notebook of a title, the parameters and `cells`, which train by default."""

    def make(path: Path, *cells: str) -> Path:
        first = [new_markdown_cell("# A small run"), new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        cells_after = map(new_code_cell, cells or (TRAIN,))
        nbformat.write(new_notebook(cells=[*first, *cells_after], metadata={"kernelspec": kernel}), path)
        return path

    return make


class Launched:
    """A command line in a process group of its own, whose whole family is ended with the test."""

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        self._output = (folder / "launcher.out").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jepa.cli", "batch", *arguments],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def family(self) -> list[psutil.Process]:
        """The processes it has started, and those that they have."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def wait_for(self, condition: Callable[[], Any], what: str, seconds: float = 60) -> None:
        """Wait until `condition` is true; the test fails if the process ends before, or takes longer."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{what} never came, exit code {self.process.poll()}:\n{self.output()}")
            time.sleep(0.05)

    def output(self) -> str:
        self._output.seek(0)
        return self._output.read()

    def wait(self, seconds: float = 90) -> tuple[int, str]:
        """Exit code and output."""
        return self.process.wait(seconds), self.output()

    def end(self) -> None:
        for process in (*self.family(), self.process):
            try:
                process.kill()
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
        self.process.wait(10)
        self._output.close()


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launched]]:
    """`launch(*arguments)` starts `python -m jepa.cli batch` in the test's folder."""
    started: list[Launched] = []

    def start(*arguments: str | Path) -> Launched:
        started.append(Launched([str(argument) for argument in arguments], tmp_path))
        return started[-1]

    yield start
    for one in started:
        one.end()
