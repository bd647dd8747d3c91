"""Arrays in files: in memory where they fit, else as memory maps of which each batch reads its rows."""

from __future__ import annotations

import mmap
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from jepa.data.lazy import LazyDataset, position


class ArrayDataset(LazyDataset):
    """Rows of one or several arrays that stay on the disk.

    A sample is a tensor for one array, a tuple for several; numpy's float64 becomes torch's default type. The rows of
    a batch are read in the order in which they lie on the disk. Worker processes open the files for themselves.

    Args:
        *arrays: Of equal length along their first axis; `np.load(file, mmap_mode="r")` or `np.memmap` makes one.

    Raises:
        ValueError: They differ in length, or torch has no such type.
    """

    deterministic: ClassVar[bool] = True

    def __init__(self, *arrays: np.ndarray) -> None:
        check_lengths(*arrays)
        for array in arrays:
            check_type(array.dtype)
        self.arrays = arrays

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The samples at these positions, in this order."""
        wanted = np.array([position(index, len(self)) for index in indices])
        rows, back = np.unique(wanted, return_inverse=True)  # sorted
        read = [as_tensor(array[rows])[torch.from_numpy(back)] for array in self.arrays]
        return list(read[0]) if len(read) == 1 else list(zip(*read, strict=True))

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays)

    def __getstate__(self) -> dict[str, Any]:
        return {"arrays": [_pack(array) for array in self.arrays]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.arrays = tuple(_unpack(packed) for packed in state["arrays"])


def _pack(array: np.ndarray) -> Any:
    """A map of a whole file by its name, so that no worker is sent its content; anything else as it is."""
    if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap) and array.filename is not None:
        order = "C" if array.flags.c_contiguous else "F"
        return os.fspath(array.filename), array.dtype, array.offset, array.shape, order
    return array


def _unpack(packed: Any) -> np.ndarray:
    if isinstance(packed, np.ndarray):
        return packed
    filename, dtype, offset, shape, order = packed
    return np.memmap(filename, dtype, "r", offset, shape, order)


def open_arrays(
    path: str | os.PathLike[str], *, keys: Sequence[str] | None = None, memory: float = float("inf")
) -> tuple[np.ndarray, ...]:
    """The array of an `.npy` file, or those of an `.npz` file.

    Args:
        path: The file. Nothing in it is executed: pickled objects are refused.
        keys: Which members of an `.npz` file, in this order; all of them, as they were saved, by default.
        memory: An `.npy` file of more bytes than this is mapped, not read.

    Raises:
        ValueError: The file is damaged or holds something else, a member is missing, or the members of an `.npz` file
            (which cannot be mapped) take more than `memory`.
    """
    path = Path(path)
    read = _open_npz if path.suffix == ".npz" else _open_npy
    try:
        return read(path, keys, memory)
    except (ValueError, TypeError, EOFError, KeyError, OSError, zipfile.BadZipFile) as error:
        if isinstance(error, _RefusedError):
            raise ValueError(str(error)) from None
        save = "numpy.savez" if path.suffix == ".npz" else "numpy.save"
        kind = "an archive of plain arrays" if path.suffix == ".npz" else "a plain array"
        raise ValueError(f"{path} is not {kind} ({error}); save it again with {save}") from error


class _RefusedError(ValueError):
    """A sentence for the user, as opposed to what numpy says of a file."""


def _open_npy(path: Path, keys: Sequence[str] | None, memory: float) -> tuple[np.ndarray, ...]:
    if keys is not None:
        raise _RefusedError(f"{path} holds one array without a name; keys= is for .npz files, got {list(keys)}")
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            raise TypeError("it holds an archive; call it .npz")
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    check_type(array.dtype)
    return (array if array.nbytes > memory else np.array(array),)


def _open_npz(path: Path, keys: Sequence[str] | None, memory: float) -> tuple[np.ndarray, ...]:
    with zipfile.ZipFile(path) as archive:
        sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}
    names = list(sizes) if keys is None else list(keys)
    missing = [name for name in names if name not in sizes]
    if missing or not names:
        raise _RefusedError(f"{path} has no member {', '.join(missing) or 'at all'}; it holds {', '.join(sizes)}")
    needed = sum(sizes[name] for name in names)
    if needed > memory:
        raise _RefusedError(
            f"the arrays in {path} take {needed:,} bytes, more than memory={memory:,.0f}, and an archive cannot be "
            "mapped; save each array as an .npy file, or allow more memory"
        )
    with np.load(path, allow_pickle=False) as archive:
        arrays = tuple(archive[name] for name in names)
    for name, array in zip(names, arrays, strict=True):
        if array.ndim == 0:
            raise _RefusedError(f"member {name!r} of {path} is a single number; choose the arrays with keys=")
        check_type(array.dtype)
    return arrays


def check_lengths(*arrays: Tensor | np.ndarray) -> None:
    """Raise a ValueError unless all arrays have equal length along their first axis."""
    lengths = [len(array) if array.ndim else None for array in arrays]
    if None in lengths or len(set(lengths)) > 1:
        shapes = ", ".join(str(tuple(array.shape)) for array in arrays)
        raise ValueError(f"arrays must have equal length along their first axis, got shapes {shapes}")


def check_type(dtype: np.dtype) -> None:
    """Raise a ValueError unless torch has that type."""
    try:
        torch.from_numpy(np.empty(0, dtype))
    except (TypeError, ValueError) as error:
        raise ValueError(f"torch has no type for numpy's {dtype.str!r}; convert with array.astype(...)") from error


def as_tensor(array: Tensor | np.ndarray) -> Tensor:
    """Tensors as they are; numpy's float64, which is rarely meant, in torch's default type."""
    if isinstance(array, np.ndarray) and array.dtype == np.float64:
        return torch.from_numpy(array).to(torch.get_default_dtype())
    return torch.as_tensor(array)
