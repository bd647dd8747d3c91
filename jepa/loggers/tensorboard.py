"""Metrics as TensorBoard event files."""

from __future__ import annotations

import os
from collections.abc import Mapping

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
        self._writer = SummaryWriter(log_dir=os.fspath(log_dir))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write scalars."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write what is buffered."""
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()
