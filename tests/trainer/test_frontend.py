"""Whether somebody is looking, told in real kernels and in a script."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from jupyter_client.manager import KernelManager

from jepa.trainer.frontend import where

QUESTION = "from jepa.trainer.frontend import where; answer = where()"


def asked(environment: dict[str, str]) -> str:
    """What a real kernel with that environment answers."""
    clean = {name: value for name, value in os.environ.items() if name not in ("JPY_SESSION_NAME", "JEPA_FRONT_END")}
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env={**clean, **environment})
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        reply = client.execute_interactive(QUESTION, user_expressions={"w": "answer"}, timeout=60, store_history=False)
        return str(reply["content"]["user_expressions"]["w"]["data"]["text/plain"]).strip("'")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def test_a_test_run_is_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEPA_FRONT_END", "1")
    assert where() == "script"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("environment", "answer"),
    [
        ({}, "headless"),
        ({"JPY_SESSION_NAME": "lab.ipynb"}, "frontend"),
        ({"JPY_SESSION_NAME": "lab.ipynb", "JEPA_FRONT_END": "0"}, "headless"),
        ({"JEPA_FRONT_END": "1"}, "frontend"),
    ],
)
def test_a_kernel_knows_whether_it_has_a_front_end(environment: dict[str, str], answer: str) -> None:
    assert asked(environment) == answer


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.skipif(sys.platform != "linux", reason="reads the parent's environment from /proc")
def test_a_kernel_that_a_program_in_a_notebook_started_is_headless() -> None:
    program = (
        "import importlib.util, sys; spec = importlib.util.spec_from_file_location('t', sys.argv[1]); "
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module); "
        "print(module.asked({'JPY_SESSION_NAME': 'lab.ipynb'}))"
    )
    environment = {**os.environ, "JPY_SESSION_NAME": "lab.ipynb"}
    done = subprocess.run(
        [sys.executable, "-c", program, __file__], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "headless", done.stderr
