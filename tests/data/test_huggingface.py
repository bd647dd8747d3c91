"""Hugging Face datasets: rows as tensors, read by number or as a stream that the ranks share."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from jepa.data import HuggingFaceDataset, HuggingFaceStream, as_source


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> datasets.Dataset:
    """Ten rows: a picture, a class, a list of floats and a text, saved and read again."""
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "state": datasets.Sequence(datasets.Value("float32"), length=3),
            "text": datasets.Value("string"),
        }
    )
    images = [Image.new("RGB", (6, 4), (number, 2 * number, 3 * number)) for number in range(10)]
    table = {
        "image": images,
        "label": [number % 2 for number in range(10)],
        "state": [[number, number + 0.5, -number] for number in range(10)],
        "text": [str(number) for number in range(10)],
    }
    folder = tmp_path_factory.mktemp("rows")
    datasets.Dataset.from_dict(table, features=features).save_to_disk(str(folder))
    return datasets.load_from_disk(str(folder))


def numbered(length: int, num_shards: int = 1) -> datasets.IterableDataset:
    return datasets.Dataset.from_dict({"x": list(range(length))}).to_iterable_dataset(num_shards=num_shards)


def stream(samples: int, *, num_shards: int = 1, length: int | None = None) -> HuggingFaceStream:
    return HuggingFaceStream(numbered(samples, num_shards), length=length)


def test_columns_become_tensors_in_the_order_asked_for(rows: datasets.Dataset) -> None:
    data = HuggingFaceDataset(rows, ["image", "label", "state"])
    image, label, state = data[3]
    assert image.dtype == torch.uint8
    assert image.shape == (3, 4, 6)
    assert image[:, 0, 0].tolist() == [3, 6, 9]
    assert (label.dtype, label.item()) == (torch.int64, 1)
    assert (state.dtype, state.tolist()) == (torch.float32, [3.0, 3.5, -3.0])
    assert HuggingFaceDataset(rows, ["state"])[-1].tolist() == [9.0, 9.5, -9.0]
    assert HuggingFaceDataset(rows, ["image"], size=(2, 3))[1].shape == (3, 2, 3)


def test_rows_asked_for_together_equal_those_one_by_one(rows: datasets.Dataset) -> None:
    data = HuggingFaceDataset(rows, ["image", "label"])
    for (image, label), number in zip(data.__getitems__([7, 2, 7]), [7, 2, 7], strict=True):
        assert torch.equal(image, data[number][0])
        assert torch.equal(label, data[number][1])
    assert data.nbytes == 10 * (3 * 4 * 6 + 8)
    assert torch.equal(data.load().tensors[0][4], data[4][0])


def test_a_saved_dataset_is_read_by_number_in_mid_epoch(rows: datasets.Dataset) -> None:
    loader = DataLoader(HuggingFaceDataset(rows, ["state"]), batch_size=4, shuffle=True)
    source = as_source(loader, seed=1)
    whole = [batch[:, 0].tolist() for batch in source.batches(2)]
    assert [batch[:, 0].tolist() for batch in source.batches(2, start=1)] == whole[1:]
    assert sorted(chain(*whole)) == list(range(10))


def test_formats_and_grey_images_are_understood() -> None:
    plain = datasets.Dataset.from_dict({"x": [[1.5, 2.5]], "image": [Image.new("L", (3, 2), 9)]})
    expected = (torch.tensor([1.5, 2.5]), torch.full((1, 2, 3), 9, dtype=torch.uint8))
    for found, wanted in zip(HuggingFaceDataset(plain)[0], expected, strict=True):
        assert torch.equal(found, wanted)
        assert found.dtype == wanted.dtype
    assert torch.equal(HuggingFaceDataset(plain.with_format("torch"), ["x"])[0], expected[0])
    assert torch.equal(HuggingFaceDataset(plain.with_format("numpy"), ["x"])[0], expected[0])


def test_a_transform_of_the_users_is_seeded_by_sample() -> None:
    def noisy(batch: dict[str, list[int]]) -> dict[str, list[float]]:
        return {"x": [number + np.random.rand() for number in batch["x"]]}

    data = HuggingFaceDataset(datasets.Dataset.from_dict({"x": list(range(6))}).with_transform(noisy))
    assert not data.deterministic
    loader = DataLoader(data, batch_size=3, shuffle=True)
    first, second, other = (torch.cat(list(as_source(loader, seed=0).batches(epoch))) for epoch in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first.sort().values, other.sort().values)


def test_what_cannot_become_a_tensor_is_named_by_its_column(rows: datasets.Dataset) -> None:
    with pytest.raises(ValueError, match=r"column 'text' holds a str that cannot become a tensor .*columns="):
        HuggingFaceDataset(rows)[0]
    with pytest.raises(ValueError, match=r"no column 'class'; there are 'image', 'label', 'state', 'text'"):
        HuggingFaceDataset(rows, ["class"])
    with pytest.raises(ValueError, match="columns must be a list of names, got 'image'"):
        HuggingFaceDataset(rows, "image")
    with pytest.raises(ValueError, match=r"sample 1 has shape \(1,\), sample 0 has \(2,\)"):
        HuggingFaceDataset(datasets.Dataset.from_dict({"x": [[1, 2], [3]]})).load()


def test_other_objects_are_refused_with_what_to_use(rows: datasets.Dataset, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="got several datasets; choose one of 'train', 'test'"):
        HuggingFaceDataset(datasets.DatasetDict(train=rows, test=rows))
    with pytest.raises(TypeError, match="got a IterableDataset; for a streamed one there is HuggingFaceStream"):
        HuggingFaceDataset(numbered(3))
    with pytest.raises(TypeError, match=r"got a Dataset; load it with streaming=True, or use HuggingFaceDataset"):
        HuggingFaceStream(rows)
    with pytest.raises(FileNotFoundError, match=r"no folder .*none"):
        HuggingFaceDataset(tmp_path / "none")
    with pytest.raises(ValueError, match="length must be at least 1, or None, got 0"):
        stream(3, length=0)


# Streams


def values(source: Any, epoch: int = 0, start: int = 0) -> list[list[int]]:
    return [batch.tolist() for batch in source.batches(epoch, start)]


def test_a_stream_has_the_samples_of_the_dataset(rows: datasets.Dataset) -> None:
    data = HuggingFaceStream(rows.to_iterable_dataset(), ["image", "label"])
    by_number = HuggingFaceDataset(rows, ["image", "label"])
    count = 0
    for number, (image, label) in enumerate(data):
        assert torch.equal(image, by_number[number][0])
        assert torch.equal(label, by_number[number][1])
        count += 1
    assert count == 10


def test_without_a_length_an_epoch_is_one_pass_and_continuing_skips() -> None:
    source = as_source(DataLoader(stream(10), batch_size=4), seed=0)
    assert source.batches_per_epoch is None
    assert values(source) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert values(source, start=2) == [[8, 9]]
    assert "reads and drops its first batches" in source.notes[0]
    assert source.describe(0, 2) == "batch 2"


def test_a_shuffled_stream_has_an_order_for_each_epoch_that_can_be_repeated() -> None:
    def source() -> Any:
        shuffled = HuggingFaceStream(numbered(40, 4).shuffle(seed=3, buffer_size=16))
        return as_source(DataLoader(shuffled, batch_size=8), seed=0)

    first, second = values(source(), 0), values(source(), 1)
    assert first != second
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(40))
    again = source()
    values(again, 0)
    assert values(again, 1, start=2) == second[2:]


@pytest.mark.parametrize("num_shards", [1, 4])
def test_ranks_share_a_stream_without_overlap(num_shards: int) -> None:
    def share(rank: int) -> list[list[int]]:
        loader = DataLoader(stream(16, num_shards=num_shards, length=16), batch_size=4)
        source = as_source(loader, seed=0, rank=rank, world_size=2)
        assert source.batches_per_epoch == 2
        return values(source)

    shares = [share(rank) for rank in range(2)]
    assert sorted(chain(*shares[0], *shares[1])) == list(range(16))
    for rank in range(2):
        split = datasets.distributed.split_dataset_by_node(numbered(16, num_shards), rank=rank, world_size=2)
        assert [*chain(*shares[rank])] == [row["x"] for row in split]


def test_two_ranks_see_the_global_batches_of_one_where_samples_are_dealt_out() -> None:
    alone = values(as_source(DataLoader(stream(16, length=16), batch_size=8), seed=0))
    loader = DataLoader(stream(16, length=16), batch_size=4)
    shares = [values(as_source(loader, seed=0, rank=rank, world_size=2)) for rank in range(2)]
    assert [sorted(left + right) for left, right in zip(*shares, strict=True)] == alone


def test_every_rank_has_equally_many_full_batches_though_shares_differ() -> None:
    for rank in range(2):  # 7 samples: shares of 4 and 3
        source = as_source(DataLoader(stream(7, length=7), batch_size=2), seed=0, rank=rank, world_size=2)
        assert source.batches_per_epoch == 2
        assert [len(batch) for batch in values(source)] == [2, 2]
    assert values(source) == [[1, 3], [5, 1]], "the shorter share begins again"
    dropped = as_source(DataLoader(stream(7, length=7), batch_size=2, drop_last=True), seed=0)
    assert dropped.batches_per_epoch == 3


def test_several_ranks_need_a_length() -> None:
    with pytest.raises(ValueError, match="give the stream a length=, the number of samples that count as an epoch"):
        as_source(DataLoader(stream(8), batch_size=2), seed=0, rank=0, world_size=2)
    with pytest.raises(ValueError, match=r"the loader is empty: 3 samples, batches of 2 on 2 process"):
        as_source(DataLoader(stream(8, length=3), batch_size=2, drop_last=True), seed=0, rank=0, world_size=2)
    with pytest.raises(ValueError, match="batch_size=None yields samples"):
        as_source(DataLoader(stream(8), batch_size=None), seed=0)


def test_an_empty_stream_is_refused_where_it_would_be_read_for_ever() -> None:
    empty = HuggingFaceStream(numbered(4).filter(lambda row: row["x"] > 9), length=4)
    with pytest.raises(ValueError, match="the stream is empty"):
        values(as_source(DataLoader(empty, batch_size=2), seed=0))


@pytest.mark.slow
def test_workers_share_the_shards_of_a_stream() -> None:
    loader = DataLoader(stream(24, num_shards=4, length=24), batch_size=3, num_workers=2)
    for epoch in range(2):
        assert sorted(chain(*values(as_source(loader, seed=0), epoch))) == list(range(24))


def test_a_column_that_a_stream_does_not_have_is_named() -> None:
    with pytest.raises(ValueError, match="no column 'y'; there are 'x'"):
        next(iter(HuggingFaceStream(numbered(3).map(lambda row: row), ["y"])))
