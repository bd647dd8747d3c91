"""Metrics as TensorBoard event files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial

from jepa.loggers.base import Logger


class TensorBoardLogger(Logger):
    """Writes scalars for TensorBoard.

    Args:
        log_dir: Folder of the event files.

    Raises:
        ImportError: TensorBoard is not installed.
    """

    def __init__(self, log_dir: str | os.PathLike[str]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("the TensorBoard logger needs: pip install 'jepa-lab[loggers]'") from error
        self._open = partial(SummaryWriter, log_dir=os.fspath(log_dir))
        self._writer: SummaryWriter | None = None

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write scalars."""
        if self._writer is None:
            self._writer = self._open()
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the event file; a run that goes on begins another beside it."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
