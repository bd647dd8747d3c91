"""The checkpoint of a sharded model: a folder, into which every rank writes its own part of the tensors.

::

    step-00001200.dcp/
      trainer.pt                      everything but the sharded tensors, and size and CRC-32 of the other files
      .metadata  __0_0.distcp  ...    the sharded tensors, as torch.distributed.checkpoint writes them

The folder gets its name when it is complete and on the disk. It is read by any number of ranks, one process without a
process group included.
"""

from __future__ import annotations

import errno
import pickle
import secrets
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from jepa import distributed
from jepa.files import fsync, move_aside
from jepa.trainer.checkpoint.archive import CHUNK_BYTES
from jepa.trainer.checkpoint.file import CheckpointError, read_checkpoint, write_checkpoint
from jepa.trainer.ranks import on_every_rank, on_rank_zero

PLAIN, LAYOUT = "trainer.pt", ".metadata"
OBJECTIVE, OPTIMIZER = "objective_state", "optimizer"

Like = Callable[[str, torch.Size], Tensor | None]
"""The sharded tensor of one's own, of that name and shape, that what is read is to be sharded like; `None` for whole.

Names are `objective_state/<name>`, and `optimizer/<number of the parameter>/<name>`.
"""


def write_sharded(state: Mapping[str, Any], path: Path) -> None:
    """Write a state as a folder (on every rank); an older one at `path` is set aside.

    Args:
        state: As a trainer takes it, each rank's own. Of what is not sharded, rank 0's is written.
        path: The folder to be.

    Raises:
        OSError: A rank could not write; raised on all of them, and nothing is left at `path`.
    """
    plain, shards = _split(state)
    building = on_rank_zero(lambda: _begin(path))
    try:
        _save(shards, building)
        sums = on_every_rank(lambda: _checksums(building, distributed.rank()))
        files = {name: found for part in sums for name, found in part.items()}
        on_rank_zero(lambda: _complete({**plain, "files": files}, building, path))
    finally:
        if distributed.rank() == 0:
            shutil.rmtree(building, ignore_errors=True)


def read_plain(path: Path) -> dict[str, Any]:
    """A checkpoint without sharded tensors (of a file, all of it), after every byte of all its files was checked.

    Raises:
        FileNotFoundError: There is none.
        CheckpointError: A file is missing, truncated or damaged, or there is one too many.
    """
    if not path.is_dir():
        return read_checkpoint(path)
    if not (path / PLAIN).is_file():
        raise CheckpointError(f"{path} is not the checkpoint of a sharded model: it has no {PLAIN}")
    state = read_checkpoint(path / PLAIN)
    files = state.pop("files", {})
    for name in {LAYOUT, *files, *(file.name for file in path.iterdir())} - {PLAIN}:
        _check(path, name, files.get(name))
    return state


def read_sharded(path: Path, like: Like | None = None) -> dict[str, Any]:
    """Read a folder that `write_sharded` wrote, checking every byte and executing none of them.

    Args:
        path: The folder.
        like: How to shard what is read (on every rank, at the same time); without it all tensors are read whole.

    Raises:
        CheckpointError: See `read_plain`.
    """
    state = read_plain(path) if like is None else on_rank_zero(lambda: read_plain(path))
    try:
        reader = _reader(path, {file.name for file in path.iterdir()})
        shards = {name: _place(name, found, like) for name, found in reader.read_metadata().state_dict_metadata.items()}
        _load(shards, reader, alone=like is None)
    except (pickle.UnpicklingError, EOFError, AttributeError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); load an earlier checkpoint beside it") from error
    return _join(state, shards)


def completed(path: Path, plain: dict[str, Any]) -> dict[str, Any]:
    """The whole state of a checkpoint of which `read_plain` has been read; a file is not read a second time."""
    return read_sharded(path) if path.is_dir() else plain


def shard_like(state: Mapping[str, Any], like: Like) -> dict[str, Any]:
    """The state with those tensors sharded, each rank keeping its part, that have a sharded one of one's own."""
    from torch.distributed.tensor import distribute_tensor

    parts: dict[str, Tensor] = {}
    for name, tensor in _tensors(state):
        own: Any = None if distributed.is_sharded(tensor) else like(name, tensor.shape)
        if own is not None:
            parts[name] = distribute_tensor(tensor.to(own.device), own.device_mesh, own.placements, src_data_rank=None)
    return _join(state, parts)


# ---------------------------------------------------------------------- what is sharded of a state, and what is not


def _tensors(state: Mapping[str, Any]) -> Iterable[tuple[str, Tensor]]:
    for name, tensor in state[OBJECTIVE].items():
        yield f"{OBJECTIVE}/{name}", tensor
    for number, kept in state[OPTIMIZER]["state"].items():
        for name, value in kept.items():
            if isinstance(value, Tensor):
                yield f"{OPTIMIZER}/{number}/{name}", value


