"""Data sets, loaders, and the order in which their samples come.

What adapts other libraries is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from jepa.data.memory import BatchGenerator, MemoryLoader
from jepa.data.sampler import ResumableSampler
from jepa.data.source import BatchSource, as_source

if TYPE_CHECKING:
    from jepa.data.arrays import ArrayDataset
    from jepa.data.bundled import digits, series
    from jepa.data.datasets import load_data, make_loader
    from jepa.data.environments import minari_trajectories, trajectories
    from jepa.data.huggingface import HuggingFaceDataset, HuggingFaceStream
    from jepa.data.images import ImageFolder
    from jepa.data.lazy import LazyDataset
    from jepa.data.pendulum import pendulum_pixels
    from jepa.data.rollouts import pendulum_pairs
    from jepa.data.stream import ShardedStream
    from jepa.data.videos import VideoClips
    from jepa.data.windows import SeriesWindows, series_windows

_MODULES = {
    "arrays": ["ArrayDataset"],
    "bundled": ["digits", "series"],
    "datasets": ["load_data", "make_loader"],
    "environments": ["minari_trajectories", "trajectories"],
    "huggingface": ["HuggingFaceDataset", "HuggingFaceStream"],
    "images": ["ImageFolder"],
    "lazy": ["LazyDataset"],
    "pendulum": ["pendulum_pixels"],
    "rollouts": ["pendulum_pairs"],
    "stream": ["ShardedStream"],
    "videos": ["VideoClips"],
    "windows": ["SeriesWindows", "series_windows"],
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "ArrayDataset",
    "BatchGenerator",
    "BatchSource",
    "HuggingFaceDataset",
    "HuggingFaceStream",
    "ImageFolder",
    "LazyDataset",
    "MemoryLoader",
    "ResumableSampler",
    "SeriesWindows",
    "ShardedStream",
    "VideoClips",
    "as_source",
    "digits",
    "load_data",
    "make_loader",
    "minari_trajectories",
    "pendulum_pairs",
    "pendulum_pixels",
    "series",
    "series_windows",
    "trajectories",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
