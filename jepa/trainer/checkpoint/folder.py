"""The checkpoints of one run: which of them stay, and the newest valid one, which is found even after a crash."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from jepa.files import atomic_path, move_aside, remove
from jepa.trainer.checkpoint.file import CheckpointError
from jepa.trainer.checkpoint.sharded import read_plain

FILE, SHARDED = ".pt", ".dcp"


class CheckpointFolder:
    """The checkpoints of one run.

    `step-00001200.pt` files, of which the newest few stay; `initial.pt`, where the run began; `best.pt`. What was given
    up by going back to an earlier checkpoint is set aside as `.pt.replaced`, what cannot be read as `.pt.broken`.
    Those of a sharded model are folders, `step-00001200.dcp`.

    Args:
        path: The folder; created by the first `save`.
        keep: Number of newest checkpoints that stay.
        keep_every: The first checkpoint after each so many steps stays, too.
    """

    def __init__(self, path: str | os.PathLike[str], keep: int = 3, keep_every: int | None = None) -> None:
        self.path = Path(path)
        self.keep = keep
        self.keep_every = keep_every

    @property
    def files(self) -> list[Path]:
        """Checkpoints by step, oldest first; without the initial and the best one."""
        return sorted((path for suffix in (FILE, SHARDED) for path in self.path.glob(f"step-*{suffix}")), key=_step_of)

    @property
    def best(self) -> Path:
        """Where the best checkpoint is, if one was marked."""
        return self._either("best")

    @property
    def initial(self) -> Path:
        """Where the state is that the run began with."""
        return self._either("initial")

    @property
    def names(self) -> list[str]:
        """Names of those there are: the best, the others from the newest on, the initial one."""
        return [file.name for file in (self.best, *reversed(self.files), self.initial) if file.exists()]

    def file(self, step: int) -> Path:
        """Where the checkpoint of `step` is or would be."""
        return self._either(f"step-{step:08d}")

    def _either(self, name: str) -> Path:
        """The file, or the folder of a sharded model if that is what there is."""
        file, folder = self.path / (name + FILE), self.path / (name + SHARDED)
        return folder if folder.exists() and not file.exists() else file

    def find(self, wanted: str | int | os.PathLike[str]) -> Path:
        """A checkpoint by step or by file name; one that was given up by going back is still found.

        Raises:
            ValueError: There is none; the message names those there are.
        """
        given = Path(self.file(wanted) if isinstance(wanted, int) else wanted)
        path = self.path / given.name
        if not path.exists():
            path = path.with_name(f"{path.name}.replaced")
        kind = Path(path.name.removesuffix(".replaced")).suffix
        inside = given.parent in (Path(), self.path) and kind in (FILE, SHARDED)
        if not inside or path.is_symlink() or not path.exists():
            there = ", ".join(file.name for file in (self.initial, *self.files, self.best) if file.exists())
            name = given.name if inside else os.fspath(given)
            raise ValueError(f"this run has no checkpoint {name!r}; it has {there or 'none yet'}")
        return path

    def keep_only_wanted(self, path: Path, step: int, *, best: bool) -> None:
        """After the checkpoint of `step` was written to `path`: mark it as the best if asked, and remove old ones."""
        if step > 0:  # one that is saved before any training replaces nothing
            self.set_aside_after(step)
        if best:
            remove(self.best.with_suffix(SHARDED if path.suffix == FILE else FILE))
            link(path, self.best.with_suffix(path.suffix))
        for old in self._unwanted():
            if old != path:
                remove(old)

    def set_aside_after(self, step: int) -> None:
        """Later checkpoints come from a continuation that was given up: they must not be taken for the newest."""
        for later in self.files:
            if _step_of(later) > step:
                move_aside(later, ".replaced")

    def _unwanted(self) -> Iterator[Path]:
        kept, milestone = set(self.files[-self.keep :]), 0
        for file in self.files:
            step = _step_of(file)
            if self.keep_every and step // self.keep_every > milestone // self.keep_every:
                kept.add(file)
                milestone = step
        yield from (file for file in self.files if file not in kept)
        replaced = sorted(self.path.glob("step-*.replaced"), key=lambda file: file.stat().st_mtime)
        yield from replaced[: -self.keep]

    def remove_leftovers(self) -> None:
        """Remove what was being written when a process was killed; only while nobody writes."""
        for leftover in self.path.glob(".*.tmp"):
            with suppress(OSError):
                remove(leftover)

    def newest_valid(
        self, belongs: Callable[[dict[str, Any]], bool] | None = None, *, set_aside: bool = True
    ) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that reads back, with its state (that of a sharded model without sharded tensors).

        Args:
            belongs: Whether a state belongs to what the run goes on with; others are passed over.
            set_aside: Rename broken ones, with a warning; not in a folder that somebody else may be writing to.
        """
        for path in (*reversed(self.files), self.initial):
            if not os.path.lexists(path):
                continue
            try:
                if path.is_symlink():
                    raise CheckpointError(f"{path} is a symbolic link, which no trainer writes")
                state = read_plain(path)
            except (CheckpointError, OSError) as error:
                if set_aside:
                    self._set_aside_broken(path, error)
                continue
            if belongs is None or belongs(state):
                return path, state
        return None

    def _set_aside_broken(self, path: Path, error: Exception) -> None:
        try:
            kept = f"kept aside as {move_aside(path, '.broken').name}"
        except OSError as second:
            kept = f"it could not be set aside: {second}"
        warnings.warn(f"{error}; {kept}", RuntimeWarning, stacklevel=3)


def link(source: Path, target: Path) -> None:
    """Let `target` be `source`, too: the same bytes on the disk where it knows hard links."""
    with atomic_path(target) as temporary:
        if source.is_dir():
            shutil.copytree(source, temporary, copy_function=_link_file)
            remove(target)
        else:
            _link_file(source, temporary)


def _link_file(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _step_of(path: Path) -> int:
    digits = path.name.removeprefix("step-").partition(".")[0]
    return int(digits) if digits.isdecimal() else -1
