"""What `create_trainer` shows in a kernel with a front end and in one without, in real kernels."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import start_new_kernel

pytestmark = pytest.mark.slow

WIDGET = "application/vnd.jupyter.widget-view+json"
SETUP = """
import torch
from jepa import JEPA, Encoder, Predictor, create_trainer
from jepa.data import MemoryLoader
loader = MemoryLoader(torch.randn(16, 4), torch.randn(16, 4), batch_size=8)
def trainer(**options):
    model = JEPA(Encoder(8, 4, depth=1), Predictor(8, depth=1))
    return create_trainer(model, log_every=1, **options)
"""


class Kernel:
    """A kernel that code is run in."""

    def __init__(self, client: BlockingKernelClient) -> None:
        self._client = client

    def run(self, code: str) -> tuple[str, list[dict[str, Any]]]:
        """What the code printed, and what it displayed."""
        text: list[str] = []
        shown: list[dict[str, Any]] = []

        def take(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream" and content["name"] == "stdout":
                text.append(content["text"])
            elif message["msg_type"] in ("display_data", "update_display_data"):
                shown.append(content["data"])

        reply = self._client.execute_interactive(code, output_hook=take, timeout=60)
        assert reply["content"]["status"] == "ok", reply["content"]
        return "".join(text).strip(), shown


@contextmanager
def kernel(folder: Path, **environment: str) -> Iterator[Kernel]:
    own = {key: value for key, value in os.environ.items() if key not in ("JPY_SESSION_NAME", "JEPA_FRONT_END")}
    own.update(OMP_NUM_THREADS="1", IPYTHONDIR=str(folder / "ipython"), PYDEVD_DISABLE_FILE_VALIDATION="1")
    manager, client = start_new_kernel(
        kernel_name="python3", env={**own, **environment}, cwd=str(folder), stderr=subprocess.DEVNULL
    )
    try:
        one = Kernel(client)
        one.run(SETUP)
        yield one
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_without_a_front_end_start_waits_and_ends_with_one_static_figure(tmp_path: Path) -> None:
    with kernel(tmp_path) as one:
        text, shown = one.run("t = trainer(); print(t.view, t.waits_by_default); run = t.start(loader, num_epochs=2)")
        assert text == "None True"
        (figure,) = shown
        assert figure.keys() == {"application/vnd.plotly.v1+json", "image/png", "text/plain"}
        assert len(json.dumps(figure)) < 500_000
        assert one.run("print(run.state, t.step)")[0] == "finished 4"

        silent = "t = trainer(live_plot=False, control_panel=False); t.train(loader, num_epochs=2); print(t.step)"
        assert one.run(silent) == ("4", [])

        asked_for = "t = trainer(live_plot=True); print(t.view.panel, t.view.plot is not None, t.waits_by_default)"
        assert one.run(asked_for)[0] == "None True True"


def test_with_a_front_end_panel_and_curves_appear_and_start_returns_at_once(tmp_path: Path) -> None:
    with kernel(tmp_path, JEPA_FRONT_END="1") as one:
        text, shown = one.run(
            "t = trainer()\n"
            "print(type(t.view).__name__, t.waits_by_default)\n"
            "run = t.start(loader, max_steps=10**7)\n"
            "print(run.state)"
        )
        assert text.split() == ["RunView", "False", "running"]
        assert [WIDGET in data for data in shown[:3]] == [True, False, False]
        assert one.run("run.stop(); h = run.wait(30); print(run.state)")[0] == "stopped"
        assert one.run("print(trainer(live_plot=False, control_panel=False).view)")[0] == "None"
