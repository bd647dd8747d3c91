"""A run of two ranks that was interrupted goes on: on two ranks to the last bit, on one (and back) to rounding."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from jepa.files import read_lines
from jepa.trainer import RunConflictError
from jepa.trainer.checkpoint import read_checkpoint

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(400)]
RankScript = Callable[[str], Path]
RunDistributed = Callable[..., "subprocess.CompletedProcess[str]"]
TOLERANCES = {"float32": 1e-5, "float64": 1e-9}  # of every loss and weight, as they are or relative to the largest

# What the ranks and the test itself train, after `small.py`: 12 steps of 8 samples in two epochs.
PARTS = """
import signal
import torch
from jepa.data import MemoryLoader
from jepa.trainer.control import Stop

class StopAfter(Callback):
    def __init__(self, step):
        self.step = step
    def on_step_ended(self, trainer, event):
        if event.step == self.step:
            trainer.submit(Stop(), source="callback")

def part(name, objective, dtype, batch_size, stop=0, seed=0):
    one = trainer(objective, getattr(torch, dtype), run=name, callbacks=[StopAfter(stop)], keep_checkpoints=99)
    for parameter in one.objective.parameters():
        parameter.data += seed
    torch.rand(seed)
    one.train(MemoryLoader(*arrays(objective, getattr(torch, dtype)), batch_size=batch_size), num_epochs=2)
    return one
"""
RANKS = """
for objective in OBJECTIVES:
    for dtype in ("float32", "float64"):
        kind = f"{objective}-{dtype}"
        part(f"whole-{kind}", objective, dtype, 4)
        for seed, stop in enumerate((3, 5, 10, 0)):  # a stop takes effect at once or one step later
            part(f"again-{kind}", objective, dtype, 4, stop, seed)
        part(f"two-then-one-{kind}", objective, dtype, 4, 3)
        part(f"one-then-two-{kind}", objective, dtype, 4, seed=1)
"""
KILLED = """
class Kill(Callback):
    def on_step_ended(self, trainer, event):
        if event.step == 9 and trainer.rank == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)

one = trainer(run=f"killed-{sys.argv[1]}", callbacks=[Kill()], keep_checkpoints=99)
one.train(MemoryLoader(*arrays("state_pair"), batch_size=4), num_epochs=2)
"""
AGAIN = """
part("whole", "state_pair", "float32", 4)
for victim in (0, 1):
    part(f"killed-{victim}", "state_pair", "float32", 4, seed=2)
"""


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`small.py` and `PARTS` as a module, in the folder that the ranks train in."""
    path = tmp_path / "parts.py"
    path.write_text(Path(__file__).with_name("small.py").read_text(encoding="utf-8") + PARTS, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("parts", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    return module


def started(name: str) -> list[tuple[int, int]]:
    """The steps at which a run was begun or continued, and on how many ranks."""
    lines = read_lines(Path("runs", name, "journal.jsonl"))
    return [(line["step"], line["world_size"]) for line in lines if line["event"] == "RunStarted"]


def final(name: str) -> Mapping[str, Any]:
    """What a run's last checkpoint holds, without the clock's share."""
    state = read_checkpoint(Path("runs", name, "checkpoints", "step-00000012.pt"))
    timed = {"steps_per_second", "embedding_std", "effective_rank", "times"}
    columns = {
        part: {key: of for key, of in state[part].items() if key not in timed} for part in ("history", "moments")
    }
    return {**state, **columns}


def tensors(state: Any, where: str = "") -> dict[str, Tensor]:
    """Every tensor inside, by its place."""
    if isinstance(state, Tensor):
        return {where: state}
    pairs = state.items() if isinstance(state, Mapping) else enumerate(state) if isinstance(state, list | tuple) else ()
    return {place: one for key, part in pairs for place, one in tensors(part, f"{where}.{key}").items()}


def assert_same_bits(mine: Mapping[str, Any], theirs: Mapping[str, Any], *, records: bool = True) -> None:
    for part in ("objective_state", "optimizer", "random", *(["history"] if records else [])):
        own, other = tensors(mine[part]), tensors(theirs[part])
        assert own.keys() == other.keys()
        assert [name for name in own if not torch.equal(own[name], other[name])] == []
    for part in ("rates", "position", "callbacks"):
        assert mine[part] == theirs[part]


def assert_close(mine: Mapping[str, Any], theirs: Mapping[str, Any], tolerance: float) -> None:
    assert mine["position"] == theirs["position"]
    for part in ("objective_state", "history"):
        own, other = tensors(mine[part]), tensors(theirs[part])
        assert own.keys() == other.keys()
        for name, one in own.items():
            largest = max(float(other[name].double().abs().max()), 1.0)
            assert float((one.double() - other[name].double()).abs().max()) <= tolerance * largest, name


def test_an_interrupted_run_goes_on_on_as_many_or_other_ranks(
    run_distributed: RunDistributed, rank_script: RankScript, parts: Any
) -> None:
    kinds = list(product(parts.OBJECTIVES, TOLERANCES))
    for objective, dtype in kinds:
        assert parts.part(f"one-then-two-{objective}-{dtype}", objective, dtype, 8, 4).step == 4
    run_distributed(rank_script(PARTS + RANKS))
    for objective, dtype in kinds:
        kind = f"{objective}-{dtype}"
        with pytest.raises(RunConflictError, match="global_batch_size"):
            parts.part(f"two-then-one-{kind}", objective, dtype, 4)
        parts.part(f"two-then-one-{kind}", objective, dtype, 8, seed=1)
        assert started(f"two-then-one-{kind}") in ([(0, 2), (3, 1)], [(0, 2), (4, 1)]), "in mid-epoch"
        assert started(f"one-then-two-{kind}") == [(0, 1), (4, 2)]
        for (step, _), stop in zip(started(f"again-{kind}"), (0, 3, 5, 10), strict=True):
            assert step in (stop, stop + 1)
        whole = final(f"whole-{kind}")
        assert_same_bits(final(f"again-{kind}"), whole)
        assert_close(final(f"two-then-one-{kind}"), whole, TOLERANCES[dtype])
        assert_close(final(f"one-then-two-{kind}"), whole, TOLERANCES[dtype])


def test_a_run_whose_rank_was_killed_goes_on_as_if_nothing_had_happened(
    run_distributed: RunDistributed, rank_script: RankScript, parts: Any
) -> None:
    for victim in ("0", "1"):
        done = run_distributed(rank_script(PARTS + KILLED), victim, check=False, timeout=90)
        assert done.returncode != 0
    run_distributed(rank_script(PARTS + AGAIN))
    whole = final("whole")
    assert started("killed-0") == [(0, 2), (6, 2)], "it went on from the end of the epoch"
    assert_same_bits(final("killed-0"), whole)
    assert started("killed-1") == [(0, 2), (9, 2)], "rank 0 saved the last complete step when it found itself alone"
    assert_same_bits(final("killed-1"), whole, records=False)  # the other rank's loss of that step is gone
