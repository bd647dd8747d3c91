"""A pytest plugin with what nbval leaves out; load it with `-p tests.notebook_rules`.

- A kernel that dies fails its cell within a second, not at the cell's time limit.
- After a failed cell the rest of the notebook is skipped: its failures would be consequences.
- Kernels work in a temporary folder, so that the runs of a check do not stay behind.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from queue import Empty
from typing import Any

import nbval.plugin
import pytest
from nbval.kernel import RunningKernel

LOOK_SECONDS = 1.0
_failed: dict[Path, str] = {}


class WatchedKernel(RunningKernel):
    """A kernel in a folder of its own that is seen to die."""

    def __init__(self, kernel_name: str, cwd: str | None = None, startup_timeout: float = 60) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="notebook-", ignore_cleanup_errors=True)
        super().__init__(kernel_name, cwd=self._folder.name, startup_timeout=startup_timeout)

    def await_reply(self, msg_id: str, timeout: float | None = None) -> None:
        """Wait for the reply to a request, looking now and then whether the kernel still lives."""
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        while True:
            try:
                return super().await_reply(msg_id, timeout=LOOK_SECONDS)
            except Empty:
                if not self.is_alive():
                    raise RuntimeError("the kernel died while it executed this cell") from None
                if time.monotonic() > deadline:
                    raise

    def stop(self) -> None:
        """End the kernel and remove its folder."""
        super().stop()
        self._folder.cleanup()


def pytest_configure() -> None:
    """Have nbval start kernels of ours, at a few threads each and silent about frozen modules."""
    nbval.plugin.RunningKernel = WatchedKernel
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what comes after a failed cell."""
    if isinstance(item, nbval.plugin.IPyNbCell) and item.path in _failed:
        pytest.skip(f"{_failed[item.path]} of this notebook failed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Remember the first failed cell of each notebook."""
    report = yield
    if report.failed and isinstance(item, nbval.plugin.IPyNbCell):
        _failed.setdefault(item.path, item.name)
    return report
