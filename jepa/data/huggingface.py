"""Hugging Face `datasets` as tensors: on disk, read by number, or streamed.

Axes: C channels, H height, W width.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from jepa.data.arrays import as_tensor
from jepa.data.images import image_tensor
from jepa.data.lazy import LazyDataset, Size, height_and_width, position
from jepa.data.optional import optional
from jepa.data.stream import ShardedStream


class HuggingFaceDataset(LazyDataset):
    """A `datasets.Dataset`: a sample is a tensor for one column, a tuple of tensors for several.

    Images become uint8 (C, H, W) with 1 or 3 channels, classes int64 numbers, lists of numbers tensors; Python's and
    numpy's float64 become torch's default type.

    Args:
        dataset: The dataset, or the folder where `save_to_disk` put one.
        columns: The columns of a sample, in the order that the objective expects; all by default.
        size: Height and width to which images are resized, one number or (H, W).

    Raises:
        FileNotFoundError: There is no such folder.
        TypeError: Not a `datasets.Dataset` (a `DatasetDict` holds several).
        ValueError: A column is unknown, or (when it is read) holds what cannot become a tensor, such as text.
        ImportError: `datasets` is not installed.
    """

    def __init__(self, dataset: Any, columns: Sequence[str] | None = None, *, size: Size | None = None) -> None:
        datasets = optional("datasets", "Hugging Face datasets", "data")
        if isinstance(dataset, str | os.PathLike):
            if not Path(dataset).is_dir():
                raise FileNotFoundError(f"no folder {dataset} (looked from {Path.cwd()})")
            dataset = datasets.load_from_disk(os.fspath(dataset))
        if isinstance(dataset, Mapping):
            raise TypeError(f"got several datasets; choose one of {', '.join(map(repr, dataset))}")
        if not isinstance(dataset, datasets.Dataset):
            raise TypeError(
                f"expected a datasets.Dataset, got a {type(dataset).__name__}; for a streamed one there is "
                "HuggingFaceStream"
            )
        self.dataset = dataset
        self._convert = _Columns(dataset.features, columns, size)

    @property
    def deterministic(self) -> bool:  # type: ignore[override]
        """Whether reading a sample twice gives the same: not where `set_transform` put a function of the user's."""
        return self.dataset.format["type"] != "custom"

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self._convert(self.dataset[position(index, len(self))])

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The samples at these positions, in this order."""
        return [self._convert(row) for row in self.dataset.__getitems__(list(indices))]

    @property
    def nbytes(self) -> int:
        """Bytes of all samples, if all are as large as the first."""
        first = self[0]
        parts = first if isinstance(first, tuple) else (first,)
        return len(self) * sum(part.numel() * part.element_size() for part in parts)


class HuggingFaceStream(ShardedStream):
    """A streamed `datasets.IterableDataset`, with samples as those of `HuggingFaceDataset`.

    It has no length, so training needs `max_steps`, or a `length` here. Its order is its own (`dataset.shuffle(seed=,
    buffer_size=)`; each epoch has another one), so a run that continues in mid-epoch reads and drops what it had seen.
    Several processes share it as `datasets.distributed.split_dataset_by_node` does: by whole shards where these
    divide evenly, else every n-th sample. Give a shuffled one a fixed seed then.

    Args:
        dataset: From `load_dataset(..., streaming=True)` or `to_iterable_dataset()`.
        columns: See `HuggingFaceDataset`.
        length: Samples that count as an epoch, over all processes; needed by several processes, whose shares may
            differ. A share that is used up before begins again.
        size: See `HuggingFaceDataset`.
    """

    def __init__(
        self,
        dataset: Any,
        columns: Sequence[str] | None = None,
        *,
        length: int | None = None,
        size: Size | None = None,
    ) -> None:
        datasets = optional("datasets", "Hugging Face datasets", "data")
        if not isinstance(dataset, datasets.IterableDataset):
            raise TypeError(
                f"expected a datasets.IterableDataset, got a {type(dataset).__name__}; load it with streaming=True, or "
                "use HuggingFaceDataset"
            )
        if length is not None and length < 1:
            raise ValueError(f"length must be at least 1, or None, got {length}")
        self.dataset = dataset
        self.columns = columns
        self.length = length
        self.size = size
        self._convert = _Columns(dataset.features, columns, size)

    def share(self, rank: int, world_size: int) -> HuggingFaceStream:
        """What one of several processes reads."""
        split = optional("datasets.distributed", "Hugging Face datasets", "data").split_dataset_by_node
        part = self.dataset if world_size == 1 else split(self.dataset, rank=rank, world_size=world_size)
        return HuggingFaceStream(part, self.columns, length=self.length, size=self.size)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next: a shuffled stream has another order in each."""
        self.dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        return map(self._convert, self.dataset)


class _Columns:
    """From a row, a mapping, to the tensors of the wanted columns."""

    def __init__(self, features: Mapping[str, Any] | None, columns: Sequence[str] | None, size: Size | None) -> None:
        if columns is not None and (isinstance(columns, str) or not columns):
            raise ValueError(f"columns must be a list of names, got {columns!r}")
        unknown = [name for name in columns or () if features is not None and name not in features]
        if unknown and features is not None:
            raise ValueError(f"no column {', '.join(map(repr, unknown))}; there are {', '.join(map(repr, features))}")
        self.columns = None if columns is None else list(columns)
        self.size = height_and_width(size)

    def __call__(self, row: Mapping[str, Any]) -> Any:
        names = list(row) if self.columns is None else self.columns
        missing = [name for name in names if name not in row]
        if missing:
            raise ValueError(f"no column {', '.join(map(repr, missing))}; there are {', '.join(map(repr, row))}")
        parts = tuple(self._tensor(name, row[name]) for name in names)
        return parts[0] if len(parts) == 1 else parts

    def _tensor(self, name: str, value: Any) -> Tensor:
        if isinstance(value, Tensor):
            return value
        if hasattr(value, "convert") and hasattr(value, "mode"):  # a picture of Pillow's, which need not be imported
            return image_tensor(value if self.size is None else value.resize((self.size[1], self.size[0])))
        try:
            return as_tensor(np.asarray(value))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"column {name!r} holds a {type(value).__name__} that cannot become a tensor ({error}); leave it out "
                "with columns=, or convert it with dataset.map"
            ) from error
