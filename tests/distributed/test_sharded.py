"""A model sharded with `fully_shard` trains, is killed, goes on and is read as any other one."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from jepa.data import MemoryLoader
from jepa.models import JEPA, Encoder, Predictor
from jepa.trainer import create_trainer
from jepa.trainer.checkpoint import CheckpointError, CheckpointFolder, read_checkpoint, write_checkpoint
from jepa.trainer.utils import setup_reproducibility

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(400)]
RankScript = Callable[[str], Path]
RunDistributed = Callable[..., "subprocess.CompletedProcess[str]"]

SHARDED = """
import signal
import warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", "FSDP2-wrapped")  # of torch, which cannot see that nothing is changed in place

import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from jepa.trainer.control import Stop

distributed.init(backend="gloo")
me = distributed.rank()
mesh = init_device_mesh("cpu", (dist.get_world_size(),))
QUIET = {"live_plot": False, "control_panel": False, "progress": False, "device": "cpu", "log_every": 1}

def noisy():
    net = model("state_pair")
    return JEPA(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5)), net.predictor)

def shard(net, whole=()):
    for part in (net.encoder, net.predictor):
        for block in getattr(part, "blocks", ()):
            fully_shard(block, mesh=mesh)
        if part not in whole:
            fully_shard(part, mesh=mesh)
    return net

def make(net, name=False, *callbacks, **options):
    one = create_trainer(net, run=name, callbacks=callbacks, **{**QUIET, **options})
    torch.manual_seed(100 + me)  # a user's dropout draws from the process-wide generator, another one on each rank
    return one

def train(one):
    return one.train(MemoryLoader(*arrays("state_pair"), batch_size=4), num_epochs=3)

def weights(one):
    return {name: distributed.whole(value).tolist() for name, value in one.objective.state_dict().items()}

def told(one):
    return {"weights": weights(one), "loss": one.history["loss"], "step": one.step}

class At(Callback):
    def __init__(self, step, act):
        self.at, self.act = step, act
    def on_step_ended(self, trainer, event):
        if event.step == self.at:
            self.act(trainer)

def failure(function):
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
"""

TOGETHER = (
    SHARDED
    + """
import resource

val = MemoryLoader(*arrays("state_pair", count=24), batch_size=4, shuffle=False)
one = make(shard(model("state_pair")), "plain", clip_grad_norm=1.0, val_loader=val)
train(one)
other = make(model("state_pair"), clip_grad_norm=1.0, val_loader=val)
train(other)
more = [each.history["grad_norm"] + each.history["val_loss"] for each in (one, other)]
say("parity", {"sharded": told(one), "plain": told(other), "more": more})

# A checkpoint of an unsharded model, taken up by a sharded one.
other.save_checkpoint("plain.pt")
dist.barrier()
taken = make(shard(model("state_pair", seed=1)))
taken.load_checkpoint("plain.pt")
say("taken", {"taken": weights(taken), "plain": weights(other), "step": taken.step})

half = make(shard(model("state_pair")), "half", At(12, lambda trainer: trainer.submit(Stop())), clip_grad_norm=1.0)
train(half)

whole = make(shard(noisy()), "whole", keep_checkpoints=3)
train(whole)
first = told(whole)
whole.rewind(6)
at = whole.step
train(whole)
say("whole", {"first": first, "again": told(whole), "at": at})

# What does not work says so, on both ranks.
net = model("state_pair")
errors = {"unsharded": failure(lambda: make(shard(net, whole=[net.predictor])))}
errors["late"] = failure(lambda: JEPA(shard(model("state_pair")).encoder, net.predictor))
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
if me == 1:
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))
errors["full"] = failure(lambda: one.save_checkpoint("full.dcp"))
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
if me == 1:
    with torch.no_grad():
        next(one.model.encoder.parameters()).to_local().fill_(float("nan"))
errors["nan"] = failure(lambda: one.save_checkpoint("nan.dcp"))
say("errors", errors)
"""
)

KILLED = (
    SHARDED
    + """
