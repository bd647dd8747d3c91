"""What every test gets: one thread, known seeds, a private environment, and ranks that are started and ended safely."""

from __future__ import annotations

import os
import platform
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import psutil
import pytest
import torch
from hypothesis import settings

Mount = Callable[..., Path]
TABLES = Path(__file__).parents[1] / "docs" / "tables"

# The same examples every time, and none of them timed: other work may share the machine.
settings.register_profile("jepa", deadline=None, derandomize=True)
settings.load_profile("jepa")

# Set by torchrun and by batches: a test must not take itself for a rank of whatever started it.
INHERITED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "JEPA_RUN")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, with the reason."""
    missing = {}
    if not torch.cuda.is_available():
        missing["gpu"] = "needs a CUDA device"
    if shutil.which("chromium") is None:
        missing["browser"] = "needs chromium on the PATH"
    for item in items:
        for marker in set(missing) & {mark.name for mark in item.iter_markers()}:
            item.add_marker(pytest.mark.skip(reason=missing[marker]))


@pytest.fixture(scope="session", autouse=True)
def _one_thread_outside_torchrun() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for name in INHERITED:
            patch.delenv(name, raising=False)
        patch.setenv("WANDB_MODE", "offline")
        yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _known_seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


Report = Callable[[str, str, list[str], list[list[str]]], None]


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Report:
    """`report(name, title, header, rows)` prints a table; `JEPA_WRITE_TABLES` also writes it for the documentation."""

    def write(name: str, title: str, header: list[str], rows: list[list[str]]) -> None:
        lines = [" | ".join(cells) for cells in (header, ["---"] * len(header), *rows)]
        table = "\n".join(f"| {line} |" for line in lines)
        with capsys.disabled():
            print(f"\n{title}\n{table}")
        if os.environ.get("JEPA_WRITE_TABLES"):
            device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
            TABLES.mkdir(parents=True, exist_ok=True)
            note = f"{title}: torch {torch.__version__}, {device}, {torch.get_num_threads()} thread(s)."
            (TABLES / f"{name}.md").write_text(f"{note}\n\n{table}\n", encoding="utf-8")

    return write


class RunDistributed(Protocol):
    """The type of the `run_distributed` fixture."""

    def __call__(
        self,
        script: str | os.PathLike[str],
        *arguments: str,
        nproc: int = 2,
        timeout: float = 120,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def run_distributed(tmp_path: Path) -> RunDistributed:
    """Run a script (or its source text) on several processes of this machine under torchrun.

    `run_distributed(script, *arguments, nproc=2, timeout=120, env=None, cwd=None, check=True)` returns the completed
    process with its text output. A run that takes longer is ended, all its workers included, and fails the test; so
    does one that returns an error, unless `check=False`. The working folder is the test's own by default.
    """

    def run(
        script: str | os.PathLike[str],
        *arguments: str,
        nproc: int = 2,
        timeout: float = 120,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        if isinstance(script, str) and "\n" in script:
            source, script = script, tmp_path / "ranks.py"
            script.write_text(source, encoding="utf-8")
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={nproc}"]
        command = [*torchrun, str(script), *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
        process = subprocess.Popen(
            command, cwd=cwd or tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            _end_tree(process.pid)
            output, errors = process.communicate()
            pytest.fail(f"not done after {timeout} s: {' '.join(command)}\n{output}\n{errors}")
        except BaseException:
            _end_tree(process.pid)
            process.communicate()
            raise
        if check and process.returncode:
            pytest.fail(f"returned {process.returncode}: {' '.join(command)}\n{output}\n{errors}")
        return subprocess.CompletedProcess(command, process.returncode, output, errors)

    return run


def _end_tree(pid: int) -> None:
    """End a process and its descendants. torchrun's workers lead sessions of their own: its group is not enough."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family[1:], timeout=10)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """`mount("-t", "tmpfs", ...)`: mount something on a new folder, or with `on=` on an existing one, for this test."""
    mounted: list[Path] = []

    def attach(*arguments: str, on: Path | None = None) -> Path:
        if sys.platform != "linux" or os.geteuid() != 0:
            pytest.skip("only root can mount a file system")
        folder = on or tmp_path / f"mount-{len(mounted)}"
        folder.mkdir(exist_ok=True)
        done = subprocess.run(["mount", *arguments, str(folder)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        if "remount" not in ",".join(arguments):
            mounted.append(folder)
        return folder

    yield attach
    for folder in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)
