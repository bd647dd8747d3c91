"""Folders of images, decoded one by one with Pillow.

Axes: C channels (1 grey, 3 colour), H height, W width.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from jepa.data.lazy import LazyDataset, Size, height_and_width, position
from jepa.data.optional import optional

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")


class ImageFolder(LazyDataset):
    """The images of a folder and all its subfolders, in the order of their paths, each read when it is asked for.

    A sample is an image, uint8 (C, H, W), or with `labels` a pair of that and its class, int64 ().

    Args:
        folder: Where to look.
        size: Height and width to which images are resized when they are read, one number or (H, W); without it they
            must have one size.
        labels: Whether the subfolders of `folder` are the classes of the images in them, numbered in the order of
            their names.

    Attributes:
        files: Path of each sample.
        classes: Names of the classes; empty without `labels`.
        shape: (C, H, W) of every image.

    Raises:
        FileNotFoundError: There is no such folder, or no image in it.
        ValueError: An image is damaged or unlike the first (when it is read), or in no subfolder although `labels`.
        ImportError: Pillow is not installed.
    """

    deterministic: ClassVar[bool] = True

    def __init__(self, folder: str | os.PathLike[str], *, size: Size | None = None, labels: bool = False) -> None:
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder} (looked from {Path.cwd()})")
        self.files = files_with(folder, IMAGE_SUFFIXES)
        if not self.files:
            raise FileNotFoundError(f"no image in {folder}; known suffixes: {', '.join(IMAGE_SUFFIXES)}")
        self.size = height_and_width(size)
        self.labels: list[int] | None = None
        self.classes: list[str] = []
        if labels:
            names = [_class_of(file, folder) for file in self.files]
            self.classes = sorted(set(names))
            self.labels = [self.classes.index(name) for name in names]
        self.shape = tuple(read_image(self.files[0], self.size).shape)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        index = position(index, len(self))
        file = self.files[index]
        image = read_image(file, self.size)
        if tuple(image.shape) != self.shape:
            raise ValueError(
                f"{file} has shape {tuple(image.shape)}, {self.files[0]} has {self.shape} (C, H, W); pass "
                "size=(H, W) to resize, and keep grey and colour images apart"
            )
        return image if self.labels is None else (image, torch.tensor(self.labels[index]))

    @property
    def nbytes(self) -> int:
        """Bytes of all images once they are decoded, and of their labels."""
        return len(self) * (int(np.prod(self.shape)) + (8 if self.labels is not None else 0))


def files_with(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files of a folder and its subfolders with one of these suffixes, in the order of their paths."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in suffixes)


def _class_of(file: Path, folder: Path) -> str:
    inside = file.relative_to(folder).parts
    if len(inside) < 2:
        raise ValueError(
            f"{file} lies in no subfolder of {folder}, so it has no class; sort the images into one subfolder a class, "
            "or leave labels out"
        )
    return inside[0]


def read_image(file: Path, size: tuple[int, int] | None = None) -> Tensor:
    """One image as uint8 (C, H, W): grey ones with one channel, all others with three.

    Args:
        file: Its path.
        size: (H, W) to which it is resized.

    Raises:
        ValueError: It is damaged, no image, or has more than eight bits a channel.
    """
    pillow = optional("PIL.Image", "images", "eval")
    try:
        with pillow.open(file) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(
                    f"{file} has pixels of more than 8 bits (mode {image.mode!r}), which would be cut off; save the "
                    "images with 8 bits, or all of them as one .npy array"
                )
            mode = "L" if image.mode in ("1", "L") else "RGB"
            if size is not None:
                image.draft(mode, (size[1], size[0]))  # a JPEG is decoded at a fraction of its size, at once
            picture = image.convert(mode)
    except OSError as error:
        raise ValueError(f"{file} is not an image that can be read ({error}); repair or remove it") from error
    return image_tensor(picture if size is None else picture.resize((size[1], size[0])))


def image_tensor(picture: Any) -> Tensor:
    """A grey or colour Pillow image as uint8 (C, H, W)."""
    if picture.mode not in ("L", "RGB"):
        picture = picture.convert("L" if picture.mode == "1" else "RGB")
    array = np.array(picture)
    return torch.from_numpy(array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1)))