def die(trainer):
    trainer.saver.settle()  # the checkpoint of step 12 is there
    if me == 1:
        os.kill(os.getpid(), signal.SIGKILL)

train(make(shard(noisy()), "part", At(14, die)))
"""
)

RESUMED = (
    SHARDED
    + """
warnings.filterwarnings("ignore", ".*kept aside as", RuntimeWarning)
for name in ("part", "torn"):
    one = make(shard(noisy()), name)
    torch.manual_seed(0)
    seen = []
    one.listeners.subscribe(lambda event: seen.append(event.step) if type(event).__name__ == "RunStarted" else None)
    train(one)
    say(name, {**told(one), "from": seen})
"""
)


def heard(folder: Path, name: str) -> Any:
    """What both ranks said, which is the same."""
    first, second = (json.loads((folder / f"{name}-{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1))
    assert first == second, name
    return first


def assert_close(one: Any, other: Any, tolerance: float) -> None:
    for name, values in one["weights"].items():
        gap = torch.tensor(values, dtype=torch.float64) - torch.tensor(other["weights"][name], dtype=torch.float64)
        assert gap.abs().max() < tolerance, name
    assert torch.allclose(torch.tensor(one["loss"]), torch.tensor(other["loss"]), rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs of this file are."""
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture
def together(run_distributed: RunDistributed, rank_script: RankScript, place: Path) -> Path:
    """Two ranks have trained, with and without trouble."""
    if not (place / "errors-1.json").exists():
        run_distributed(rank_script(TOGETHER), cwd=place)
    return place


def test_a_sharded_model_trains_like_an_unsharded_one(together: Path) -> None:
    said = heard(together, "parity")
    assert said["sharded"]["step"] == said["plain"]["step"] == 18
    assert_close(said["sharded"], said["plain"], 1e-5)
    sharded, plain = (torch.tensor(values) for values in said["more"])
    assert len(sharded) == 18 + 3
    assert torch.allclose(sharded, plain, rtol=0, atol=1e-4)
    target = said["sharded"]["weights"]["model.target.average.embed.weight"]
    assert target != said["sharded"]["weights"]["model.encoder.embed.weight"], "the target is an average"


def test_a_sharded_checkpoint_is_a_folder_that_one_process_reads_whole(together: Path) -> None:
    said = heard(together, "parity")["sharded"]
    folder = CheckpointFolder(together / "runs" / "plain" / "checkpoints")
    names = sorted(path.name for path in folder.path.iterdir())
    assert names == ["best.dcp", "initial.dcp", "step-00000006.dcp", "step-00000012.dcp", "step-00000018.dcp"]
    state = read_checkpoint(folder.find(18))
    assert state["position"]["step"] == said["step"]
    assert {name: tensor.tolist() for name, tensor in state["objective_state"].items()} == said["weights"]
    assert len(state["random"]) == 2
    assert read_checkpoint(folder.initial)["position"]["step"] == 0


