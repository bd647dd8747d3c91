"""What a checkpoint costs the training: how long the loop stands still, and how much longer the run takes.

One thread for training, one core free for the writer. Everything is compared inside one run: the stall with a plain
`torch.save` and with a copy of the same state, steps that have a checkpoint among them with as many that have none.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from jepa import JEPA, JEPATrainer, create_trainer
from jepa.data import MemoryLoader
from jepa.trainer import Callback, events
from jepa.trainer.checkpoint import random_state
from jepa.trainer.checkpoint.archive import tensors_of
from jepa.trainer.snapshot import take_snapshot

Report = Callable[[str, str, list[str], list[list[str]]], None]
WIDTH, SAVES, STEPS, TURNS = 1024, 5, 15, 3


def make_trainer(folder: Path, *callbacks: Callback) -> tuple[JEPATrainer, MemoryLoader]:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(64, WIDTH), *(nn.Linear(WIDTH, WIDTH) for _ in range(8)))
    model = JEPA(encoder, nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(8))))
    options: dict[str, Any] = {"live_plot": False, "control_panel": False, "progress": False, "device": "cpu"}
    trainer = create_trainer(model, run=folder, callbacks=callbacks, log_every=10, checkpoint_every=10**6, **options)
    return trainer, MemoryLoader(torch.randn(256, 64), torch.randn(256, 64), batch_size=64)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class MeasureStalls(Callback):
    """After some steps: the stall of a checkpoint, a plain `torch.save`, and a copy, of the same state."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.rounds: list[tuple[float, float, float]] = []
        self.megabytes = 0.0

    def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
        if event.step % 4:
            return
        trainer.saver.settle()
        stall = seconds(trainer.saver.save)
        trainer.saver.settle()
        state = take_snapshot(trainer, [random_state()])
        plain = seconds(lambda: torch.save(state, self.scratch))
        sources = list(tensors_of(state))
        buffers = [torch.empty_like(source) for source in sources]
        copy = [seconds(lambda: [b.copy_(s) for b, s in zip(buffers, sources, strict=True)]) for _ in range(2)][1]
        self.megabytes = sum(source.nbytes for source in sources) / 1e6
        self.rounds.append((stall, plain, copy))


@pytest.mark.benchmark
def test_the_loop_stands_still_for_no_more_than_a_copy(tmp_path: Path, report: Report) -> None:
    for attempt in range(3):  # another process may take the second core, on which half of the copy is made
        stalls = MeasureStalls(tmp_path / "plain.pt")
        trainer, loader = make_trainer(tmp_path / f"run-{attempt}", stalls)
        trainer.train(loader, max_steps=4 * (SAVES + 1))
        kept = stalls.rounds[1:]  # the first one allocates
        to_save = statistics.median(stall / plain for stall, plain, _ in kept)
        to_copy = statistics.median(stall / copy for stall, _, copy in kept)
        if to_save <= 0.15 and to_copy <= 1.3:
            break
    stall, plain, copy = (statistics.median(column) * 1e3 for column in zip(*kept, strict=True))
    rows = [
        ["plain torch.save", f"{plain:.0f}", "1.00", f"{plain / copy:.2f}"],
        ["copy of the state", f"{copy:.0f}", f"{copy / plain:.2f}", "1.00"],
        ["the loop stands still", f"{stall:.0f}", f"{to_save:.2f}", f"{to_copy:.2f}"],
        ["... at the first checkpoint", f"{stalls.rounds[0][0] * 1e3:.0f}", "", ""],
    ]
    title = f"A checkpoint of {stalls.megabytes:.0f} MB, one thread: milliseconds, and as a ratio in the same run"
    report("checkpoint_stall", title, ["", "ms", "x torch.save", "x copy"], rows)
    assert to_save <= 0.15
    assert to_copy <= 1.3


class Turns(Callback):
    """Wall time of turns of steps, every other one with a checkpoint in its middle and its writing included."""

    def __init__(self) -> None:
        self.times: dict[bool, list[float]] = {False: [], True: []}
        self._start = 0.0

    def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
        turn, place = divmod(event.step, STEPS)
        saves = turn % 2 == 1
        if place == STEPS // 2 and saves:
            trainer.saver.save()
        if place == STEPS - 1:
            trainer.saver.settle()
            if turn > 1:  # the first checkpoint allocates
                self.times[saves].append(time.perf_counter() - self._start)
        if place == 0:
            self._start = time.perf_counter()


@pytest.mark.benchmark
def test_steps_with_a_checkpoint_among_them_take_hardly_longer(tmp_path: Path, report: Report) -> None:
    ratios: list[float] = []
    for attempt in range(3):  # another process may take the free core
        turns = Turns()
        trainer, loader = make_trainer(tmp_path / f"run-{attempt}", turns)
        trainer.train(loader, max_steps=2 * STEPS * (TURNS + 1))
        pairs = zip(turns.times[True], turns.times[False], strict=False)
        ratios.append(statistics.median(with_one / without for with_one, without in pairs))
        if ratios[-1] <= 1.10:
            break
    mean = statistics.median(turns.times[False]) * 1e3 / STEPS
    rows = [
        [f"{STEPS} steps of {mean:.0f} ms", "1.00"],
        ["with a checkpoint among them, written to the disk", f"{min(ratios):.2f}"],
    ]
    report("checkpoint_steps", "Wall time with and without a checkpoint, one core free", ["", "ratio"], rows)
    assert min(ratios) <= 1.10
