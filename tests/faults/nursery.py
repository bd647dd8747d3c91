"""A process that has imported everything and brings up one child after another, so that a life costs no start-up.

It reads one order a line from its standard input, `{"path": ..., "delay": seconds or null, "writing": bool}`: train
the run in that folder in a forked child, and kill it after so many seconds (if `writing`, in its next checkpoint).
It answers with one line when that child is gone. It must not have run any operation of torch before it forks.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # the optimizer would, and takes seconds over it
import yaml  # noqa: F401 - the run folder would

from tests.faults import runs

POLL_SECONDS, WRITE_SECONDS = 0.0003, 0.01


def bring_up(path: str, delay: float | None, writing: bool = False) -> dict[str, Any]:
    """One life: how it ended, how long it took, and whether it left a half-written checkpoint."""
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        _live(Path(path))
    gone = status = 0
    while not gone:
        time.sleep(POLL_SECONDS)
        gone, status = os.waitpid(child, os.WNOHANG)
        late = delay is not None and time.monotonic() - start > delay
        if not gone and late and (not writing or _in_a_write(Path(path))):
            os.kill(child, signal.SIGKILL)
            gone, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return {"code": code, "seconds": time.monotonic() - start, "torn": bool(_unfinished(Path(path)))}


def _live(path: Path) -> None:
    code = 1
    try:
        os.dup2(2, 1)  # the answers are the parent's
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "nothing to do")  # killed after its last checkpoint, before it said the end
        runs.train(path)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _in_a_write(path: Path) -> bool:
    """Whether a checkpoint is being written, and still is a moment later: not only at its beginning."""
    if not _unfinished(path):
        return False
    time.sleep(WRITE_SECONDS * random.random())
    return bool(_unfinished(path))


def _unfinished(path: Path) -> list[Path]:
    return list((path / "checkpoints").glob(".*.pt.*.tmp"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    random.seed(0)
    for line in sys.stdin:
        print(json.dumps(bring_up(**json.loads(line))), flush=True)
