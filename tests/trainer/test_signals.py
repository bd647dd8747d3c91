"""Interrupts and kills of real processes: a checkpoint, a sentence, and a rerun that ends where it should."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from jepa.files import read_lines
from jepa.trainer import TrainingInterrupted
from jepa.trainer.checkpoint import read_checkpoint
from jepa.trainer.control import Control, Stop
from jepa.trainer.signals import StopOnSignal

SCRIPT = """
import os, sys, time
import torch
from torch.utils.data import DataLoader, TensorDataset
from jepa.data import MemoryLoader
from jepa.models import JEPA, Encoder, Predictor
from jepa.trainer import Callback, create_trainer
from jepa.trainer.utils import setup_reproducibility

name, seconds, workers = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
setup_reproducibility(0)

class Slow(Callback):
    def on_step_ended(self, trainer, event):
        time.sleep(seconds)
        print(event.step, flush=True)

model = JEPA(Encoder(8, 4, depth=1), Predictor(8, depth=1))
states = torch.randn(48, 4, generator=torch.Generator().manual_seed(7))
pairs = states, states.roll(1, 1)
if workers:
    loader = DataLoader(TensorDataset(*pairs), batch_size=8, shuffle=True, num_workers=workers)
else:
    loader = MemoryLoader(*pairs, batch_size=8)
trainer = create_trainer(model, run=name, callbacks=[Slow()], log_every=4, device="cpu", checkpoint_every=2)
trainer.train(loader, num_epochs=10)
trainer.save_checkpoint(name + "-end.pt")
print("trained", flush=True)
"""


def start(folder: Path, name: str, seconds: float = 0.0, workers: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-u", "-c", SCRIPT, name, str(seconds), str(workers)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def interrupt(
    folder: Path, name: str, at: int, number: int, *, workers: int = 0, delay: float = 0.0
) -> tuple[int, str]:
    """Send a signal after a step (and a moment), and wait for the end: exit code and standard error."""
    with start(folder, name, 0.01, workers) as process:
        family = []
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.strip() == str(at):
                    break
            family = psutil.Process(process.pid).children(recursive=True)
            time.sleep(delay)  # a random moment, not a synchronisation
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
        finally:
            for one in [process, *family] if process.poll() is None else []:
                one.kill()
    return process.returncode, errors


def finish(folder: Path, name: str, workers: int = 0) -> dict[str, Any]:
    """Run to the end: what the last checkpoint holds."""
    with start(folder, name, workers=workers) as process:
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert output.endswith("trained\n")
    return read_checkpoint(folder / f"{name}-end.pt")


def assert_same_weights(mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    for key in ("objective_state", "position"):
        assert mine[key].keys() == theirs[key].keys()
        for name, value in mine[key].items():
            same = (
                torch.equal(value, theirs[key][name]) if isinstance(value, torch.Tensor) else value == theirs[key][name]
            )
            assert same, name
    for number, moments in mine["optimizer"]["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, theirs["optimizer"]["state"][number][name]), (number, name)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same run without any signal."""
    return finish(tmp_path_factory.mktemp("whole"), "whole")


@pytest.mark.slow
def test_an_interrupt_ends_at_a_step_boundary_and_the_same_script_goes_on(
    tmp_path: Path, uninterrupted: dict[str, Any]
) -> None:
    code, errors = interrupt(tmp_path, "run", 9, signal.SIGINT)
    assert code not in (0, None)
    last = errors.strip().splitlines()[-1]
    assert "training stopped cleanly at step" in last
    assert "the same call goes on from there" in last
    lines = read_lines(tmp_path / "runs" / "run" / "journal.jsonl")
    (command,) = [line for line in lines if line["event"] == "CommandApplied"]
    assert (command["command"], command["source"]) == ({"type": "Stop"}, "signal")
    step = command["step"]
    assert 9 <= step < 60
    path = tmp_path / "runs" / "run" / "checkpoints" / f"step-{step:08d}.pt"
    assert f"step {step} of 60 (checkpoint: {path})" in last
    assert read_checkpoint(path)["position"]["step"] == step
    assert json.loads((tmp_path / "runs" / "run" / "status.json").read_text())["state"] == "stopped"
    assert_same_weights(finish(tmp_path, "run"), uninterrupted)


