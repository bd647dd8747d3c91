"""Whatever people have, as a dataset or a loader, and the digits."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from jepa.data import MemoryLoader, digits, load_data, make_loader


def tensors(source: Any, **options: Any) -> tuple[Tensor, ...]:
    dataset = load_data(source, **options)
    assert isinstance(dataset, TensorDataset)
    return dataset.tensors


def test_digits_are_the_known_images_scaled_to_bytes() -> None:
    images, labels = digits().tensors
    pixels, classes = load_digits(return_X_y=True)
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == torch.uint8
    assert labels.dtype == torch.int64
    expected = np.floor(pixels.reshape(-1, 1, 8, 8) / 16 * 255 + 0.5)
    assert torch.equal(images, torch.from_numpy(expected.astype(np.uint8)))
    assert (int(images.min()), int(images.max())) == (0, 255)
    assert torch.equal(labels, torch.from_numpy(classes))


def test_digits_are_split_without_overlap_and_with_equal_shares_of_the_classes() -> None:
    (train, train_labels), (test, test_labels) = digits("train").tensors, digits("test").tensors
    assert (len(train), len(test)) == (1347, 450)
    every = sorted(image.numpy().tobytes() for image in digits().tensors[0])
    assert sorted(image.numpy().tobytes() for image in torch.cat([train, test])) == every
    shares = torch.bincount(test_labels) / torch.bincount(torch.cat([train_labels, test_labels]))
    assert (shares - 0.25).abs().max() < 0.005


def test_digits_split_depends_on_its_seed_only() -> None:
    assert torch.equal(digits("test").tensors[0], digits("test").tensors[0])
    assert not torch.equal(digits("test", seed=1).tensors[0], digits("test").tensors[0])
    assert len(digits("test", test_fraction=0.5)) == 899


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split must be 'train', 'test' or 'all', got 'val'"):
        digits("val")  # type: ignore[arg-type]


def test_arrays_and_tensors_become_datasets_without_a_copy() -> None:
    array, tensor = np.arange(6, dtype=np.float32).reshape(3, 2), torch.arange(3)
    (one,) = tensors(array)
    assert one.dtype == torch.float32
    assert one.data_ptr() == array.ctypes.data
    assert tensors(tensor)[0] is tensor
    for several in ((array, tensor), [array, tensor]):
        left, right = tensors(several)
        assert torch.equal(left, one)
        assert torch.equal(right, tensor)
    assert load_data((array, tensor))[1][0].tolist() == [2.0, 3.0]


def test_numpys_default_floats_become_torchs_and_tensors_keep_theirs(tmp_path: Path) -> None:
    array = np.arange(6.0).reshape(3, 2)
    np.save(tmp_path / "a.npy", array)
    assert tensors(array)[0].dtype == tensors(tmp_path / "a.npy")[0].dtype == torch.float32
    assert tensors(torch.from_numpy(array))[0].dtype == torch.float64


def test_a_dataset_stays_itself() -> None:
    dataset = digits("test")
    assert load_data(dataset) is dataset


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
def test_npy_files_are_loaded_in_their_own_type(tmp_path: Path, dtype: type) -> None:
    array = np.arange(12, dtype=dtype).reshape(3, 4)
    np.save(tmp_path / "data.npy", array)
    for path in (tmp_path / "data.npy", str(tmp_path / "data.npy")):
        (loaded,) = tensors(path)
        assert torch.equal(loaded, torch.from_numpy(array))


def picture(path: Path, mode: str = "L", size: tuple[int, int] = (6, 4), value: Any = 7) -> None:
    """An image of one value, `size` wide and high."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def test_grey_images_of_all_subfolders_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    picture(tmp_path / "b" / "1.png", value=3)
    picture(tmp_path / "a" / "2.PNG", value=2)
    picture(tmp_path / "a" / "1.bmp", value=1)
    (tmp_path / "a" / "labels.txt").write_text("no image")
    (images,) = tensors(tmp_path)
    assert images.shape == (3, 1, 4, 6)
    assert images.dtype == torch.uint8
    assert images[:, 0, 0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize(("mode", "value"), [("RGB", (1, 2, 3)), ("RGBA", (1, 2, 3, 255))])
def test_colour_images_have_three_channels(tmp_path: Path, mode: str, value: tuple[int, ...]) -> None:
    picture(tmp_path / "1.png", mode, value=value)
    (images,) = tensors(tmp_path)
    assert images.shape == (1, 3, 4, 6)
    assert images[0, :, 0, 0].tolist() == [1, 2, 3]


def test_images_of_mixed_sizes_are_refused_unless_a_size_is_given(tmp_path: Path) -> None:
    picture(tmp_path / "1.png", size=(6, 4), value=5)
    picture(tmp_path / "2.png", size=(4, 4), value=9)
    with pytest.raises(ValueError, match=r"2.png has shape \(1, 4, 4\), .*1.png has \(1, 4, 6\).*pass size=\(H, W\)"):
        load_data(tmp_path)
    (images,) = tensors(tmp_path, size=(2, 3))
    assert images.shape == (2, 1, 2, 3)
    assert [int(image.unique()) for image in images] == [5, 9]


def test_grey_and_colour_images_are_not_mixed(tmp_path: Path) -> None:
    picture(tmp_path / "1.png")
    picture(tmp_path / "2.png", "RGB", value=(1, 2, 3))
    with pytest.raises(ValueError, match="keep grey and colour images apart"):
        load_data(tmp_path)


@pytest.mark.parametrize("cut", [0, 30, -500])
def test_a_damaged_image_is_named(tmp_path: Path, cut: int) -> None:
    picture(tmp_path / "1.png", size=(64, 64))
    Image.effect_noise((64, 64), 50).save(tmp_path / "2.png")
    whole = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(whole[:cut])
    with pytest.raises(ValueError, match=r"2.png is not an image that can be read"):
        load_data(tmp_path)


def test_missing_files_and_folders_without_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*nothing.npy \(looked from "):
        load_data(tmp_path / "nothing.npy")
    with pytest.raises(FileNotFoundError, match=r"no image in .*; known suffixes: .png, .jpg"):
        load_data(tmp_path)


def test_a_pickled_file_is_refused_and_not_executed(tmp_path: Path) -> None:
    trace = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return trace.touch, ()

    np.save(tmp_path / "objects.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Evil()))
    for name in ("objects.npy", "pickle.npy"):
        with pytest.raises(ValueError, match=rf"{name} is not a plain array .*; save it again with numpy.save"):
            load_data(tmp_path / name)
    assert not trace.exists()


@pytest.mark.parametrize("content", ["empty", "truncated", "text array", "archive"])
def test_a_file_that_holds_no_plain_array_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "data.npy"
    with path.open("wb") as file:
        if content == "truncated":
            np.save(file, np.arange(100))
            file.truncate(300)
        elif content == "text array":
            np.save(file, np.array(["a", "b"]))
        elif content == "archive":
            np.savez(file, a=np.zeros(3))
    with pytest.raises(ValueError, match=r"data.npy is not a plain array"):
        load_data(path)


def test_other_file_types_are_refused_with_the_next_move(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("1,2")
    with pytest.raises(ValueError, match=r"data.csv is not a .npy file or a folder of images; save arrays with numpy"):
        load_data(tmp_path / "data.csv")


@pytest.mark.parametrize("source", [5, None, [], ("a", "b"), [1, 2]])
def test_what_is_no_data_is_refused(source: Any) -> None:
    with pytest.raises(TypeError, match=r"cannot use a \w+ as data; pass an array, a tensor"):
        load_data(source)


@pytest.mark.parametrize("source", [(torch.zeros(3), torch.zeros(4)), (np.zeros(3), np.array(1.0))])
def test_arrays_of_different_lengths_are_refused(source: Any) -> None:
    with pytest.raises(ValueError, match="arrays must have equal length"):
        load_data(source)


def test_loader_over_data_in_memory_is_a_memory_loader() -> None:
    loader = make_loader(np.arange(10), batch_size=4, shuffle=False, drop_last=True, transform=lambda x, _: x + 1)
    assert isinstance(loader, MemoryLoader)
    assert [batch.tolist() for batch in loader] == [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_loader_over_a_folder_resizes_its_images(tmp_path: Path) -> None:
    picture(tmp_path / "1.png")
    (batch,) = make_loader(tmp_path, size=(3, 3))
    assert batch.shape == (1, 1, 3, 3)


class Squares(Dataset[Tensor]):
    """Sample i is i squared."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor(index**2)


def test_loader_over_another_dataset_is_a_dataloader() -> None:
    loader = make_loader(Squares(), batch_size=4, shuffle=False)
    assert isinstance(loader, DataLoader)
    assert [batch.tolist() for batch in loader] == [[0, 1, 4, 9], [16, 25]]
    with pytest.raises(ValueError, match="let your dataset transform its samples"):
        make_loader(Squares(), transform=lambda x, _: x)
