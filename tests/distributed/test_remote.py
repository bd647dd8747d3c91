"""A job of two ranks is steered from a process that is none of them: both do the same before the same step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import jepa
from tests.distributed.test_training import RankScript, RunDistributed, heard

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(400)]
SECONDS = 120

JOB = """
from jepa.data import MemoryLoader

applied = []
class Watch(Callback):
    def on_command_applied(self, trainer, event):
        applied.append([event.command["type"], event.step, event.source, event.error is None])

one = trainer(run="runs/job", callbacks=[Watch()])
one.train(MemoryLoader(*arrays("state_pair"), batch_size=4), max_steps=10**6)
weights = sum(p.double().abs().sum().item() for p in one.objective.state_dict().values())
rates = one.history["learning_rate"]
say("job", {"applied": applied, "step": one.step, "state": one.state, "weights": weights, "rates": rates})
"""


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def steer(folder: Path, held: list[int]) -> None:
    """What somebody does who attaches to it."""
    wait_until(lambda: (folder / "control" / "session.json").exists())
    run = jepa.attach(folder)
    try:
        wait_until(lambda: run.status().step > 3)
        run.pause().result(SECONDS)
        held.append(run.status().step)
        run.set("learning_rate", 0.125, "hold").result(SECONDS)
        with pytest.raises(ValueError, match="learning_rate must lie in"):
            run.set("learning_rate", -1.0).result(SECONDS)
        run.step(3).result(SECONDS)
        wait_until(lambda: run.state == "paused" and run.status().step == held[0] + 3)
        run.resume().result(SECONDS)
        wait_until(lambda: run.status().step > held[0] + 3)
    finally:
        run.stop().result(SECONDS)
    run.wait(SECONDS)


def test_both_ranks_apply_what_another_process_asks_for_at_the_same_step(
    run_distributed: RunDistributed, rank_script: RankScript, tmp_path: Path
) -> None:
    held: list[int] = []
    thread = threading.Thread(target=steer, args=(tmp_path / "runs" / "job", held))
    thread.start()
    run_distributed(rank_script(JOB), timeout=2 * SECONDS)
    thread.join(SECONDS)
    first, second = heard(tmp_path, "job")
    assert first == second
    assert [(kind, source, done) for kind, _, source, done in first["applied"]] == [
        ("Pause", "remote", True),
        ("Set", "remote", True),
        ("Set", "remote", False),
        ("Step", "remote", True),
        ("Resume", "remote", True),
        ("Stop", "remote", True),
    ]
    assert [step for _, step, _, _ in first["applied"][:5]] == [*held * 4, held[0] + 3]
    assert first["rates"][held[0]] == 0.125
    assert first["state"] == "stopped"
