"""The archive of a checkpoint: the zip file that `torch.save` writes, written so that training goes on beside it.

`torch.save` holds the interpreter while it copies and sums up each tensor, so a thread that calls it slows every other
one down. Here it only lays out the file; the bytes of the tensors are then written, and their CRC-32 computed, by calls
that hold nothing. Every record has its checksum, as in any zip file: `unzip -t` checks it, too.
"""

from __future__ import annotations

import errno
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

CHUNK_BYTES = 1 << 22
PLAIN_BYTES = 1 << 28  # of everything that is no tensor
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_CENTRAL_HEADER = struct.Struct("<4s6H3I5H2I")
_HAS_DESCRIPTOR = 1 << 3


def write_archive(state: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write plain values and CPU tensors to `path`, as `torch.load` reads them.

    Raises:
        OSError: The disk is full, or the folder not writable; what there is at `path` is not a checkpoint.
    """
    _lay_out(state, path)
    storages = {f"data/{number}": storage for number, storage in enumerate(_storages(state))}
    descriptor = os.open(path, os.O_RDWR)
    try:
        for record in _records(Path(path)):
            storage = storages.pop(record.info.filename.partition("/")[2], None)
            if storage is not None:
                _fill(descriptor, record, storage)
    finally:
        os.close(descriptor)
    if storages:
        raise RuntimeError(f"{path}: no place was laid out for {', '.join(storages)}")


def _lay_out(state: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write all but the bytes of the tensors, for which holes stay."""
    try:
        with torch.serialization.skip_data():
            torch.save(state, path)
    except RuntimeError as error:  # of torch's own writer, which does not say what the system said
        full = os.statvfs(Path(path).parent).f_bavail == 0
        number = errno.ENOSPC if full else errno.EIO
        raise OSError(number, os.strerror(number), os.fspath(path)) from error


def check_archive(path: Path) -> None:
    """Check every byte of an archive, and that reading it takes no more memory than the file is large.

    Raises:
        ValueError: It is truncated or damaged, or is larger inside than outside; the message says where.
        OSError: It cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                if record.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"{record.filename!r} is compressed, which no trainer does: it may claim any size")
            plain = sum(record.file_size for record in archive.infolist())
            if plain > path.stat().st_size:
                raise ValueError(f"its parts claim {plain:,} bytes, more than there are")
            pickles = [record.file_size for record in archive.infolist() if record.filename.endswith("data.pkl")]
            if sum(pickles) > PLAIN_BYTES:
                raise ValueError(f"it holds {sum(pickles):,} bytes besides its tensors")
            broken = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, struct.error) as error:
        raise ValueError(str(error) or "it ends too soon") from error
    if broken is not None:
        raise ValueError(f"checksum of {broken!r} is wrong")


def tensors_of(state: Any) -> Iterator[Tensor]:
    """Every tensor of nested mappings, lists and tuples, in the order in which they are pickled."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from tensors_of(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from tensors_of(value)


def _storages(state: Any) -> list[torch.UntypedStorage]:
    """The memory behind the tensors, each once."""
    found = {}
    for tensor in tensors_of(state):
        storage = tensor.untyped_storage()
        found.setdefault(storage._cdata, storage)
    return list(found.values())


class _Record(NamedTuple):
    """A record of the archive, and where its entry in the directory at the end of the file is."""

    info: zipfile.ZipInfo
    entry: int


def _records(path: Path) -> list[_Record]:
    with zipfile.ZipFile(path) as archive:
        infos, entry = archive.infolist(), archive.start_dir
    records = []
    with path.open("rb") as file:
        for info in infos:
            records.append(_Record(info, entry))
            file.seek(entry)
            header = _CENTRAL_HEADER.unpack(file.read(_CENTRAL_HEADER.size))
            entry += _CENTRAL_HEADER.size + sum(header[10:13])  # name, extra field and comment follow
    return records


def _fill(descriptor: int, record: _Record, storage: torch.UntypedStorage) -> None:
    """Write the bytes of one tensor into the place laid out for them, and their checksum beside them."""
    data: Any = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
    info = record.info
    if len(data) != info.file_size:
        raise RuntimeError(f"{info.filename} has place for {info.file_size} bytes, not for {len(data)}")
    header = _LOCAL_HEADER.unpack(os.pread(descriptor, _LOCAL_HEADER.size, info.header_offset))
    place = info.header_offset + _LOCAL_HEADER.size + header[9] + header[10]
    view, checksum = memoryview(data), 0
    for start in range(0, len(view), CHUNK_BYTES):
        chunk = view[start : start + CHUNK_BYTES]
        checksum = zlib.crc32(chunk, checksum)
        _write(descriptor, chunk, place + start)
    number = struct.pack("<I", checksum)
    _write(descriptor, number, record.entry + 16)
    beside = place + len(view) + 4 if info.flag_bits & _HAS_DESCRIPTOR else info.header_offset + 14
    _write(descriptor, number, beside)


def _write(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
