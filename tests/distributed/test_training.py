"""Two ranks train as one process would, steered from rank 0, and end together."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from jepa.files import read_lines
from jepa.trainer.checkpoint import read_checkpoint

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(400)]
RankScript = Callable[[str], Path]
RunDistributed = Callable[..., "subprocess.CompletedProcess[str]"]


def load_small() -> Any:
    """The module that the ranks' scripts begin with."""
    spec = importlib.util.spec_from_file_location("small", Path(__file__).with_name("small.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def heard(folder: Path, name: str) -> tuple[Any, Any]:
    """What both ranks said."""
    first, second = (json.loads((folder / f"{name}-{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1))
    return first, second


PARITY = """
import warnings
from jepa.data import MemoryLoader
from jepa.trainer import JEPATrainer, RunConflictError, RunFolder
from jepa.trainer.ranks import on_rank_zero

import torch
for objective in OBJECTIVES:
    for dtype in (torch.float32, torch.float64):
        say(f"{objective}-{dtype}", parity(objective, dtype, 4))

# What each rank sees, logs and writes.
seen, logged, saved = [], [], []
class Watch(Callback):
    def on_step_ended(self, trainer, event):
        seen.append(trainer.last_batch[0].tolist())
    def on_checkpoint_saved(self, trainer, event):
        saved.append([str(event.path), trainer.run.is_open])
one = trainer(run="shared", logger=["jsonl", logged.append], callbacks=[Watch()])
one.train(MemoryLoader(*arrays("state_pair"), batch_size=4), num_epochs=2)
direct, net = [], model("state_pair")
other = JEPATrainer(net, torch.optim.SGD(net.parameters(), lr=0.1), None, direct.append)
other.train(MemoryLoader(*arrays("state_pair"), batch_size=4), num_epochs=1)

# An error of rank 0 is everybody's.
errors = []
for attempt in (
    lambda: on_rank_zero(lambda: 1 / 0),
    lambda: trainer(run="shared", learning_rate=0.5).train(MemoryLoader(*arrays("state_pair")), num_epochs=9),
    lambda: trainer(world_size=3),
    lambda: trainer().train([arrays("state_pair")], num_epochs=1),
):
    try:
        attempt()
    except Exception as error:
        errors.append(f"{type(error).__name__}: {error}")
say("watch", {
    "seen": seen, "events": len(logged), "direct": len(direct), "saved": saved, "errors": errors,
    "history": one.history["loss"], "step": one.step, "direct_step": other.step,
})
"""


def test_two_ranks_train_like_one_with_twice_the_batch(
    run_distributed: RunDistributed, rank_script: RankScript, tmp_path: Path
) -> None:
    run_distributed(rank_script(PARITY))
    small = load_small()
    for objective in small.OBJECTIVES:
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-9)):
            alone = small.parity(objective, dtype, 8)
            for rank in heard(tmp_path, f"{objective}-{dtype}"):
                for name, values in alone.items():
                    assert len(values) == len(rank[name])
                    worst = max(abs(a - b) for a, b in zip(values, rank[name], strict=True))
                    assert worst < tolerance * (100 if name in ("weights", "grad_norm") else 1), (
                        objective,
                        dtype,
                        name,
                    )
            assert len(alone["loss"]) == 40

    first, second = heard(tmp_path, "watch")
    data = small.arrays("state_pair")[0]
    for epoch in (slice(0, 6), slice(6, 12)):
        mine, theirs = (torch.tensor(rank["seen"][epoch]).flatten(0, 1) for rank in (first, second))
        together = torch.cat([mine, theirs])
        assert torch.equal(together.sort(dim=0).values, data.sort(dim=0).values), "the samples are shared out"
    assert first["step"] == second["step"] == 12
    assert first["history"] == second["history"], "losses are averaged"
    assert first["events"] > 10
    assert second["events"] == 0, "only rank 0 logs"
    assert first["direct"] > 5
    assert second["direct"] == 0, "only rank 0 logs to a logger of one's own"
    assert first["direct_step"] == second["direct_step"] == 6
    assert [path for path, _ in first["saved"]] == [path for path, _ in second["saved"]]
    assert all(is_open for _, is_open in first["saved"])
    assert not any(is_open for _, is_open in second["saved"]), "only rank 0 writes"
    folder = tmp_path / "runs" / "shared"
    assert [line["step"] for line in read_lines(folder / "logs" / "metrics.jsonl")] == list(range(1, 13))
    assert len([line for line in read_lines(folder / "journal.jsonl") if line["event"] == "RunStarted"]) == 1
    assert [path.name for path in (folder / "checkpoints").glob("step-*")] != []
    assert first["errors"] == second["errors"]
    zero, conflict, size, unshared = first["errors"]
    assert zero == "ZeroDivisionError: division by zero"
    assert "training.learning_rate: was 0.001, now 0.5" in conflict
    assert "world_size=3 was asked for, but 2 processes were started" in size
    assert "this loader would give every process the same data" in unshared


STEERED = """
import time
from jepa.data import MemoryLoader
from jepa.trainer import events

applied = []
class Watch(Callback):
    def on_command_applied(self, trainer, event):
        applied.append([event.command["type"], event.step, event.error])

one = trainer(run="steered", callbacks=[Watch()], val_loader=MemoryLoader(*arrays("state_pair"), batch_size=4))
run = one.start(MemoryLoader(*arrays("state_pair"), batch_size=4), max_steps=10**6, wait=False)
import torch.distributed as dist

def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)

refused = None
if dist.get_rank() == 1:
    try:
        run.set("learning_rate", 7.0).result(60)
    except RuntimeError as error:
        refused = str(error)
held = stepped = resumed = None
if dist.get_rank() == 0:
    until(lambda: one.step > 5)
    run.pause().result(60)
    held = one.step
    run.set("learning_rate", 0.125, "hold").result(60)
    evaluation = run.evaluate()
    evaluation.result(60)
    run.inspect().result(60)
    try:
        run.set("learning_rate", -1.0).result(60)
    except ValueError as error:
        refused = str(error)
    time.sleep(0.3)  # paused ranks keep each other alive
    assert one.step == held
    run.step(3).result(60)
    until(lambda: run.state == "paused" and one.step == held + 3)
    stepped = one.step
    run.checkpoint().result(60)
    run.resume().result(60)
    until(lambda: one.step > stepped + 5)
    run.stop()
run.wait(60)
weights = sum(p.double().abs().sum().item() for p in one.objective.state_dict().values())
say("steered", {
    "applied": [entry for entry in applied], "held": held, "stepped": stepped, "refused": refused, "step": one.step,
    "state": one.state, "rates": one.history["learning_rate"], "weights": weights, "val": one.history["val_loss"],
})
"""


def test_commands_of_rank_0_take_effect_at_the_same_step_everywhere(
    run_distributed: RunDistributed, rank_script: RankScript, tmp_path: Path
) -> None:
    run_distributed(rank_script(STEERED))
    first, second = heard(tmp_path, "steered")
    assert [name for name, _, _ in first["applied"]] == [
        "Pause", "Set", "Evaluate", "Inspect", "Set", "Step", "SaveCheckpoint", "Resume", "Stop",
    ]  # fmt: skip
    assert [(name, step) for name, step, _ in first["applied"]] == [(name, step) for name, step, _ in second["applied"]]
    for key in ("step", "state", "rates", "weights", "val"):
        assert first[key] == second[key], key
    assert first["state"] == "stopped"
    assert first["stepped"] == first["held"] + 3
    assert first["rates"][first["held"]] == 0.125
    assert "learning_rate must lie in [0, 1000], got -1" in first["refused"]
    assert "here, but rank 0 asked for Pause()" in second["refused"]
    lines = read_lines(tmp_path / "runs" / "steered" / "journal.jsonl")
    commands = [(line["command"]["type"], line["step"]) for line in lines if line["event"] == "CommandApplied"]
    accepted = [(name, step) for name, step, error in first["applied"] if error is None]
    assert commands == accepted
    path = tmp_path / "runs" / "steered" / "checkpoints" / f"step-{first['step']:08d}.pt"
    assert read_checkpoint(path)["position"]["step"] == first["step"]


ALIKE = """
import torch
from jepa.data import MemoryLoader

loader = MemoryLoader(*arrays("state_pair"), batch_size=4)

# The code of a notebook that steers its run, the same on every rank.
one = trainer(run="alike", val_loader=loader)
run = one.start(loader, max_steps=60, wait=False)
run.pause().result(60)
held = one.step
rate = run.set("learning_rate", 0.25, "hold").result(60)["new"]
seen = run.inspect()
seen.result(60)
val = one.evaluate()
path = one.save_checkpoint("alike.pt")
run.step(2).result(60)
run.resume()
history = run.wait(60)
say("alike", {"held": held, "rate": rate, "inspected": seen.value.step, "val": val, "end": one.step,
              "rates": history["learning_rate"][held:], "path": path.name})

# Dropout of a user's module draws from the process-wide generator, another one on each rank.
class StopAtEight(Callback):
    def on_step_ended(self, trainer, event):
        if event.step == 8:
            from jepa.trainer.control import Stop
            trainer.submit(Stop())

def noisy(name, *callbacks):
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5))
    from jepa.models import JEPA
    from jepa.trainer import create_trainer
    one = create_trainer(JEPA(encoder, torch.nn.Linear(8, 8)), run=name, device="cpu", log_every=1, progress=False,
                         callbacks=callbacks)
    torch.manual_seed(100 + one.rank)
    return one

whole = noisy("whole")
whole.train(loader, num_epochs=3)
noisy("part", StopAtEight()).train(loader, num_epochs=3)
part = noisy("part")
torch.manual_seed(0)
part.train(loader, num_epochs=3)
say("noisy", {"whole": whole.history["loss"][-6:], "part": part.history["loss"][-6:]})
"""


def test_the_same_steering_code_runs_on_every_rank_and_randomness_is_each_ranks_own(
    run_distributed: RunDistributed, rank_script: RankScript, tmp_path: Path
) -> None:
    run_distributed(rank_script(ALIKE))
    first, second = heard(tmp_path, "alike")
    for key in ("rate", "inspected", "val", "end", "path"):
        assert first[key] == second[key], key
    assert first["rate"] == 0.25
    assert set(first["rates"]) == {0.25}
    assert first["end"] == 60
    lines = read_lines(tmp_path / "runs" / "alike" / "journal.jsonl")
    names = [line["command"]["type"] for line in lines if line["event"] == "CommandApplied"]
    assert names == ["Pause", "Set", "Inspect", "Evaluate", "SaveCheckpoint", "Step", "Resume"]
    for said in heard(tmp_path, "noisy"):
        assert said["part"] == said["whole"]


ENDING = """
import signal
from jepa.data import MemoryLoader

what, victim, at, name = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
from jepa import distributed

class Trouble(Callback):
    def on_step_ended(self, trainer, event):
        if event.step == at and distributed.rank() == victim:
            if what == "term":
                os.kill(os.getpid(), signal.SIGTERM)
            elif what == "raise":
                raise RuntimeError("one rank broke")
    def on_run_ended(self, trainer, event):
        say("ended", {"step": event.step, "state": event.state})
    def on_run_failed(self, trainer, event):
        say("failed", {"step": event.step, "error": str(event.error)[:200]})

one = trainer(run=name, callbacks=[Trouble()], checkpoint_every=100, log_every=4, accumulate=2)
one.train(MemoryLoader(*arrays("state_pair"), batch_size=2), num_epochs=3)
if distributed.rank() == 0:
    one.save_checkpoint(name + "-end.pt")
"""


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the uninterrupted run is kept for all tests of this file."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def whole(run_distributed: RunDistributed, rank_script: RankScript, shared_folder: Path) -> dict[str, Any]:
    """Two ranks without trouble."""
    path = shared_folder / "whole-end.pt"
    if not path.exists():
        run_distributed(rank_script(ENDING), "none", "0", "0", "whole", cwd=shared_folder)
    return read_checkpoint(path)


def assert_same_end(path: Path, whole: dict[str, Any]) -> None:
    state = read_checkpoint(path)
    assert state["position"] == whole["position"]
    for name, tensor in whole["objective_state"].items():
        assert torch.equal(tensor, state["objective_state"][name]), name


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.full)])
def test_a_termination_of_one_rank_stops_both_at_the_same_step(
    victim: int, run_distributed: RunDistributed, rank_script: RankScript, tmp_path: Path, whole: dict[str, Any]
) -> None:
    script = rank_script(ENDING)
    done = run_distributed(script, "term", str(victim), "7", "run", check=False)
    assert done.returncode != 0
    first, second = heard(tmp_path, "ended")
    assert first == second
    assert first["state"] == "stopped"
    assert 7 <= first["step"] <= 9
    path = tmp_path / "runs" / "run" / "checkpoints" / f"step-{first['step']:08d}.pt"
    assert read_checkpoint(path)["position"]["step"] == first["step"]
    assert "exitcode  : 143" in done.stderr or "exitcode: 143" in done.stderr.replace(" ", "").replace(":", ": ")
    run_distributed(script, "none", "0", "0", "run")
    assert_same_end(tmp_path / "run-end.pt", whole)


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.full), 1])
def test_an_error_on_one_rank_leaves_no_rank_hanging(
    victim: int, run_distributed: RunDistributed, rank_script: RankScript, tmp_path: Path, whole: dict[str, Any]
) -> None:
    script = rank_script(ENDING)
    start = time.monotonic()
    done = run_distributed(script, "raise", str(victim), "7", "run", check=False, timeout=90)
    assert time.monotonic() - start < 60
    assert done.returncode != 0
    assert "one rank broke" in done.stderr
    failed = json.loads((tmp_path / f"failed-{victim}.json").read_text(encoding="utf-8"))
    assert failed == {"step": 7, "error": "one rank broke"}
    if victim == 0:
        assert (tmp_path / "runs" / "run" / "checkpoints" / "step-00000007.pt").is_file()
    run_distributed(script, "none", "0", "0", "run")
    assert_same_end(tmp_path / "run-end.pt", whole)
