"""Files that survive a crash: atomic replacement, append-only JSON lines, and locks that end with their process."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import time
import uuid
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeGuard


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
        with _naming(path):
            yield temporary
            if durable:
                fsync(temporary)
            temporary.replace(path)
            if durable:
                fsync(path.parent)
    finally:
        remove(temporary)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let an error of the system say which file it is about: one that comes with writing itself does not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or os.fspath(path)
        raise


def write_text(path: str | os.PathLike[str], text: str, *, durable: bool = True) -> None:
    """Replace `path` by `text`, atomically."""
    with atomic_path(path, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def move_aside(path: Path, suffix: str) -> Path:
    """Rename a file or a folder to its name and `suffix`; what has that name is removed."""
    aside = path.with_name(path.name + suffix)
    remove(aside)
    return path.rename(aside)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with what is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def fsync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


PENDING_BYTES = 1 << 16
_encode = json.JSONEncoder(separators=(",", ":")).encode


class JSONLines:
    """An append-only file of one JSON object a line.

    A line that a crash tore is closed off with a newline when the file is opened again, and skipped by `read_lines`.
    Where the disk refuses, the file ends with its last whole line, and what could not be written waits in memory for
    the next `flush`.

    Args:
        path: The file; its folder is created.
        durable: Whether `flush` returns only when everything is on the disk.

    Raises:
        OSError: The file cannot be opened, or is a symbolic link, which could lead out of the folder.
    """

    def __init__(self, path: str | os.PathLike[str], *, durable: bool = False) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.is_symlink():
            raise OSError(errno.ELOOP, "is a symbolic link, and is not written through", os.fspath(self.path))
        self._durable = durable
        self._pending = bytearray()
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        self._file: int | None = os.open(self.path, flags, 0o666)
        self._size = os.fstat(self._file).st_size
        if self._size and os.pread(self._file, 1, self._size - 1) != b"\n":
            self._pending += b"\n"

    def append(self, record: Mapping[str, Any], *, flush: bool = True) -> None:
        """Add one record, and write it now or (without `flush`) with the next one that is.

        Raises:
            OSError: It could not be written; it waits for the next `flush`.
        """
        self._pending += _encode(record).encode() + b"\n"
        if flush or len(self._pending) > PENDING_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits, and wait for the disk where the file is durable.

        Raises:
            OSError: It could not be written; it goes on waiting.
        """
        if self._file is None or not self._pending:
            return
        try:
            with _naming(self.path):
                self._write(self._file)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise
        self._size += len(self._pending)
        self._pending.clear()

    def _write(self, descriptor: int) -> None:
        written = 0
        while written < len(self._pending):
            written += os.write(descriptor, bytes(self._pending[written:]))
        if self._durable:
            os.fsync(descriptor)

    def close(self) -> None:
        """Write what waits and close the file; closing twice is fine.

        Raises:
            OSError: It could not be written, and is lost with this object; the file is closed.
        """
        try:
            self.flush()
        finally:
            if self._file is not None:
                os.close(self._file)
            self._file = None


def is_plain_name(name: object) -> TypeGuard[str]:
    """Whether a name from a file or a command names something in a folder, and can lead nowhere else."""
    return isinstance(name, str) and bool(name) and Path(name).name == name and not name.startswith(".")


def read_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """All whole records of a JSON-lines file, in order; a torn line is skipped, a missing file is empty."""
    with suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace") as file:
        return list(parse_lines(file))
    return []


def parse_lines(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The records of JSON lines; what is none, torn, or nested too deeply is skipped."""
    for line in lines:
        with suppress(ValueError, RecursionError):  # an integer of thousands of digits is a plain ValueError
            record = json.loads(line)
            if isinstance(record, dict):
                yield record


def open_regular(path: Path, *, links: bool = False) -> IO[bytes]:
    """Open a regular file to read it, and nothing else: to open a pipe waits, and to open a device can do something.

    Args:
        path: The file.
        links: Whether a symbolic link may lead to it.

    Raises:
        ValueError: It is something else.
        OSError: It cannot be opened.
    """
    _check_regular((path.stat() if links else path.lstat()).st_mode)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | (0 if links else getattr(os, "O_NOFOLLOW", 0))
    descriptor = os.open(path, flags)
    try:
        _check_regular(os.fstat(descriptor).st_mode)  # it may have been replaced in between
    except ValueError:
        os.close(descriptor)
        raise
    return open(descriptor, "rb")


def _check_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise ValueError("it is no regular file")


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
