"""Going back, branching off and replaying: every rank does the same."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from jepa.files import read_lines
from jepa.trainer.checkpoint import read_checkpoint
from jepa.trainer.journal import Journal

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(400)]

STEERED = """
import jepa
from jepa.data import MemoryLoader
from jepa.trainer.control import Fork, Rewind, Set

class At(Callback):
    def __init__(self, commands):
        self.commands = commands
    def on_step_ended(self, trainer, event):
        for command in self.commands.pop(event.step, ()):
            trainer.submit(command)

loader = MemoryLoader(*arrays("state_pair"), batch_size=4)
said = {}
def tell(name, one):
    weights = sum(p.double().abs().sum().item() for p in one.objective.state_dict().values())
    said[name] = {"weights": weights, "step": one.step, "loss": one.history["loss"], "run": one.run.name}

whole = trainer(run="whole")
whole.train(loader, num_epochs=4)
tell("whole", whole)

detour = {13: [Set("learning_rate", 0.3)], 16: [Rewind("step-00000012.pt")]}
rewound = trainer(run="rewound", callbacks=[At(detour)])
rewound.train(loader, num_epochs=4)
tell("rewound", rewound)

forked = trainer(run="parent", callbacks=[At({13: [Fork("branch"), Set("learning_rate", 0.3, "hold")]})])
forked.train(loader, num_epochs=4)
tell("forked", forked)

earlier = trainer(run="other", callbacks=[At({13: [Fork("twig", "step-00000006.pt")]})])
earlier.train(loader, num_epochs=4)
tell("earlier", earlier)

again = jepa.replay("runs/branch", loader=loader, trainer=trainer(run="again"))
said["replay"] = again.difference
say("steered", said)
"""


def test_ranks_go_back_branch_off_and_replay_together(
    run_distributed: Callable[..., subprocess.CompletedProcess[str]],
    rank_script: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    run_distributed(rank_script(STEERED))
    first, second = (json.loads((tmp_path / f"steered-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["rewound"]["loss"] == first["whole"]["loss"] == first["earlier"]["loss"]
    assert first["rewound"]["weights"] == first["whole"]["weights"] == first["earlier"]["weights"]
    assert first["forked"]["weights"] != first["whole"]["weights"]
    assert (first["forked"]["run"], first["earlier"]["run"]) == ("branch", "twig")
    assert first["replay"] == 0.0
    runs = tmp_path / "runs"
    branched, started = read_lines(runs / "branch" / "journal.jsonl")[:2]
    assert (branched["event"], started["event"], started["world_size"]) == ("Branched", "RunStarted", 2)
    assert len(Journal.read(runs / "rewound" / "journal.jsonl").spans()) == 2
    ends = [read_checkpoint(runs / name / "checkpoints" / "step-00000024.pt") for name in ("whole", "twig")]
    assert all(torch.equal(mine, ends[1]["objective_state"][name]) for name, mine in ends[0]["objective_state"].items())
