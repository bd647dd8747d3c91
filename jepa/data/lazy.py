"""Data that stays where it is until a sample is asked for, and may be taken into memory where it fits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

Size = int | tuple[int, int]


class LazyDataset(Dataset[Any], ABC):
    """Samples that are read on demand: a tensor each, or a tuple of tensors, all of equal shape.

    Attributes:
        deterministic: Whether reading a sample twice gives the same for certain. It counts for the class that states
            it and not for its subclasses, which may augment: those are read one by one under a seed of their own.
    """

    deterministic: ClassVar[bool] = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Any: ...

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Several samples at once, as a `DataLoader` asks for them."""
        return [self[index] for index in indices]

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of all samples together, once they are in memory."""

    def load(self) -> TensorDataset:
        """All samples in memory.

        Raises:
            ValueError: They differ in shape.
        """
        arrays = [part.new_empty((len(self), *part.shape)) for part in _parts(self[0])]
        for number in range(len(self)):
            for array, part in zip(arrays, _parts(self[number]), strict=True):
                if array.shape[1:] != part.shape:
                    raise ValueError(
                        f"sample {number} has shape {tuple(part.shape)}, sample 0 has {tuple(array.shape[1:])}; "
                        "make them equal (images: size=(H, W))"
                    )
                array[number] = part
        return TensorDataset(*arrays)


def states_deterministic(dataset: Any) -> bool:
    """Whether the very class of a dataset states that reading a sample twice gives the same."""
    return "deterministic" in vars(type(dataset)) and bool(dataset.deterministic)


def _parts(sample: Any) -> tuple[Tensor, ...]:
    return sample if isinstance(sample, tuple) else (sample,)


def height_and_width(size: Size | None) -> tuple[int, int] | None:
    """One number or (H, W) as (H, W).

    Raises:
        ValueError: A side is not positive.
    """
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise ValueError(f"size must be one positive number or (H, W), got {size}")
    return height, width


def position(index: int, length: int) -> int:
    """An index that may count from the end, from the start.

    Raises:
        IndexError: There is no such sample.
    """
    if not -length <= index < length:
        raise IndexError(f"sample {index} of {length}")
    return index % length
