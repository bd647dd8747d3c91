"""The process-wide random generators: everything that a user's own module may draw from."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from typing import Any

import torch


def random_state() -> dict[str, Any]:
    """State of the process-wide generators (torch, CUDA, Python, and numpy where it is loaded)."""
    version, internal, gauss = random.getstate()
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "python": [version, list(internal), gauss]}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    if "numpy.random" in sys.modules:
        import numpy

        name, keys, position, has_gauss, cached = numpy.random.get_state(legacy=True)
        keys = torch.from_numpy(numpy.asarray(keys, "int64"))
        state["numpy"] = [str(name), keys, int(position), int(has_gauss), float(cached)]
    return state


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Put the process-wide generators back to what `random_state` returned."""
    torch.set_rng_state(state["torch"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    if "cuda" in state and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    if "numpy" in state:
        import numpy

        name, keys, position, has_gauss, cached = state["numpy"]
        numpy.random.set_state((name, keys.numpy().astype("uint32"), position, has_gauss, cached))
