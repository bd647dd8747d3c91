"""Whatever people have, as a dataset or a loader: in memory where it fits there."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from jepa.data import (
    ArrayDataset,
    HuggingFaceDataset,
    ImageFolder,
    MemoryLoader,
    SeriesWindows,
    VideoClips,
    digits,
    load_data,
    make_loader,
    minari_trajectories,
    series,
    series_windows,
    trajectories,
)
from tests.data.videos import write_video


def tensors(source: Any, **options: Any) -> tuple[Tensor, ...]:
    dataset = load_data(source, **options)
    assert isinstance(dataset, TensorDataset)
    return dataset.tensors


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
    with pytest.raises(FileNotFoundError, match=r"no image or video in .*; known suffixes: .png, .jpg.*.mp4"):
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
    (tmp_path / "data.dat").write_text("1,2")
    with pytest.raises(ValueError, match=r"data.dat is no kind of file that is known \(.npy, .npz, .csv.*numpy.save"):
        load_data(tmp_path / "data.dat")


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


def test_what_does_not_fit_in_memory_is_read_from_where_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(40, dtype=np.float32).reshape(10, 4))
    for number in range(10):
        picture(tmp_path / "images" / f"{number}.png", value=number)
    for source, nbytes, kind in [("a.npy", 160, ArrayDataset), ("images", 240, ImageFolder)]:
        kept = load_data(tmp_path / source, memory=nbytes)
        assert isinstance(kept, TensorDataset)
        read = load_data(tmp_path / source, memory=nbytes - 1)
        assert isinstance(read, kind)
        assert isinstance(make_loader(tmp_path / source, memory=nbytes), MemoryLoader)
        loader = make_loader(tmp_path / source, memory=nbytes - 1, batch_size=10, shuffle=False)
        assert isinstance(loader, DataLoader)
        (batch,) = loader
        assert torch.equal(batch, kept.tensors[0])


def test_maps_are_read_into_memory_where_they_fit(tmp_path: Path) -> None:
    source = np.memmap(tmp_path / "raw", np.uint8, "w+", shape=(6, 2))
    source[:] = np.arange(12).reshape(6, 2)
    (kept,) = tensors(source, memory=12)
    source[0] = 99
    assert kept.tolist()[0] == [0, 1], "a copy"
    mapped = load_data((source, torch.arange(6)), memory=11)
    assert isinstance(mapped, ArrayDataset)
    assert [part.tolist() for part in mapped[0]] == [[99, 99], 0]


def test_a_dataset_that_can_be_loaded_is_loaded_but_not_one_that_may_augment(tmp_path: Path) -> None:
    class Augmented(ImageFolder):
        pass

    picture(tmp_path / "1.png")
    assert isinstance(load_data(ImageFolder(tmp_path)), TensorDataset)
    assert isinstance(load_data(Augmented(tmp_path)), Augmented)


def test_tables_and_frames_become_windows(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"a": np.arange(6.0), "b": -np.arange(6.0)})
    frame.to_csv(tmp_path / "table.csv", index=False)
    for source in (frame, tmp_path / "table.csv"):
        (windows,) = tensors(source, length=3)
        assert windows.tolist() == [[[0, 1, 2], [0, -1, -2]], [[3, 4, 5], [-3, -4, -5]]]
        assert isinstance(load_data(source, length=3, memory=1), SeriesWindows)


def test_hugging_face_datasets_come_as_objects_or_folders(tmp_path: Path) -> None:
    dataset = datasets.Dataset.from_dict({"x": [1, 2, 3], "y": [4, 5, 6]})
    dataset.save_to_disk(str(tmp_path / "saved"))
    for source in (dataset, tmp_path / "saved"):
        (x,) = tensors(source, columns=["x"])
        assert x.tolist() == [1, 2, 3]
        assert isinstance(load_data(source, memory=1), HuggingFaceDataset)
    loader = make_loader(dataset.to_iterable_dataset(), columns=["y"], batch_size=2)
    assert [batch.tolist() for batch in loader] == [[4, 5], [6]]


def test_options_go_to_the_kind_of_data_that_has_them(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png")
    picture(tmp_path / "b" / "1.png")
    images, labels = tensors(tmp_path, labels=True, size=3)
    assert images.shape == (2, 1, 3, 3)
    assert labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("images", {"label": True}, r"\(ImageFolder\) has no option 'label'; did you mean 'labels'\?"),
        ("a.npy", {"size": 3}, r"\(open_arrays\) has no option 'size'; it has keys"),
        (np.zeros(3), {"size": 3}, r"\(arrays\) has no option 'size'; it has none"),
        (TensorDataset(torch.zeros(3)), {"columns": []}, r"has no option 'columns'; it has none"),
    ],
)
def test_an_option_of_another_kind_of_data_is_refused(tmp_path: Path, source: Any, options: Any, message: str) -> None:
    picture(tmp_path / "images" / "1.png")
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(TypeError, match=message):
        load_data(tmp_path / source if isinstance(source, str) else source, **options)


def test_a_folder_of_images_and_videos_is_not_guessed_at(tmp_path: Path) -> None:
    picture(tmp_path / "1.png")
    (tmp_path / "1.mp4").touch()
    with pytest.raises(ValueError, match=r"holds images and videos; say which are meant: jepa.data.ImageFolder"):
        load_data(tmp_path)


def test_transform_and_device_need_data_in_memory(tmp_path: Path) -> None:
    picture(tmp_path / "1.png")
    for options in ({"transform": lambda x, _: x}, {"device": "cpu"}):
        with pytest.raises(ValueError, match=r"let your dataset transform its samples, or raise memory="):
            make_loader(tmp_path, memory=1, **options)
        make_loader(tmp_path, **options)


def test_a_folder_of_videos_becomes_clips(tmp_path: Path) -> None:
    write_video(tmp_path / "1.mp4", 8)
    (clips,) = tensors(tmp_path, num_frames=4)
    assert clips.shape == (2, 3, 4, 32, 48)
    assert isinstance(load_data(tmp_path / "1.mp4", num_frames=4, memory=1), VideoClips)


@pytest.mark.parametrize(
    ("library", "extra", "use"),
    [
        ("PIL.Image", "eval", lambda: ImageFolder(Path(__file__).parents[2] / "docs")),
        ("av", "data", lambda: VideoClips("nothing")),
        ("pandas", "data", lambda: series_windows(None, 3)),
        ("datasets", "data", lambda: HuggingFaceDataset("nothing")),
        ("aeon.datasets", "data", lambda: series("basic_motions")),
        ("gymnasium", "world", lambda: trajectories(num_steps=20)),
        ("minari", "world", lambda: minari_trajectories("nothing")),
        ("sklearn.datasets", "eval", digits),
    ],
)
def test_a_missing_library_is_named_with_the_extra_to_install(
    monkeypatch: pytest.MonkeyPatch, library: str, extra: str, use: Any
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"need [\w-]+: pip install 'jepa-lab\[{extra}\]'"):
        use()
