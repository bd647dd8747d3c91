"""Which samples are alike."""

from __future__ import annotations

import pytest
import torch

from jepa.diagnostics import nearest_neighbours


def test_neighbours_are_ordered_by_cosine_similarity_from_the_mean() -> None:
    x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.0], [-0.9, -1.1]]) + 10
    rows, likeness = nearest_neighbours(x, 0, count=10)
    assert rows.tolist() == [1, 2, 4, 3]
    centred = x - x.mean(0)
    expected = torch.nn.functional.cosine_similarity(centred[0], centred[1], dim=0)
    assert float(likeness[0]) == pytest.approx(float(expected), abs=1e-5)
    assert likeness.tolist() == sorted(likeness.tolist(), reverse=True)
    assert nearest_neighbours(x, 3, count=1)[0].shape == (1,)


def test_a_sample_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sample must be in \[0, 3\), the samples of the batch, got 3"):
        nearest_neighbours(torch.zeros(3, 2), 3)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        nearest_neighbours(torch.zeros(3, 2), 0, count=0)
