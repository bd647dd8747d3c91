"""A run is watched and steered from a terminal, and answers as it would in its own process."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from jepa import JEPA, Encoder, JEPATrainer, Predictor, attach, create_trainer
from jepa.cli.__main__ import main
from jepa.data import MemoryLoader
from jepa.trainer import RemoteRun, events

Captured = pytest.CaptureFixture[str]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JEPATrainer]:
    """A run `near` that goes on until it is stopped."""
    monkeypatch.chdir(tmp_path)
    states = torch.randn(48, 4)
    loader = MemoryLoader(states, states.roll(1, dims=1), batch_size=8)
    model = JEPA(Encoder(8, 4, depth=1), Predictor(8, depth=1))
    silent = {"live_plot": False, "control_panel": False, "progress": False, "device": "cpu"}
    trainer = create_trainer(model, run="near", log_every=1, **silent)
    run = trainer.start(loader, max_steps=10**6, wait=False)
    yield trainer
    if trainer.is_live:
        run.stop()
    run.wait(60)


def test_commands_are_sent_and_their_answers_printed(trainer: JEPATrainer, capsys: Captured) -> None:
    assert main(["attach", "near", "pause"]) == 0
    held = trainer.step
    assert capsys.readouterr().out == f"pause applied at step {held}\n"
    assert main(["attach", "near", "set", "learning_rate", "3e-4", "hold"]) == 0
    assert '"new": 0.0003, "mode": "hold"' in capsys.readouterr().out
    assert trainer.rates.learning_rate(trainer.step) == 3e-4
    assert main(["attach", "near", "checkpoint"]) == 0
    assert main(["attach", "near", "step", "2"]) == 0
    assert main(["attach", "near", "rewind", str(held)]) == 0
    assert main(["attach", "near", "fork", "child"]) == 0
    assert main(["attach", "child", "stop"]) == 0
    assert trainer.ended.wait(60)
    assert trainer.run is not None
    assert (trainer.state, trainer.run.name) == ("stopped", "child")
    capsys.readouterr()
    assert main(["attach", "child"]) == 0
    assert capsys.readouterr().out == f"child: stopped at step {trainer.step} of 1000000\n"


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (["set", "learning_rate", "-1"], "learning_rate must lie in"),
        (["evaluate"], "there is no validation data"),
        (["rewind", "7777777"], "this run has no checkpoint 'step-07777777.pt'"),
        (["fork", "../out"], "a fork is named by a plain name"),
        (["jump"], "the command must be one of pause, resume, step"),
        (["set", "learning_rate"], "set takes NAME VALUE [scale|hold|schedule], got learning_rate"),
        (["pause", "now"], "pause takes nothing more, got now"),
    ],
)
def test_a_refusal_is_told_and_returns_1(
    trainer: JEPATrainer, capsys: Captured, words: list[str], refusal: str
) -> None:
    assert main(["attach", "near", *words]) == 1
    assert f"error: {refusal}" in capsys.readouterr().err
    assert trainer.is_live


def test_following_prints_records_and_ends_with_the_run(trainer: JEPATrainer, capsys: Captured) -> None:
    def stop() -> None:
        wait_until(lambda: any(thread.name == "jepa-follow-near" for thread in threading.enumerate()))
        seen = trainer.step
        wait_until(lambda: attach("near").status().step > seen)  # by then the files hold the records up to there
        main(["attach", "near", "stop"])

    thread = threading.Thread(target=stop)
    thread.start()
    assert main(["attach", "near"]) == 0
    thread.join(60)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("near: running at step ")
    assert any("  loss " in line and "learning_rate" in line for line in lines)
    assert any(line.endswith("Stop of remote applied") for line in lines)
    assert f"near: stopped at step {trainer.step} of 1000000" in lines


def test_an_interrupt_leaves_the_run_alone(
    trainer: JEPATrainer, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscribe = RemoteRun.subscribe

    def interrupt_after(run: RemoteRun, sink: events.Sink) -> None:
        subscribe(run, sink)
        threading.Timer(0.5, signal.raise_signal, [signal.SIGINT]).start()

    monkeypatch.setattr(RemoteRun, "subscribe", interrupt_after)
    assert main(["attach", "near"]) == 130
    assert "run near goes on; to end it: attach near stop" in capsys.readouterr().err
    assert trainer.is_live
