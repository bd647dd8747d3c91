"""The checkpoints of one run: which of them stay, and the newest valid one, which is found even after a crash."""

from __future__ import annotations

import os
import shutil
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from jepa.files import atomic_path
from jepa.trainer.checkpoint.file import CheckpointError, read_checkpoint, write_checkpoint


class CheckpointFolder:
    """The checkpoints of one run: `step-00001200.pt` files, the newest few of them, and `best.pt`.

    Args:
        path: The folder; created by the first `save`.
        keep: Number of newest checkpoints that stay.
    """

    def __init__(self, path: str | os.PathLike[str], keep: int = 3) -> None:
        self.path = Path(path)
        self.keep = keep

    @property
    def files(self) -> list[Path]:
        """Checkpoints by step, oldest first."""
        return sorted(self.path.glob("step-*.pt"))

    @property
    def best(self) -> Path:
        """Where the best checkpoint is, if one was marked."""
        return self.path / "best.pt"

    def file(self, step: int) -> Path:
        """Where the checkpoint of `step` is or would be."""
        return self.path / f"step-{step:08d}.pt"

    def save(self, state: dict[str, Any], step: int, *, best: bool = False) -> Path:
        """Write the checkpoint of `step`, mark it as the best one if asked, and remove the oldest.

        Later steps that are there already come from a continuation that was given up by loading an earlier
        checkpoint; they are set aside, so that they are neither taken for the newest nor outlive this one.
        """
        path = write_checkpoint(state, self.file(step))
        for later in [file for file in self.files if file > path and step > 0]:
            later.rename(later.with_suffix(".pt.replaced"))
        if best:
            with atomic_path(self.best) as temporary:
                try:
                    os.link(path, temporary)
                except OSError:  # file systems without hard links
                    shutil.copyfile(path, temporary)
        for old in self.files[: -self.keep]:
            if old != path:  # at step 0, later ones may be there
                with suppress(FileNotFoundError):
                    old.unlink()
        return path

    def newest_valid(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that reads back, with its state; broken ones are set aside with a warning."""
        for path in reversed(self.files):
            try:
                return path, read_checkpoint(path)
            except CheckpointError as error:
                aside = path.with_suffix(".pt.broken")
                path.rename(aside)
                warnings.warn(f"{error}; kept aside as {aside.name}", RuntimeWarning, stacklevel=2)
        return None
