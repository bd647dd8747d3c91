"""Files that survive a crash: atomic replacement, append-only JSON lines, and locks that end with their process."""

from __future__ import annotations

import json
import os
import time
import uuid
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any


@contextmanager
def atomic_path(path: str | os.PathLike[str], *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path` that becomes `path` when the block ends without an error.

    A reader sees the old file or the new one, never a part. Missing parent folders are created.

    Args:
        path: The file to replace.
        durable: Also wait until file and folder entry are on the disk, so that a power cut cannot undo it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        if durable:
            _fsync(temporary)
        temporary.replace(path)
        if durable:
            _fsync(path.parent)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_text(path: str | os.PathLike[str], text: str, *, durable: bool = True) -> None:
    """Replace `path` by `text`, atomically."""
    with atomic_path(path, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_encode = json.JSONEncoder(separators=(",", ":")).encode


class JSONLines:
    """An append-only file of one JSON object a line.

    A line that a crash tore is closed off with a newline when the file is opened again, and skipped by `read_lines`.

    Args:
        path: The file; its folder is created.
        durable: Whether each line is on the disk before `append` returns.
    """

    def __init__(self, path: str | os.PathLike[str], *, durable: bool = False) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._durable = durable
        self._file = self.path.open("ab")
        if self._torn():
            self._file.write(b"\n")

    def _torn(self) -> bool:
        if self.path.stat().st_size == 0:
            return False
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"

    def append(self, record: Mapping[str, Any], *, flush: bool = True) -> None:
        """Write one record, and hand it to the operating system now or (without `flush`) a little later."""
        self._file.write(_encode(record).encode() + b"\n")
        if flush or self._durable:
            self.flush()

    def flush(self) -> None:
        """Hand everything to the operating system, and wait for the disk where lines are durable."""
        self._file.flush()
        if self._durable:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        self._file.close()


def read_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """All whole records of a JSON-lines file, in order; a torn line is skipped, a missing file is empty."""
    records: list[dict[str, Any]] = []
    with suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            with suppress(json.JSONDecodeError):
                record = json.loads(line)
                if isinstance(record, dict):
                    records.append(record)
    return records


class FileLock:
    """A lock that one process at a time can hold, and that is let go when that process ends, however it ends.

    Windows has no such locks: there it is always free, and two writers are the user's to avoid.

    Args:
        path: The file that stands for the lock; created in an existing folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._file: IO[bytes] | None = None

    def acquire(self) -> bool:
        """Take the lock, without waiting; `False` if it is held already."""
        try:
            import fcntl
        except ImportError:
            return True
        file = self._path.open("ab")
        for wait in (0.01, 0.04, None):  # somebody may just be looking, see `is_held`
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if wait is None:
                    file.close()
                    return False
                time.sleep(wait)
        self._file = file
        _LOCKED.add(file)
        return True

    def is_held(self) -> bool:
        """Whether some process, this one included, holds the lock right now; nothing is created or changed.

        Raises:
            OSError: The file cannot be opened, or is a symbolic link.
        """
        try:
            import fcntl
        except ImportError:
            return False
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)

    def release(self) -> None:
        """Let go of the lock; twice is fine."""
        if self._file is not None:
            self._file.close()
            self._file = None


_LOCKED: weakref.WeakSet[IO[bytes]] = weakref.WeakSet()


def _drop_copies() -> None:
    """Close what a forked child (a data loading worker) would hold on to after this process was killed."""
    for file in list(_LOCKED):
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_copies)
