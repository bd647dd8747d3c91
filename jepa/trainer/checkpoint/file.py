"""One checkpoint file: written atomically, read safely."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from jepa.files import atomic_path
from jepa.models.base import misfits
from jepa.trainer.checkpoint.archive import check_archive, write_archive
from jepa.trainer.checkpoint.staging import Staging

FORMAT = 1


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read or does not fit; the message says which, why and what to do."""


def write_checkpoint(state: dict[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write `state` so that `path` is never a partial file.

    Args:
        state: Plain values and tensors, on any device.
        path: The file; a missing folder is created.

    Raises:
        OSError: The disk is full or the folder is not writable; an older file at `path` is intact.
    """
    staging = Staging()
    state = staging.copy(state)
    staging.wait()
    return write_staged(state, path)


def write_staged(state: dict[str, Any], path: str | os.PathLike[str]) -> Path:
    """`write_checkpoint` of a state that is on the CPU, and that nobody changes."""
    path = Path(path)
    with atomic_path(path) as temporary:
        write_archive({"format": FORMAT, **state}, temporary)
    return path


def read_checkpoint(path: str | os.PathLike[str], *, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint, a file or the folder of a sharded model, checking every byte and executing none of them.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file is truncated or damaged, is not a checkpoint of ours, or of a newer format.
    """
    path = Path(path)
    if path.is_dir():
        from jepa.trainer.checkpoint.sharded import read_sharded

        return read_sharded(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path} (looked from {Path.cwd()})")
    try:
        check_archive(path)
    except (ValueError, OSError) as error:
        raise CheckpointError(
            f"{path} is truncated or damaged ({path.stat().st_size:,} bytes): {error}; load an earlier checkpoint "
            "beside it"
        ) from error
    try:
        state = torch.load(path, map_location=map_location, weights_only=True, mmap=True)
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


def step_in(path: Path) -> int | None:
    """Updates done in the state of a checkpoint, without checking it; `None` where it cannot be told."""
    file = path / "trainer.pt" if path.is_dir() else path
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)["position"]["step"]
    except Exception:  # missing, damaged, not ours: whoever takes it up is told
        return None


def check_fits(module: nn.Module, tensors: Mapping[str, torch.Tensor], origin: str | os.PathLike[str]) -> None:
    """Compare names and shapes before anything is loaded, so that a misfit changes nothing.

    Raises:
        CheckpointError: They differ; the message lists where.
    """
    misfit = misfits(module.state_dict(), tensors)
    if misfit:
        raise CheckpointError(f"{origin} does not fit this model: {misfit}")
