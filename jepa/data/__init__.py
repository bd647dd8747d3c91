"""Data sets, loaders, and the order in which their samples come."""

from jepa.data.datasets import digits, load_data, make_loader
from jepa.data.memory import MemoryLoader
from jepa.data.rollouts import pendulum_pairs
from jepa.data.sampler import ResumableSampler
from jepa.data.source import BatchSource, as_source

__all__ = [
    "BatchSource",
    "MemoryLoader",
    "ResumableSampler",
    "as_source",
    "digits",
    "load_data",
    "make_loader",
    "pendulum_pairs",
]
