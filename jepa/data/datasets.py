"""Turn what people have (arrays, files, folders, frames, datasets) into data a loader can serve."""

from __future__ import annotations

import difflib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from jepa.data.arrays import ArrayDataset, as_tensor, check_lengths, open_arrays
from jepa.data.huggingface import HuggingFaceDataset, HuggingFaceStream
from jepa.data.images import IMAGE_SUFFIXES, ImageFolder
from jepa.data.lazy import LazyDataset, states_deterministic
from jepa.data.memory import BatchGenerator, MemoryLoader
from jepa.data.optional import optional
from jepa.data.videos import VIDEO_SUFFIXES, VideoClips
from jepa.data.windows import series_windows

TABLE_SUFFIXES = (".csv", ".parquet")
MEMORY = 2 * 2**30
"""Bytes that are taken into memory unless told otherwise, in each process: 2 GiB."""


def load_data(source: Any, *, memory: float = MEMORY, **options: Any) -> Dataset[Any]:
    """A `Dataset` over whatever there is: in memory where it fits there, else read sample by sample.

    - An array, a tensor or a tuple of those: itself.
    - An `.npy` file or a `numpy.memmap`: the array. An `.npz` file: its arrays (option `keys`).
    - A folder of images: `ImageFolder` (`size`, `labels`).
    - A video or a folder of videos: `VideoClips` (`num_frames`, `stride`, `size`, ...).
    - A `pandas.DataFrame`, a `.csv` or a `.parquet` file: `series_windows` (`length`, `stride`, `columns`, ...).
    - A `datasets.Dataset` or the folder of one: `HuggingFaceDataset` (`columns`, `size`).
    - A `datasets.IterableDataset`: `HuggingFaceStream` (`columns`, `length`, `size`).
    - A `Dataset`: itself.

    Args:
        source: The data.
        memory: What takes more bytes than this once it is decoded (2 GiB by default) stays on the disk. The size is
            reckoned from the first sample. Arrays and tensors that are in memory already stay there.
        **options: Of the adapter that the source needs.

    Returns:
        A `TensorDataset` of what is in memory, images as uint8 (N, C, H, W), else the adapter. Float64 arrays of numpy
        become torch's default type; pass a tensor to keep them.

    Raises:
        FileNotFoundError: There is no such file or folder, or nothing usable in it.
        ValueError: Something in the data does not fit together or is damaged; the message names it.
        TypeError: Nothing that can be used as data, or an option that it does not have.
    """
    dataset = _open(source, memory, options)
    if isinstance(dataset, LazyDataset) and states_deterministic(dataset) and dataset.nbytes <= memory:
        return dataset.load()
    return dataset


def _open(source: Any, memory: float, options: dict[str, Any]) -> Dataset[Any]:
    if isinstance(source, str | os.PathLike):
        return _open_path(Path(source), memory, options)
    adapter = _adapter(source)
    if adapter is not None:
        return adapt(adapter, source, options)
    if isinstance(source, Dataset):
        return adapt(_itself, source, options)
    if isinstance(source, Tensor | np.ndarray):
        return adapt(_arrays, (source,), options, memory)
    if isinstance(source, tuple | list) and source and all(isinstance(part, Tensor | np.ndarray) for part in source):
        return adapt(_arrays, source, options, memory)
    raise TypeError(
        f"cannot use a {type(source).__name__} as data; pass an array, a tensor, a tuple of those, a file, a folder of "
        "images or videos, a DataFrame, or a Dataset"
    )


def _adapter(source: Any) -> Callable[..., Dataset[Any]] | None:
    """For the objects of optional libraries, which were imported if there is one of their objects."""
    known = {
        ("pandas", "DataFrame"): series_windows,
        ("datasets", "Dataset"): HuggingFaceDataset,
        ("datasets", "DatasetDict"): HuggingFaceDataset,  # which says to choose a part
        ("datasets", "IterableDataset"): HuggingFaceStream,
    }
    for (module, name), adapter in known.items():
        if module in sys.modules and isinstance(source, getattr(sys.modules[module], name, ())):
            return adapter
    return None


