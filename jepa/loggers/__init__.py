"""Where metrics go besides the run folder: one logger a file, each imported on use."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Any, Literal

from jepa.loggers.base import Logger
from jepa.trainer.events import Sink, as_sinks

NAMES = ("console", "jsonl", "tensorboard", "wandb")


def get_logger(spec: Any, folder: Path | None = None) -> Sink:
    """One sink from a name, a callable that takes events, or an object with `log(metrics, step=...)`.

    Args:
        spec: `"console"`, `"jsonl"`, `"tensorboard"`, `"wandb"`, or the object.
        folder: The run folder; files go into its `logs/`, or into `logs/` here without one.

    Raises:
        ValueError: The name is unknown.
        TypeError: The object can take neither events nor metrics.
    """
    logs = (folder or Path()) / "logs"
    if spec == "console":
        from jepa.loggers.console import ConsoleLogger

        return ConsoleLogger()
    if spec == "jsonl":
        from jepa.loggers.jsonl import JSONLLogger

        return JSONLLogger(logs / "metrics.jsonl")
    if spec == "tensorboard":
        from jepa.loggers.tensorboard import TensorBoardLogger

        return TensorBoardLogger(logs / "tensorboard")
    if spec == "wandb":
        from jepa.loggers.wandb import WandbLogger

        return WandbLogger(dir=logs)
    if isinstance(spec, str):
        nearest = difflib.get_close_matches(spec, NAMES, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(NAMES)}"
        raise ValueError(f"unknown logger {spec!r}; {hint}")
    return as_sinks([spec])[0]


def get_sinks(spec: Any, folder: Path | None, *, progress: bool | Literal["auto"] = False) -> list[Sink]:
    """All sinks that `create_trainer(logger=...)` asks for, and a progress bar where it is wanted."""
    specs = [] if spec is None else list(spec) if isinstance(spec, list | tuple) else [spec]
    sinks = [get_logger(one, folder) for one in specs]
    if progress is True or (progress == "auto" and sys.stderr is not None and sys.stderr.isatty() and not specs):
        from jepa.loggers.progress import ProgressBar

        sinks.append(ProgressBar())
    return sinks


__all__ = ["Logger", "get_logger", "get_sinks"]
