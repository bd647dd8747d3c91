"""Serving images that fit in memory: whole batches of bytes against a default DataLoader over the same data."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from jepa.data import MemoryLoader

IMAGES, BATCH, ROUNDS = 8192, 64, 7
Report = Callable[[str, str, list[str], list[list[str]]], None]


def epoch(loader: Any) -> float:
    """CPU seconds of one pass, with each batch as floats in [0, 1]."""
    start = time.process_time()
    for images, *_ in loader:
        images.float().div_(255)
    return time.process_time() - start


@pytest.mark.benchmark
def test_data_in_memory_is_served_faster_than_by_a_data_loader(report: Report) -> None:
    images = torch.randint(256, (IMAGES, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(IMAGES)
    loaders = {
        "MemoryLoader": MemoryLoader(images, labels, batch_size=BATCH),
        "DataLoader": DataLoader(TensorDataset(images, labels), batch_size=BATCH, shuffle=True),
    }
    taken: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(ROUNDS):
        for name, loader in loaders.items():
            taken[name].append(epoch(loader))
    pairs = list(zip(taken["DataLoader"], taken["MemoryLoader"], strict=True))
    ratio = statistics.median(theirs / ours for theirs, ours in pairs)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    rows = [
        [name, f"{IMAGES / seconds:,.0f}", f"{seconds / medians['MemoryLoader']:.1f}"]
        for name, seconds in medians.items()
    ]
    report("memory_loader", f"{IMAGES:,} images of 32 x 32", ["loader", "images a second of CPU time", "time"], rows)
    assert ratio >= 2.5
