"""Whether somebody is looking: a live front end, a headless notebook kernel, or a plain script."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Literal


def where() -> Literal["frontend", "headless", "script"]:
    """Tell a notebook with a live front end from one that papermill executes, and both from a script.

    Jupyter servers give their kernels `JPY_SESSION_NAME`; a kernel that was started by a program *inside* a
    notebook (`!papermill ...`) only inherits it, which its parent's environment shows. The environment variable
    `JEPA_FRONT_END` (`1` or `0`) overrides the guess.
    """
    shell, override = _shell(), os.environ.get("JEPA_FRONT_END")
    if shell is not None and override in ("0", "1"):  # a notebook needs no kernel where a batch says so
        return "frontend" if override == "1" else "headless"
    if not hasattr(shell, "kernel"):
        return "script"
    live = bool(os.environ.get("JPY_SESSION_NAME")) and not _parent_has("JPY_SESSION_NAME")
    return "frontend" if live else "headless"


def _shell() -> Any:
    """IPython's, if there is one."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None


def _parent_has(name: str) -> bool:
    try:
        environment = Path(f"/proc/{os.getppid()}/environ").read_bytes()
    except OSError:  # no such file outside Linux, or somebody else's process
        return False
    return any(entry.startswith(f"{name}=".encode()) for entry in environment.split(b"\0"))
