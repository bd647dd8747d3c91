"""Turn what people have (arrays, files, folders, datasets) into data a loader can serve, and one real set of images."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from jepa.data.memory import MemoryLoader

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")


def digits(
    split: Literal["train", "test", "all"] = "all", *, test_fraction: float = 0.25, seed: int = 0
) -> TensorDataset:
    """scikit-learn's 1,797 handwritten digits, without a download.

    Args:
        split: Which part; parts keep the shares of the ten classes.
        test_fraction: Share of the test part.
        seed: Decides which images are in which part.

    Returns:
        Images (N, 1, 8, 8) uint8, the original 0..16 scaled to 0..255, and labels (N,) int64.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError("digits need scikit-learn: pip install 'jepa-lab[eval]'") from error
    if split not in ("train", "test", "all"):
        raise ValueError(f"split must be 'train', 'test' or 'all', got {split!r}")
    pixels, classes = load_digits(return_X_y=True)
    pixels, classes = np.asarray(pixels).reshape(-1, 1, 8, 8), np.asarray(classes, np.int64)
    images = torch.from_numpy(np.round(pixels * (255 / 16)).astype(np.uint8))
    labels = torch.from_numpy(classes)
    if split == "all":
        return TensorDataset(images, labels)
    parts = train_test_split(np.arange(len(labels)), test_size=test_fraction, stratify=classes, random_state=seed)
    index = torch.from_numpy(np.sort(parts[0 if split == "train" else 1]))
    return TensorDataset(images[index], labels[index])


def load_data(source: Any, *, size: int | tuple[int, int] | None = None) -> Dataset[Any]:
    """A `Dataset` over an array, a tensor, a tuple of those, an `.npy` file, a folder of images, or a `Dataset`.

    Args:
        source: The data. A folder is searched for images in all its subfolders, in the order of their paths.
        size: Height and width to which images of a folder are resized, one number or (H, W); without it they must
            have one size.

    Returns:
        A dataset; files are loaded into memory as (N, ...) tensors, images as uint8 (N, C, H, W). Float64 arrays of
        numpy become float32 (torch's default); pass a tensor to keep them.

    Raises:
        FileNotFoundError: There is no such file or folder, or no image in it.
        ValueError: Arrays differ in length or images in size, an image is damaged, or the file is not a plain array.
        TypeError: Nothing that can be used as data.
    """
    if isinstance(source, Dataset):
        return source
    if isinstance(source, Tensor | np.ndarray):
        return _dataset(source)
    if isinstance(source, tuple | list) and source and all(isinstance(part, Tensor | np.ndarray) for part in source):
        return _dataset(*source)
    if isinstance(source, str | os.PathLike):
        return _load_path(Path(source), (size, size) if isinstance(size, int) else size)
    raise TypeError(
        f"cannot use a {type(source).__name__} as data; pass an array, a tensor, a tuple of those, a .npy file, a "
        "folder of images, or a Dataset"
    )


def _dataset(*arrays: Tensor | np.ndarray) -> TensorDataset:
    lengths = [len(array) if array.ndim else None for array in arrays]
    if None in lengths or len(set(lengths)) > 1:
        shapes = ", ".join(str(tuple(array.shape)) for array in arrays)
        raise ValueError(f"arrays must have equal length along their first axis, got shapes {shapes}")
    return TensorDataset(*map(_tensor, arrays))


def _tensor(array: Tensor | np.ndarray) -> Tensor:
    """Tensors as they are; numpy's float64, which is rarely meant, in torch's default precision."""
    if isinstance(array, np.ndarray) and array.dtype == np.float64:
        return torch.from_numpy(array).to(torch.get_default_dtype())
    return torch.as_tensor(array)


def _load_path(path: Path, size: tuple[int, int] | None) -> Dataset[Any]:
    if path.is_dir():
        return TensorDataset(_load_images(path, size))
    if not path.is_file():
        raise FileNotFoundError(f"no file or folder {path} (looked from {Path.cwd()})")
    if path.suffix != ".npy":
        raise ValueError(f"{path} is not a .npy file or a folder of images; save arrays with numpy.save")
    try:
        with path.open("rb") as file:
            array = np.load(file, allow_pickle=False)
            if not isinstance(array, np.ndarray):
                raise TypeError(f"it holds a {type(array).__name__}")
            return _dataset(array)
    except (ValueError, TypeError, EOFError) as error:
        raise ValueError(f"{path} is not a plain array ({error}); save it again with numpy.save") from error


def _load_images(folder: Path, size: tuple[int, int] | None) -> Tensor:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("folders of images need Pillow: pip install 'jepa-lab[eval]'") from error
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise FileNotFoundError(f"no image in {folder}; known suffixes: {', '.join(IMAGE_SUFFIXES)}")
    images = []
    for file in files:
        try:
            with Image.open(file) as image:
                picture = image.convert("L" if image.mode in ("1", "L") else "RGB")
        except OSError as error:
            raise ValueError(f"{file} is not an image that can be read ({error}); repair or remove it") from error
        array = np.asarray(picture if size is None else picture.resize((size[1], size[0])))
        images.append(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))
        if images[-1].shape != images[0].shape:
            raise ValueError(
                f"{file} has shape {images[-1].shape}, {files[0]} has {images[0].shape} (C, H, W); pass size=(H, W) to "
                "resize, and keep grey and colour images apart"
            )
    return torch.from_numpy(np.stack(images))


def make_loader(
    source: Any,
    *,
    batch_size: int = 64,
    shuffle: bool = True,
    drop_last: bool = False,
    transform: Callable[[Any, torch.Generator], Any] | None = None,
    num_workers: int = 0,
    size: int | tuple[int, int] | None = None,
) -> MemoryLoader | DataLoader[Any]:
    """A loader over anything `load_data` takes: in memory where it fits there, a `DataLoader` for other datasets.

    Args:
        source: See `load_data`.
        batch_size: Samples a batch, per process.
        shuffle: Whether each epoch has its own order.
        drop_last: Leave out the last batch where it is smaller.
        transform: For whole batches in memory, see `MemoryLoader`; a dataset of yours transforms its own samples.
        num_workers: Worker processes of a `DataLoader`.
        size: See `load_data`.
    """
    dataset = load_data(source, size=size)
    if isinstance(dataset, TensorDataset):
        return MemoryLoader(
            *dataset.tensors, batch_size=batch_size, shuffle=shuffle, drop_last=drop_last, transform=transform
        )
    if transform is not None:
        raise ValueError("transform= works on whole batches in memory; let your dataset transform its samples")
    return DataLoader(dataset, batch_size=batch_size, shuffle=shuffle, drop_last=drop_last, num_workers=num_workers)