def _split(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    shards = {name: tensor for name, tensor in _tensors(state) if distributed.is_sharded(tensor)}
    optimizer = state[OPTIMIZER]
    kept = {
        number: {name: value for name, value in values.items() if f"{OPTIMIZER}/{number}/{name}" not in shards}
        for number, values in optimizer["state"].items()
    }
    weights = {name: value for name, value in state[OBJECTIVE].items() if f"{OBJECTIVE}/{name}" not in shards}
    return {**state, OBJECTIVE: weights, OPTIMIZER: {**optimizer, "state": kept}}, shards


def _join(plain: Mapping[str, Any], shards: Mapping[str, Tensor]) -> dict[str, Any]:
    weights, optimizer = dict(plain[OBJECTIVE]), plain[OPTIMIZER]
    kept = {number: dict(values) for number, values in optimizer["state"].items()}
    for place, tensor in shards.items():
        where, _, name = place.partition("/")
        if where == OPTIMIZER:
            number, _, name = name.partition("/")
            kept.setdefault(int(number), {})[name] = tensor
        else:
            weights[name] = tensor
    return {**plain, OBJECTIVE: weights, OPTIMIZER: {**optimizer, "state": kept}}


# ---------------------------------------------------------------------- writing


def _begin(path: Path) -> Path:
    building = path.absolute().with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    building.mkdir(parents=True)
    return building


def _save(shards: dict[str, Any], folder: Path) -> None:
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    try:
        save(shards, storage_writer=FileSystemWriter(str(folder)))
    except CheckpointException as failed:  # no Exception, and the same on every rank
        error = next(iter(failed.failures.values()))[0]
        if isinstance(error, RuntimeError):  # of torch's own writer, which does not say what the system said
            raise OSError(errno.EIO, str(error), str(folder)) from failed
        raise error from failed


def _checksums(folder: Path, rank: int) -> dict[str, list[int]]:
    own = [*folder.glob(f"__{rank}_*"), *([folder / LAYOUT] if rank == 0 else [])]
    return {file.name: _checksum(file) for file in own}


def _checksum(file: Path) -> list[int]:
    """Size and CRC-32."""
    size = checksum = 0
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            size, checksum = size + len(chunk), zlib.crc32(chunk, checksum)
    return [size, checksum]


def _complete(plain: dict[str, Any], building: Path, path: Path) -> None:
    write_checkpoint(plain, building / PLAIN)
    fsync(building)
    if path.exists():
        move_aside(path, ".replaced")
    building.rename(path)
    fsync(path.parent)


# ---------------------------------------------------------------------- reading


def _check(folder: Path, name: str, expected: list[int] | None) -> None:
    file = folder / name
    if expected is None or Path(name).name != name:
        raise CheckpointError(f"{file} does not belong to the checkpoint in {folder}")
    if file.is_symlink() or not file.is_file():
        raise CheckpointError(f"{folder} is not complete: it has no file {name}; load an earlier checkpoint beside it")
    found = _checksum(file)
    if found != list(expected):
        what = f"{found[0]:,} of {expected[0]:,} bytes" if found[0] != expected[0] else "its checksum is wrong"
        raise CheckpointError(f"{file} is truncated or damaged ({what}); load an earlier checkpoint beside {folder}")


def _place(name: str, found: Any, like: Like | None) -> Tensor:
    """Where to read a tensor to."""
    size, dtype = found.size, found.properties.dtype
    own = like(name, size) if like is not None else None
    return torch.empty(size, dtype=dtype) if own is None else torch.empty_like(own, dtype=dtype)


def _load(tensors: dict[str, Any], reader: Any, *, alone: bool) -> None:
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_loader import load

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is")  # not in use: nobody asked for it
            load(tensors, storage_reader=reader, no_dist=alone or not distributed.is_initialized())
    except CheckpointException as failed:  # no Exception
        error = next(iter(failed.failures.values()))[0]
        raise RuntimeError(str(error)) from failed


def _reader(path: Path, files: set[str]) -> Any:
    """A reader of these files only, and of tensors only: the one of torch unpickles whatever `.metadata` holds."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import Metadata

    class Reader(FileSystemReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
            with (path / LAYOUT).open("rb") as file:
                layout = _LayoutUnpickler(file).load()
            strangers = {str(place.relative_path) for place in layout.storage_data.values()} - files
            if strangers:
                raise ValueError(f"{LAYOUT} names {', '.join(sorted(strangers))}, which is not of this checkpoint")
            return layout

    return Reader(str(path))


class _LayoutUnpickler(pickle.Unpickler):
    """Builds what describes where tensors are, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """The class, if it is one of those."""
        if module.partition(".")[0] == "pathlib":  # where the folder was when it was written
            return PurePosixPath
        found = getattr(torch, name, None) if module == "torch" else None
        if name in ALLOWED.get(module, ()) or isinstance(found, torch.dtype):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{LAYOUT} holds {module}.{name}, which no trainer writes")


ALLOWED = {
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
}
