"""Data that is not the same twice, unless the generator of the process is."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Pairs with an augmentation that draws from the process-wide generator."""

    def __init__(self, pairs: tuple[Tensor, Tensor]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs[0])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = 0.1 * torch.randn(4)
        return self.pairs[0][index] + noise, self.pairs[1][index] + noise
