"""Embedding maps and probe bars."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jepa.figures import embedding_map, probe_figure, project


def test_the_map_holds_the_directions_of_largest_variance() -> None:
    rotation, _ = torch.linalg.qr(torch.randn(6, 6))
    plain = torch.randn(200, 6) * torch.tensor([9.0, 4.0, 1, 0.5, 0.2, 0.1])
    points = project(plain @ rotation + 30)
    assert points.shape == (200, 2)
    variances = np.linalg.eigvalsh(np.cov(plain.numpy(), rowvar=False))[::-1]
    torch.testing.assert_close(points.var(0), torch.tensor(variances[:2].copy()).float(), rtol=1e-3, atol=0)
    assert torch.corrcoef(points.T)[0, 1].abs() < 1e-3
    assert points.mean(0).abs().max() < 1e-4


@pytest.mark.parametrize("shape", [(1, 5), (4, 1), (1, 1), (2, 2)])
def test_too_few_samples_or_features_leave_the_other_components_zero(shape: tuple[int, int]) -> None:
    x = torch.randn(shape)
    points = project(x, dimensions=3)
    assert points.shape == (shape[0], 3)
    torch.testing.assert_close(torch.cdist(points, points), torch.cdist(x, x), atol=1e-5, rtol=1e-4)
    assert len(embedding_map(x).data) == 1


def test_every_sample_is_drawn_once_in_the_colour_of_its_label() -> None:
    x, labels = torch.randn(30, 4), torch.arange(30) % 10
    figure = embedding_map(x, labels, title="digits")
    assert [trace.name for trace in figure.data] == [str(label) for label in range(10)]
    points = project(x)
    for label, trace in enumerate(figure.data):
        assert trace.mode == "markers"
        drawn = torch.tensor([trace.x, trace.y]).T
        torch.testing.assert_close(drawn, points[labels == label], atol=6e-4, rtol=0)
    looks = {(trace.marker.color, trace.marker.symbol) for trace in figure.data}
    assert len(looks) == 10
    assert figure.layout.title.text == "digits"


def test_labels_may_be_words_or_missing() -> None:
    assert [trace.name for trace in embedding_map(torch.randn(3, 4), ["b", "a", "b"]).data] == ["a", "b"]
    (trace,) = embedding_map(torch.randn(3, 4)).data
    assert len(trace.x) == 3
    assert trace.showlegend is False


def test_numbers_are_ordered_as_numbers() -> None:
    names = [trace.name for trace in embedding_map(torch.randn(12, 4), torch.arange(12)).data]
    assert names == [str(number) for number in range(12)]


def test_labels_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="3 embeddings, but 2 labels"):
        embedding_map(torch.randn(3, 4), [1, 2])


def test_bars_are_means_with_a_point_for_each_seed() -> None:
    figure = probe_figure({"trained": [90.0, 94.0], "raw pixels": 80, "untrained": [70.0]}, label="accuracy")
    bars, seeds = figure.data
    assert list(bars.x) == ["trained", "raw pixels", "untrained"]
    assert list(bars.y) == [92, 80, 70]
    assert list(bars.text) == ["92.0", "80.0", "70.0"]
    assert (list(seeds.x), list(seeds.y)) == (["trained", "trained"], [90, 94])
    assert figure.layout.yaxis.title.text == "accuracy"
    low, high = figure.layout.yaxis.range
    assert low < 70
    assert high > 94
