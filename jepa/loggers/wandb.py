"""Metrics to Weights & Biases."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from jepa.loggers.base import Logger


class WandbLogger(Logger):
    """Logs to a wandb run, offline unless told otherwise.

    Args:
        project: Name of the project.
        dir: Folder that gets the `wandb` folder.
        mode: `"offline"` writes files for a later `wandb sync`; `"online"` needs an account.
        **options: For `wandb.init`.

    Raises:
        ImportError: wandb is not installed.
    """

    def __init__(
        self,
        project: str = "jepa",
        dir: str | os.PathLike[str] = ".",
        mode: Literal["offline", "online", "disabled"] = "offline",
        **options: Any,
    ) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ImportError("the wandb logger needs: pip install 'jepa-lab[loggers]'") from error
        self._dir = Path(dir)
        options.setdefault("id", secrets.token_hex(4))  # one run, also where training ends and goes on
        if mode == "online":
            options.setdefault("resume", "allow")
        self._open = partial(wandb.init, project=project, dir=os.fspath(dir), mode=mode, **options)
        self._run: Any = None

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics at a step."""
        if self._run is None:
            self._dir.mkdir(parents=True, exist_ok=True)
            self._run = self._open()
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Finish the wandb run."""
        if self._run is not None:
            self._run.finish()
            self._run = None
