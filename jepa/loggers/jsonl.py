"""Metrics as JSON lines in a file of your choice."""

from __future__ import annotations

import os
from collections.abc import Mapping

from jepa.files import JSONLines
from jepa.loggers.base import Logger


class JSONLLogger(Logger):
    """Appends `{"step": ..., <metrics>}` lines.

    Args:
        path: The file; its folder is created.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._lines = JSONLines(path)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Append one line."""
        self._lines.append({"step": step, **metrics})

    def close(self) -> None:
        """Close the file."""
        self._lines.close()
