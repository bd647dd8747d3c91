"""A real JupyterLab on loopback and a real page in Chromium, for tests and for screenshots."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
OUTPUT = ".jp-OutputArea-output"


@contextmanager
def jupyterlab(folder: Path, *, dark: bool = False) -> Iterator[str]:
    """Serve `folder`; yields the address with its token. Settings and runtime files are private to this server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    private = folder / ".jupyter-private"
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(private / "config"),
        "JUPYTER_DATA_DIR": str(private / "data"),
        "JUPYTER_RUNTIME_DIR": str(private / "runtime"),
        "IPYTHONDIR": str(private / "ipython"),
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
        f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}", "--LabApp.expose_app_in_browser=True",
        "--JupyterNotebookApp.expose_app_in_browser=True",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    _settle(private / "config", "JupyterLab Dark" if dark else "JupyterLab Light")
    with (private / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait_for(f"http://127.0.0.1:{port}/api?token={token}", server, private / "server.log")
            yield f"http://127.0.0.1:{port}/lab/tree/{{path}}?token={token}"
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait(10)


def _settle(config: Path, theme: str) -> None:
    settings = config / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True, exist_ok=True)
    choices = {"themes": {"theme": theme}, "notification": {"fetchNews": "false"}}
    for name, choice in choices.items():
        (settings / f"{name}.jupyterlab-settings").write_text(json.dumps(choice), encoding="utf-8")


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"JupyterLab ended: {log.read_text(errors='replace')[-2000:]}")
        try:
            urllib.request.urlopen(address, timeout=2).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise TimeoutError("JupyterLab did not answer within 60 s")


@contextmanager
def browser_page(width: int = 1280, height: int = 1000) -> Iterator[Any]:
    """A page in headless Chromium that collects what the console reports as errors in `page.errors`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM_ARGUMENTS)
        try:
            yield collect_errors(browser.new_page(viewport={"width": width, "height": height}))
        finally:
            browser.close()


def collect_errors(page: Any) -> Any:
    """Keep in `page.errors` what a page's console reports as errors."""
    page.errors = []

    def take(message: Any) -> None:
        address = message.location.get("url", "")
        if message.type == "error" and not address.endswith(
            ".woff2"
        ):  # a server of Lab and Notebook mixes up its fonts
            page.errors.append(f"{message.text} ({address})")

    page.on("console", take)
    page.on("pageerror", lambda error: page.errors.append(error.stack or str(error)))
    return page


def open_notebook(page: Any, address: str, name: str) -> None:
    """Open a notebook and wait for its kernel."""
    page.goto(address.format(path=name))
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    wait_for_kernel(page, "idle")


def wait_for_kernel(page: Any, status: str, timeout: float = 120_000) -> None:
    """Wait until the notebook's kernel has a status."""
    page.wait_for_function(
        """status => {
            const panel = window.jupyterapp?.shell?.currentWidget;
            return panel?.sessionContext?.session?.kernel?.status === status;
        }""",
        arg=status,
        timeout=timeout,
    )


def execute(page: Any, command: str) -> None:
    """Run one of JupyterLab's commands, e.g. `notebook:run-all-cells`, without waiting for its result."""
    page.evaluate("command => { window.jupyterapp.commands.execute(command); }", command)