def test_a_sharded_run_goes_on_in_one_process(together: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(together)
    setup_reproducibility(3)
    net = JEPA(Encoder(8, 4, depth=1), Predictor(8, depth=1))
    options: dict[str, Any] = {"live_plot": False, "control_panel": False, "progress": False, "device": "cpu"}
    one = create_trainer(net, run="half", log_every=1, clip_grad_norm=1.0, **options)
    generator = torch.Generator().manual_seed(7)
    states = torch.randn(48, 4, generator=generator, dtype=torch.float64).float()
    one.train(MemoryLoader(states, states.roll(1, 1), batch_size=8), num_epochs=3)
    weights = {name: tensor.tolist() for name, tensor in one.objective.state_dict().items()}
    assert_close({"weights": weights, "loss": one.history["loss"]}, heard(together, "parity")["sharded"], 1e-5)
    assert one.last_checkpoint is not None
    assert one.last_checkpoint.name == "step-00000018.pt"
    names = [path.name for path in CheckpointFolder(one.last_checkpoint.parent).files]
    assert names == ["step-00000012.dcp", "step-00000013.dcp", "step-00000018.pt"], "both kinds, by step"


def test_a_sharded_model_takes_up_an_unsharded_checkpoint(together: Path) -> None:
    said = heard(together, "taken")
    assert said["step"] == 18
    assert said["taken"] == said["plain"]


def test_a_sharded_run_goes_back_to_a_checkpoint_and_comes_to_the_same_end(together: Path) -> None:
    said = heard(together, "whole")
    assert said["at"] == 6
    assert said["again"] == said["first"]


def test_what_a_sharded_model_cannot_do_is_said_on_every_rank(together: Path) -> None:
    said = heard(together, "errors")
    assert "call fully_shard on the modules that hold them, too" in said["unsharded"]
    assert "(model.predictor." in said["unsharded"]
    assert "build JEPA(encoder, predictor) first" in said["late"]
    assert said["full"].startswith("OSError: ")
    assert "no checkpoint could be written at step 18" in said["full"]
    assert said["nan"].startswith("NonFiniteLossError: model.encoder.")
    assert not [path for path in together.iterdir() if path.suffix in (".dcp", ".tmp")], "nothing half-written stays"


def test_a_damaged_sharded_checkpoint_is_refused_and_runs_no_code(together: Path, tmp_path: Path) -> None:
    good = CheckpointFolder(together / "runs" / "plain" / "checkpoints").initial

    def copy(name: str) -> Path:
        return Path(shutil.copytree(good, tmp_path / name))

    missing = copy("missing")
    (missing / "__1_0.distcp").unlink()
    with pytest.raises(CheckpointError, match=r"is not complete: it has no file __1_0\.distcp"):
        read_checkpoint(missing)
    changed = copy("changed")
    data = bytearray((changed / "__0_0.distcp").read_bytes())
    data[len(data) // 2] ^= 1
    (changed / "__0_0.distcp").write_bytes(data)
    with pytest.raises(CheckpointError, match="its checksum is wrong"):
        read_checkpoint(changed)
    more = copy("more")
    (more / "__2_0.distcp").write_bytes(b"")
    with pytest.raises(CheckpointError, match="does not belong to the checkpoint"):
        read_checkpoint(more)
    unfinished = copy("unfinished")
    (unfinished / "trainer.pt").unlink()
    with pytest.raises(CheckpointError, match=r"it has no trainer\.pt"):
        read_checkpoint(unfinished)

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    from jepa.trainer.checkpoint.sharded import _checksum

    evil = copy("evil")
    (evil / ".metadata").write_bytes(pickle.dumps(Evil()))
    plain = torch.load(evil / "trainer.pt", weights_only=True)
    plain["files"][".metadata"] = _checksum(evil / ".metadata")
    write_checkpoint(plain, evil / "trainer.pt")
    with pytest.raises(CheckpointError, match="mkdir, which no trainer writes"):
        read_checkpoint(evil)
    assert not (tmp_path / "ran").exists()


def test_a_killed_sharded_run_goes_on_bit_for_bit_also_from_before_a_truncated_shard(
    run_distributed: RunDistributed, rank_script: RankScript, together: Path
) -> None:
    done = run_distributed(rank_script(KILLED), cwd=together, check=False)
    assert done.returncode != 0
    runs = together / "runs"
    kept = [path.name for path in CheckpointFolder(runs / "part" / "checkpoints").files]
    assert kept == ["step-00000006.dcp", "step-00000012.dcp"], done.stderr
    shutil.copytree(runs / "part", runs / "torn")
    os.truncate(runs / "torn" / "checkpoints" / "step-00000012.dcp" / "__1_0.distcp", 100)

    run_distributed(rank_script(RESUMED), cwd=together)
    whole = heard(together, "whole")["first"]
    for name, start in (("part", 12), ("torn", 6)):
        said = heard(together, name)
        assert said.pop("from") == [start], name
        assert said == whole, name
    assert (runs / "torn" / "checkpoints" / "step-00000012.dcp.broken").is_dir()
