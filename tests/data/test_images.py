"""Folders of images that are read one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from jepa.data import ImageFolder, as_source, load_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve colour images, of which each is of one value, in two classes and one subfolder of a class."""
    for number in range(12):
        path = tmp_path / "images" / ("cats" if number < 7 else "dogs/small") / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), (number, 2 * number, 3 * number)).save(path)
    return tmp_path / "images"


def loaded(source: Any, **options: Any) -> tuple[Tensor, ...]:
    dataset = load_data(source, **options)
    assert isinstance(dataset, TensorDataset)
    return dataset.tensors


def test_images_that_are_read_equal_those_in_memory(folder: Path) -> None:
    images = ImageFolder(folder)
    (kept,) = loaded(folder)
    assert len(images) == len(kept) == 12
    assert images.nbytes == kept.nbytes == 12 * 3 * 4 * 6
    for number, image in enumerate(kept):
        assert torch.equal(images[number], image)
        assert image[:, 0, 0].tolist() == [number, 2 * number, 3 * number]
    assert torch.equal(images[-1], kept[-1])
    with pytest.raises(IndexError, match="sample 12 of 12"):
        images[12]


def test_classes_are_the_folders_below(folder: Path) -> None:
    images = ImageFolder(folder, labels=True)
    assert images.classes == ["cats", "dogs"]
    assert [int(images[number][1]) for number in range(12)] == [0] * 7 + [1] * 5
    kept, labels = loaded(folder, labels=True)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0] * 7 + [1] * 5
    assert images.nbytes == kept.nbytes + labels.nbytes


def test_an_image_outside_the_folders_of_the_classes_is_named(folder: Path) -> None:
    Image.new("RGB", (6, 4)).save(folder / "stray.png")
    with pytest.raises(ValueError, match=r"stray.png lies in no subfolder of .*images, so it has no class"):
        ImageFolder(folder, labels=True)


def test_a_loader_reads_them_by_number_in_every_epoch(folder: Path) -> None:
    loader = DataLoader(ImageFolder(folder, labels=True), batch_size=5, shuffle=True)
    source = as_source(loader, seed=2)
    whole, tail = list(source.batches(3)), list(source.batches(3, start=1))
    assert [len(images) for images, _ in whole] == [5, 5, 2]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(whole[1:], tail, strict=True))
    assert sorted(int(image[0, 0, 0]) for images, _ in whole for image in images) == list(range(12))


def test_images_are_resized_when_they_are_read(tmp_path: Path) -> None:
    halves = np.zeros((64, 64, 3), np.uint8)
    halves[:, 32:] = (200, 100, 50)
    for suffix in ("png", "jpg"):
        Image.fromarray(halves).save(tmp_path / f"1.{suffix}")
    for image in ImageFolder(tmp_path, size=(8, 16)):
        assert image.shape == (3, 8, 16)
        assert (image[:, :, :6].float() - 0).abs().max() < 4
        assert (image[:, :, 10:].float() - torch.tensor([200.0, 100, 50]).view(3, 1, 1)).abs().max() < 4


def test_a_damaged_or_unlike_image_is_named_when_it_is_read(folder: Path) -> None:
    images = ImageFolder(folder)
    images.files[3].write_bytes(images.files[3].read_bytes()[:40])
    Image.new("RGB", (5, 4)).save(images.files[4])
    with pytest.raises(ValueError, match=r"03.png is not an image that can be read .*; repair or remove it"):
        images[3]
    with pytest.raises(ValueError, match=r"04.png has shape \(3, 4, 5\), .*00.png has \(3, 4, 6\).*pass size="):
        images[4]
    assert images[5][0, 0, 0] == 5


def test_pixels_of_more_than_a_byte_are_not_cut_off(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep.png has pixels of more than 8 bits \(mode 'I;16'\)"):
        ImageFolder(tmp_path)


def test_missing_folders_and_bad_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*none \(looked from"):
        ImageFolder(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"no image in .*; known suffixes: .png"):
        ImageFolder(tmp_path)
    Image.new("L", (4, 4)).save(tmp_path / "1.png")
    with pytest.raises(ValueError, match=r"size must be one positive number or \(H, W\), got 0"):
        ImageFolder(tmp_path, size=0)
