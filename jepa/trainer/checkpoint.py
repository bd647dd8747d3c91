"""Checkpoint files: written atomically, read safely, and the newest valid one is found even after a crash."""

from __future__ import annotations

import os
import random
import shutil
import sys
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from jepa.files import atomic_path
from jepa.models.base import misfits

FORMAT = 1


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read or does not fit; the message says which, why and what to do."""


def write_checkpoint(state: dict[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write `state` so that `path` is never a partial file.

    Raises:
        OSError: The disk is full or the folder is not writable; an older file at `path` is intact.
    """
    path = Path(path)
    with atomic_path(path) as temporary:
        torch.save({"format": FORMAT, **state}, temporary)
    return path


def read_checkpoint(path: str | os.PathLike[str], *, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint written by `write_checkpoint`, checking every byte and executing none of them.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file is truncated or damaged, is not a checkpoint of ours, or of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path} (looked from {Path.cwd()})")
    _check_intact(path)
    try:
        state = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} is not a checkpoint that can be loaded safely ({type(error).__name__}); "
            "checkpoints hold tensors and plain values only"
        ) from error
    if not isinstance(state, dict) or "format" not in state:
        raise CheckpointError(f"{path} was not written by a trainer; for exported weights use from_pretrained")
    if state["format"] > FORMAT:
        raise CheckpointError(f"{path} has format {state['format']}, newer than {FORMAT}: update jepa-lab to read it")
    return state


def _check_intact(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise CheckpointError(
            f"{path} is truncated or damaged ({path.stat().st_size:,} bytes); load an earlier checkpoint beside it"
        ) from error
    if broken is not None:
        raise CheckpointError(f"{path} is damaged at {broken!r}; load an earlier checkpoint beside it")


def check_fits(module: nn.Module, tensors: Mapping[str, torch.Tensor], origin: str | os.PathLike[str]) -> None:
    """Compare names and shapes before anything is loaded, so that a misfit changes nothing.

    Raises:
        CheckpointError: They differ; the message lists where.
    """
    misfit = misfits(module.state_dict(), tensors)
    if misfit:
        raise CheckpointError(f"{origin} does not fit this model: {misfit}")


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


def random_state() -> dict[str, Any]:
    """State of the process-wide generators (torch, CUDA, Python, and numpy where it is loaded)."""
    version, internal, gauss = random.getstate()
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "python": [version, list(internal), gauss]}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    if "numpy.random" in sys.modules:
        import numpy

        name, keys, position, has_gauss, cached = numpy.random.get_state(legacy=True)
        keys = torch.from_numpy(numpy.asarray(keys, "int64"))
        state["numpy"] = [str(name), keys, int(position), int(has_gauss), float(cached)]
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Put the process-wide generators back to what `random_state` returned."""
    torch.set_rng_state(state["torch"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    if "cuda" in state and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    if "numpy" in state:
        import numpy

        name, keys, position, has_gauss, cached = state["numpy"]
        numpy.random.set_state((name, keys.numpy().astype("uint32"), position, has_gauss, cached))
