"""Whether two things are the same, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def assert_same(mine: Any, theirs: Any, where: str = "") -> None:
    """Equal to the last bit."""
    assert type(mine) is type(theirs), where
    if isinstance(mine, Mapping):
        assert mine.keys() == theirs.keys(), where
        for key in mine:
            assert_same(mine[key], theirs[key], f"{where}.{key}")
    elif isinstance(mine, list | tuple):
        assert len(mine) == len(theirs), where
        for index, pair in enumerate(zip(mine, theirs, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    elif isinstance(mine, Tensor):
        assert mine.dtype == theirs.dtype, where
        assert torch.equal(mine, theirs), where
    else:
        assert mine == theirs, where
