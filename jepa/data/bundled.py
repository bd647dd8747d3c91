"""Real data with classes that comes with a library, without a download: scikit-learn's digits, aeon's series.

Axes: N samples, C channels, H W height and width, T time steps.
"""

from __future__ import annotations

import difflib
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import TensorDataset

from jepa.data.optional import optional

SERIES = {  # name: aeon's loader
    "basic_motions": "load_basic_motions",
    "japanese_vowels": "load_japanese_vowels",
    "arrow_head": "load_arrow_head",
    "gunpoint": "load_gunpoint",
    "italy_power_demand": "load_italy_power_demand",
}


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
    if split not in ("train", "test", "all"):
        raise ValueError(f"split must be 'train', 'test' or 'all', got {split!r}")
    datasets = optional("sklearn.datasets", "digits", "eval")
    pixels, classes = datasets.load_digits(return_X_y=True)
    pixels, classes = np.asarray(pixels).reshape(-1, 1, 8, 8), np.asarray(classes, np.int64)
    images = torch.from_numpy(np.round(pixels * (255 / 16)).astype(np.uint8))
    labels = torch.from_numpy(classes)
    if split == "all":
        return TensorDataset(images, labels)
    selection = optional("sklearn.model_selection", "digits", "eval")
    parts = selection.train_test_split(
        np.arange(len(labels)), test_size=test_fraction, stratify=classes, random_state=seed
    )
    index = torch.from_numpy(np.sort(parts[0 if split == "train" else 1]))
    return TensorDataset(images[index], labels[index])


def series(
    name: str = "basic_motions", split: Literal["train", "test", "all"] = "all", *, length: int | None = None
) -> TensorDataset:
    """One of the data sets that are bundled with aeon.

    Args:
        name: `"basic_motions"` (6 channels, 100 steps, 4 classes, 40 + 40 series), `"japanese_vowels"` (12 channels, 7
            to 29 steps, 9 classes, 270 + 370 series), or with one channel `"arrow_head"`, `"gunpoint"`,
            `"italy_power_demand"`.
        split: Which part, as published.
        length: Time steps of every series: longer ones are cut at the end, shorter ones are followed by zeros. Needed
            where they differ, and equal for both parts of the data.

    Returns:
        Series (N, C, T) float32 and classes (N,) int64, numbered in the order of their names.

    Raises:
        ValueError: The name or the part is unknown, or the series differ in length and none is given.
        ImportError: aeon is not installed.
    """
    if name not in SERIES:
        near = difflib.get_close_matches(name, SERIES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(SERIES)}"
        raise ValueError(f"unknown series {name!r}; {hint}")
    if split not in ("train", "test", "all"):
        raise ValueError(f"split must be 'train', 'test' or 'all', got {split!r}")
    if length is not None and length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    read = getattr(optional("aeon.datasets", "series", "data"), SERIES[name])
    parts = [read(split=part) for part in ("train", "test")]
    classes = _in_order(np.concatenate([labels for _, labels in parts]))
    chosen = parts if split == "all" else [parts[split == "test"]]
    values = [each for part, _ in chosen for each in part]
    labels = [classes.index(label) for _, part in chosen for label in part]
    return TensorDataset(torch.from_numpy(_stack(name, values, length)), torch.tensor(labels))


def _in_order(labels: Any) -> list[str]:
    """The classes by name; by number, where all names are numbers."""
    names = {str(label) for label in labels}
    return sorted(names, key=float) if all(name.lstrip("-").isdigit() for name in names) else sorted(names)


def _stack(name: str, values: list[Any], length: int | None) -> np.ndarray:
    lengths = {each.shape[1] for each in values}
    if length is None and len(lengths) > 1:
        raise ValueError(
            f"the series of {name!r} have {min(lengths)} to {max(lengths)} steps; pass length={max(lengths)} to fill "
            "the shorter ones up with zeros, or a smaller one to cut the longer ones, too"
        )
    steps = max(lengths) if length is None else length
    stacked = np.zeros((len(values), values[0].shape[0], steps), np.float32)
    for row, each in zip(stacked, values, strict=True):
        kept = min(steps, each.shape[1])
        row[:, :kept] = each[:, :kept]
    return stacked
