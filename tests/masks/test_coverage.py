"""Coverage against counts by hand."""

from __future__ import annotations

import torch

from jepa.masks import BlockMaskSampler, TubeMaskSampler, coverage


def test_coverage_counts_what_the_sampler_draws() -> None:
    sampler = BlockMaskSampler((3, 4), num_targets=2)
    context, target = coverage(sampler, 3, 5, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    counts = torch.zeros(2, 12, dtype=torch.float64)
    for _ in range(3):
        masks = sampler(5, generator)
        for sample in range(5):
            counts[0, masks.context[sample]] += 1
            counts[1, masks.target[sample].unique()] += 1
    torch.testing.assert_close(torch.stack([context, target]).flatten(1), counts / 15)


def test_maps_have_the_shape_of_the_grid() -> None:
    generator = torch.Generator().manual_seed(0)
    for sampler, shape in (
        (BlockMaskSampler((12,)), (1, 12)),
        (BlockMaskSampler((4, 5)), (4, 5)),
        (TubeMaskSampler((2, 4, 5)), (2, 4, 5)),
    ):
        maps = coverage(sampler, 1, 3, generator)
        assert maps.context.shape == maps.target.shape == shape
        assert (maps.context + maps.target).max() <= 1
