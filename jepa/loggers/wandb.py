"""Metrics to Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Mapping
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
        Path(dir).mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(project=project, dir=os.fspath(dir), mode=mode, **options)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics at a step."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Finish the wandb run."""
        self._run.finish()