@pytest.mark.slow
def test_a_termination_ends_with_its_exit_code_and_a_checkpoint(tmp_path: Path, uninterrupted: dict[str, Any]) -> None:
    code, errors = interrupt(tmp_path, "run", 7, signal.SIGTERM, workers=2)
    assert code == 143, errors
    files = sorted((tmp_path / "runs" / "run" / "checkpoints").glob("step-*.pt"))
    position = read_checkpoint(files[-1])["position"]
    assert position["step"] >= 7
    assert_same_weights(finish(tmp_path, "run"), uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.full), pytest.param(2, marks=pytest.mark.full)])
def test_a_kill_loses_no_more_than_since_the_last_checkpoint(
    seed: int, tmp_path: Path, uninterrupted: dict[str, Any]
) -> None:
    chance, workers = random.Random(seed), 2 * (seed == 2)
    step = 0
    for _ in range(2 - seed // 2):
        at = step + chance.randint(1, 13)
        code, _ = interrupt(tmp_path, "run", at, signal.SIGKILL, delay=0.02 * chance.random(), workers=workers)
        assert code == -signal.SIGKILL
        lines = read_lines(tmp_path / "runs" / "run" / "journal.jsonl")
        saved = [line for line in lines if line["event"] == "CheckpointSaved"]
        step = saved[-1]["step"] if saved else 0
        assert step >= at - 12 - 1, "a checkpoint is written every second epoch"
    state = finish(tmp_path, "run", workers)
    started = [
        line["step"]
        for line in read_lines(tmp_path / "runs" / "run" / "journal.jsonl")
        if line["event"] == "RunStarted"
    ]
    assert started[-1] >= step
    assert_same_weights(state, uninterrupted)


def test_a_second_interrupt_interrupts_at_once() -> None:
    control = Control()
    with StopOnSignal(control) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert [(t.command, t.source) for t in control.drain()] == [(Stop(), "signal")]
        assert stop.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_put_back_after_an_error_too() -> None:
    def handlers() -> tuple[object, object]:
        return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def fail() -> None:
        with StopOnSignal(Control()):
            inside.append(handlers())
            raise ZeroDivisionError

    before, inside = handlers(), []
    with pytest.raises(ZeroDivisionError):
        fail()
    assert handlers() == before
    assert all(mine != theirs for mine, theirs in zip(inside[0], before, strict=True))


def test_other_threads_leave_signals_alone() -> None:
    seen: list[object] = []

    def enter() -> None:
        with StopOnSignal(Control()):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    before = signal.getsignal(signal.SIGINT)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, TrainingInterrupted), (signal.SIGTERM, SystemExit), (None, None)]
)
def test_after_a_clean_end_the_signal_is_raised(number: int | None, raised: type[BaseException] | None) -> None:
    with StopOnSignal(Control()) as stop:
        if number is not None:
            os.kill(os.getpid(), number)
    if raised is None:
        stop.reraise("nothing happened")
        return
    with pytest.raises(raised, match="143" if raised is SystemExit else "go on like this"):
        stop.reraise("go on like this")


def test_an_interrupted_call_goes_on_when_it_is_made_again(make_trainer: Callable[..., Any], loader: Any) -> None:
    from jepa.trainer import Callback

    class Interrupt(Callback):
        def on_step_ended(self, trainer: Any, event: Any) -> None:
            if event.step == 8:
                os.kill(os.getpid(), signal.SIGINT)

    trainer = make_trainer(run="again", callbacks=[Interrupt()])
    with pytest.raises(
        TrainingInterrupted, match=r"stopped cleanly at step 8 of 12 \(checkpoint: .*step-00000008.pt\)"
    ):
        trainer.train(loader, num_epochs=2)
    assert (trainer.state, trainer.step) == ("stopped", 8)
    trainer.train(loader, num_epochs=2)
    assert (trainer.state, trainer.step) == ("finished", 12)
    assert isinstance(TrainingInterrupted("x"), KeyboardInterrupt)
