"""Arrays in files: mapped where they are large, sorted reads, and workers that open them for themselves."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Subset, TensorDataset

from jepa.data import ArrayDataset, MemoryLoader, as_source, load_data
from jepa.data.arrays import open_arrays

ROWS = np.arange(60, dtype=np.float32).reshape(20, 3)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Twenty rows of three."""
    np.save(tmp_path / "rows.npy", ROWS)
    return tmp_path / "rows.npy"


def mapped(file: Path) -> ArrayDataset:
    dataset = load_data(file, memory=0)
    assert isinstance(dataset, ArrayDataset)
    assert isinstance(dataset.arrays[0], np.memmap)
    return dataset


@given(st.lists(st.integers(-20, 19), min_size=1, max_size=12))
def test_rows_come_in_the_order_asked_for(indices: list[int]) -> None:
    dataset = ArrayDataset(ROWS, np.arange(20))
    rows, numbers = zip(*dataset.__getitems__(indices), strict=True)
    assert torch.equal(torch.stack(rows), torch.from_numpy(ROWS[indices]))
    assert [int(number) for number in numbers] == [index % 20 for index in indices]


def test_a_batch_is_read_in_the_order_of_the_disk(file: Path) -> None:
    asked: list[list[int]] = []

    class Watched(np.ndarray):
        def __getitem__(self, index: Any) -> Any:
            asked.append(index.tolist())
            return np.asarray(self).__getitem__(index)

    loader = DataLoader(ArrayDataset(ROWS.view(Watched)), batch_size=10, shuffle=True)
    first, second = as_source(loader, seed=1).batches(0)
    assert asked == [sorted(rows) for rows in asked]
    assert [len(rows) for rows in asked] == [10, 10]
    assert first[:, 0].tolist() != sorted(first[:, 0].tolist()), "shuffled all the same"
    assert sorted(torch.cat([first, second])[:, 0].tolist()) == ROWS[:, 0].tolist()


def test_mapped_rows_equal_those_in_memory_batch_by_batch(file: Path) -> None:
    for rank in range(2):
        disk = as_source(DataLoader(mapped(file), batch_size=4, shuffle=True), seed=3, rank=rank, world_size=2)
        kept = as_source(MemoryLoader(ROWS, batch_size=4), seed=3, rank=rank, world_size=2)
        for theirs, ours in zip(disk.batches(2), kept.batches(2), strict=True):
            assert torch.equal(theirs, ours)


def test_a_part_of_mapped_rows_is_read_together(file: Path) -> None:
    loader = DataLoader(Subset(mapped(file), [9, 2, 5]), batch_size=3)
    (batch,) = as_source(loader, seed=0).batches(0)
    assert batch[:, 0].tolist() == [27, 6, 15]


def test_a_map_is_sent_to_another_process_by_its_name(tmp_path: Path) -> None:
    large = np.lib.format.open_memmap(tmp_path / "large.npy", "w+", np.uint8, (1000, 1000))
    large[7] = 7
    raw = np.memmap(tmp_path / "raw", np.int16, "w+", offset=64, shape=(3, 2), order="F")
    raw[:] = [[1, 2], [3, 4], [5, 6]]
    large.flush()
    raw.flush()
    for dataset, row in [(mapped(tmp_path / "large.npy"), 7), (ArrayDataset(raw), 1)]:
        sent = pickle.dumps(dataset)
        assert len(sent) < 2000
        assert torch.equal(pickle.loads(sent)[row], dataset[row])
    part = ArrayDataset(raw[1:])  # a part of a map goes with its content
    assert pickle.loads(pickle.dumps(part))[0].tolist() == [3, 4]


@pytest.mark.slow
def test_workers_read_the_same_rows(file: Path) -> None:
    loader = DataLoader(mapped(file), batch_size=4, shuffle=True, num_workers=2, multiprocessing_context="spawn")
    alone = DataLoader(mapped(file), batch_size=4, shuffle=True)
    for theirs, ours in zip(as_source(loader, seed=1).batches(0), as_source(alone, seed=1).batches(0), strict=True):
        assert torch.equal(theirs, ours)


def test_members_of_an_archive_are_chosen_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=ROWS, y=np.arange(20), extra=np.array(3))
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "b.npz", x=ROWS, y=np.arange(20))
        dataset = load_data(tmp_path / "b.npz")
        assert isinstance(dataset, TensorDataset)
        assert [part.shape for part in dataset.tensors] == [(20, 3), (20,)]
    chosen = load_data(tmp_path / "a.npz", keys=["y", "x"])
    assert isinstance(chosen, TensorDataset)
    assert [part.shape for part in chosen.tensors] == [(20,), (20, 3)]
    with pytest.raises(ValueError, match=r"member 'extra' of .*a.npz is a single number; choose the arrays with keys="):
        load_data(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"a.npz has no member z; it holds x, y, extra"):
        load_data(tmp_path / "a.npz", keys=["z"])
    with pytest.raises(
        ValueError, match=r"a.npz take [\d,]+ bytes, more than memory=300, and an archive cannot be map"
    ):
        load_data(tmp_path / "a.npz", keys=["x"], memory=300)
    np.save(tmp_path / "rows.npy", ROWS)
    with pytest.raises(ValueError, match=r"rows.npy holds one array without a name; keys= is for .npz"):
        open_arrays(tmp_path / "rows.npy", keys=["x"])


@pytest.mark.parametrize("content", ["empty", "text", "truncated", "pickle", "no members"])
def test_a_damaged_archive_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **({} if content == "no members" else {"x": ROWS}))
    whole = path.read_bytes()
    damaged = {"empty": b"", "text": b"no archive", "truncated": whole[:-30], "no members": whole}
    if content == "pickle":
        np.savez(path, x=np.array([object()]))
    else:
        path.write_bytes(damaged[content])
    message = "a.npz has no member at all" if content == "no members" else "a.npz is not an archive of plain arrays"
    with pytest.raises(ValueError, match=message):
        load_data(path)


def test_float64_becomes_torchs_type_and_the_map_stays_as_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS.astype(np.float64))
    assert mapped(tmp_path / "a.npy")[0].dtype == torch.float32
    np.save(tmp_path / "a.npy", ROWS.astype(np.uint8))
    row = mapped(tmp_path / "a.npy")[1]
    row += 1  # a copy: the file is not written to
    assert np.load(tmp_path / "a.npy")[1].tolist() == [3, 4, 5]


@pytest.mark.parametrize("dtype", [">f4", "S3", "M8[s]"])
def test_a_type_that_torch_does_not_have_is_named(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(ValueError, match=r"torch has no type for numpy's '.*'; convert with array.astype"):
        ArrayDataset(np.zeros(3, dtype))
    np.save(tmp_path / "a.npy", np.zeros(3, dtype))
    with pytest.raises(ValueError, match=r"a.npy is not a plain array \(torch has no type"):
        load_data(tmp_path / "a.npy")


def test_arrays_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"equal length along their first axis, got shapes \(20, 3\), \(3,\)"):
        ArrayDataset(ROWS, np.arange(3))
