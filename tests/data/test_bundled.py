"""Data that comes with libraries: the digits, and aeon's series."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from aeon.datasets import load_basic_motions, load_italy_power_demand, load_japanese_vowels
from sklearn.datasets import load_digits

from jepa.data import digits, series


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


def test_series_are_those_of_aeon_with_numbered_classes() -> None:
    for split in ("train", "test"):
        values, names = load_basic_motions(split=split)
        x, labels = series("basic_motions", split).tensors
        assert x.dtype == torch.float32
        assert labels.dtype == torch.int64
        np.testing.assert_allclose(x.numpy(), values, rtol=1e-6)
        assert [["badminton", "running", "standing", "walking"][label] for label in labels] == list(names)
    together = series("basic_motions").tensors
    assert torch.equal(together[0], torch.cat([series("basic_motions", part).tensors[0] for part in ("train", "test")]))
    assert together[0].shape == (80, 6, 100)


def test_series_of_unequal_length_need_a_length_to_be_filled_up_or_cut() -> None:
    values, names = load_japanese_vowels(split="test")
    with pytest.raises(ValueError, match=r"'japanese_vowels' have 7 to 29 steps; pass length=29 to fill the shorter"):
        series("japanese_vowels", "test")
    for length in (29, 10):
        x, labels = series("japanese_vowels", "test", length=length).tensors
        assert x.shape == (370, 12, length)
        for row, value in zip(x, values, strict=True):
            kept = min(length, value.shape[1])
            np.testing.assert_allclose(row[:, :kept], value[:, :kept], rtol=1e-5)
            assert not row[:, kept:].any()
    assert [str(label + 1) for label in labels.tolist()] == list(names)


def test_series_with_one_channel_have_a_channel_axis() -> None:
    x, labels = series("italy_power_demand", "train").tensors
    assert x.shape == (67, 1, 24)
    assert labels.bincount().tolist() == [sum(load_italy_power_demand(split="train")[1] == name) for name in "12"]


def test_unknown_series_parts_and_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown series 'basic_motion'; did you mean 'basic_motions'\?"):
        series("basic_motion")
    with pytest.raises(ValueError, match=r"unknown series 'x'; there are basic_motions, japanese_vowels"):
        series("x")
    with pytest.raises(ValueError, match="split must be 'train', 'test' or 'all', got 'val'"):
        series("basic_motions", "val")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        series("basic_motions", length=0)
