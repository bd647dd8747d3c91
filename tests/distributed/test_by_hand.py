"""A model changed by hand in a pause: on every rank alike, or the run does not go on."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from jepa.files import read_lines

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(400)]

CHANGED = """
import time
import jepa
from jepa.trainer import by_hand

by_hand.PATIENCE = 3.0
loader = MemoryLoader(*arrays("state_pair"), batch_size=4)
one = trainer(run="changed")
run = one.start(loader, max_steps=2000, wait=False)
run.pause().result(60)
weight = next(run.model.encoder.parameters())
if distributed.rank() == 1:
    time.sleep(0.5)  # late, but not too late
with torch.no_grad():
    weight.mul_(0.5)
run.resume().result(60)
run.pause().result(60)
refused = ""
with torch.no_grad():
    weight.add_(distributed.rank())
try:
    run.resume().result(60)
except ValueError as error:
    refused = str(error)
state = run.state
with torch.no_grad():
    weight.sub_(distributed.rank())
    weight.fill_(0.25)
run.resume().result(60)
run.stop()
run.wait(60)
again = jepa.replay("runs/changed", loader=loader, trainer=trainer(run="again"))
say("changed", {"refused": refused, "state": state, "step": one.step, "replay": again.difference})
"""


def test_ranks_go_on_once_they_have_made_the_same_change(
    run_distributed: Callable[..., subprocess.CompletedProcess[str]],
    rank_script: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    run_distributed(rank_script(CHANGED))
    first, second = (json.loads((tmp_path / f"changed-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["refused"].startswith("the processes changed the model differently while the run was paused")
    assert (first["state"], first["replay"]) == ("paused", 0.0)
    lines = read_lines(tmp_path / "runs" / "changed" / "journal.jsonl")
    assert [line["count"] for line in lines if line["event"] == "EditedByHand"] == [1, 1]
