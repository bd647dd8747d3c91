"""Metrics as JSON lines in a file of your choice."""

from __future__ import annotations

import os
from collections.abc import Mapping

from jepa.files import JSONLines
from jepa.loggers.base import Logger


class JSONLLogger(Logger):
    """Appends `{"step": ..., <metrics>}` lines.

    Args:
        path: The file; it and its folder are created by the first record.
    """

    immediate = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self._lines: JSONLines | None = None

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Append one line."""
        if self._lines is None:
            self._lines = JSONLines(self._path)
        self._lines.append({"step": step, **metrics})

    def close(self) -> None:
        """Close the file."""
        if self._lines is not None:
            self._lines.close()
            self._lines = None
