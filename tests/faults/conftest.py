"""An undisturbed run to compare with, a nursery of runs to kill, and small disks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults import runs

ROOT = Path(__file__).parents[2]
Life = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the run of `runs.py` comes to when nothing happens to it."""
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    runs.train(path)
    return runs.outcome(runs.last_checkpoint(path))


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    """`life(path, delay=None, writing=False)`: train the run in a child, and kill it after `delay` seconds if given.

    At the end nothing is left of any child, not even a zombie.
    """
    log = tmp_path / "lives.log"
    command = [sys.executable, "-m", "tests.faults.nursery"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (
        log.open("w") as errors,
        subprocess.Popen(command, cwd=ROOT, env=environment, stderr=errors, **pipes) as nursery,
    ):
        assert nursery.stdin is not None
        assert nursery.stdout is not None

        def live(path: Path, delay: float | None = None, *, writing: bool = False) -> dict[str, Any]:
            assert nursery.stdin is not None
            assert nursery.stdout is not None
            print(json.dumps({"path": str(path), "delay": delay, "writing": writing}), file=nursery.stdin, flush=True)
            answer = json.loads(nursery.stdout.readline() or "null")
            assert answer, log.read_text()[-3000:]
            assert answer["code"] in (0, -9), log.read_text()[-3000:]
            return answer

        yield live
        assert psutil.Process(nursery.pid).children(recursive=True) == []
        nursery.stdin.close()
        assert nursery.wait(30) == 0