def _open_path(path: Path, memory: float, options: dict[str, Any]) -> Dataset[Any]:
    suffix = path.suffix.lower()
    if path.is_dir():
        return adapt(_folder_adapter(path), path, options)
    if not path.is_file():
        raise FileNotFoundError(f"no file or folder {path} (looked from {Path.cwd()})")
    if suffix in (".npy", ".npz"):
        return _arrays(adapt(open_arrays, path, options, memory=memory), memory)
    if suffix in VIDEO_SUFFIXES:
        return adapt(VideoClips, path, options)
    if suffix in TABLE_SUFFIXES:
        pandas = optional("pandas", "tables", "data")
        return adapt(series_windows, (pandas.read_csv if suffix == ".csv" else pandas.read_parquet)(path), options)
    raise ValueError(
        f"{path} is no kind of file that is known (.npy, .npz, {', '.join(TABLE_SUFFIXES + VIDEO_SUFFIXES)}), nor a "
        "folder; save arrays with numpy.save"
    )


def _folder_adapter(folder: Path) -> Callable[..., Dataset[Any]]:
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return HuggingFaceDataset
    suffixes = {file.suffix.lower() for file in folder.rglob("*")}
    images, videos = suffixes & set(IMAGE_SUFFIXES), suffixes & set(VIDEO_SUFFIXES)
    if images and videos:
        raise ValueError(
            f"{folder} holds images and videos; say which are meant: jepa.data.ImageFolder(folder), or "
            "jepa.data.VideoClips(folder)"
        )
    if not images and not videos:
        raise FileNotFoundError(
            f"no image or video in {folder}; known suffixes: {', '.join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)}"
        )
    return ImageFolder if images else VideoClips


def _itself(dataset: Dataset[Any]) -> Dataset[Any]:
    return dataset


def _arrays(arrays: Any, memory: float) -> Dataset[Any]:
    check_lengths(*arrays)
    maps = [array for array in arrays if isinstance(array, np.memmap)]
    if sum(array.nbytes for array in maps) > memory:
        return ArrayDataset(*map(np.asanyarray, arrays))
    return TensorDataset(*(as_tensor(np.array(each) if isinstance(each, np.memmap) else each) for each in arrays))


def adapt(adapter: Callable[..., Any], source: Any, options: dict[str, Any], *fixed: Any, **more: Any) -> Any:
    """Call an adapter.

    Args:
        adapter: Takes `source`, then `*fixed`, then options by name.
        source: The data.
        options: From the user.
        *fixed: Not for the user to choose.
        **more: Likewise.

    Raises:
        TypeError: It does not have one of the options.
    """
    known = [name for name in list(inspect.signature(adapter).parameters)[1 + len(fixed) :] if name not in more]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known) or 'none'}"
            kind = adapter.__name__.strip("_")
            raise TypeError(f"data of this kind ({kind}) has no option {name!r}; {hint}")
    return adapter(source, *fixed, **more, **options)


def make_loader(
    source: Any,
    *,
    batch_size: int = 64,
    shuffle: bool = True,
    drop_last: bool = False,
    transform: Callable[[Any, BatchGenerator], Any] | None = None,
    device: torch.device | str | None = None,
    num_workers: int = 0,
    memory: float = MEMORY,
    **options: Any,
) -> MemoryLoader | DataLoader[Any]:
    """A loader over anything `load_data` takes: a `MemoryLoader` for what fits in memory, else a `DataLoader`.

    Args:
        source: See `load_data`.
        batch_size: Samples a batch, per process.
        shuffle: Whether each epoch has its own order; a stream has its own in any case.
        drop_last: Leave out the last batch where it is smaller.
        transform: For whole batches in memory, see `MemoryLoader`; a dataset of yours transforms its own samples.
        device: Where data in memory is kept, see `MemoryLoader`.
        num_workers: Worker processes of a `DataLoader`.
        memory: See `load_data`: what takes more bytes than this is read while training. Every process has its own.
        **options: See `load_data`.
    """
    dataset = load_data(source, memory=memory, **options)
    if isinstance(dataset, TensorDataset):
        return MemoryLoader(
            *dataset.tensors,
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            transform=transform,
            device=device,
        )
    for name, value in {"transform": transform, "device": device}.items():
        if value is not None:
            raise ValueError(
                f"{name}= works on whole batches in memory, and this data is read sample by sample; let your dataset "
                "transform its samples, or raise memory= if the data fits there"
            )
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle and not isinstance(dataset, IterableDataset),
        drop_last=drop_last,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
    )
