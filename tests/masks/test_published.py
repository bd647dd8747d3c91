"""`official=True` against the published loops: the same distribution, and refused where those would not end."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from jepa.masks import BlockMaskSampler, Masks, TubeMaskSampler, coverage
from jepa.masks.published import block_shape, smallest_block
from tests.masks.published_loops import image_block_size, image_masks, video_masks

# Context probability by row and the mean length of a context, on a 14 x 14 grid in batches of 64.
PUBLISHED_ROWS = [0.75, 0.60, 0.48, 0.37, 0.27, 0.22, 0.19, 0.19, 0.21, 0.20, 0.16, 0.09, 0.03, 0.0]
PUBLISHED_LENGTH = 53


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_published_numbers_of_the_context_by_row() -> None:
    context, _ = coverage(BlockMaskSampler((14, 14), official=True), 200, 64, generator())
    torch.testing.assert_close(context.mean(1), torch.tensor(PUBLISHED_ROWS, dtype=torch.float64), atol=0.02, rtol=0)
    assert context.sum().item() == pytest.approx(PUBLISHED_LENGTH, abs=1.5)
    assert not context[13].any()
    assert not context[:, 13].any()


def test_blocks_have_the_published_sizes_for_every_draw() -> None:
    for grid, (scale, ratio) in itertools.product(
        [(14, 14), (16, 10), (8, 24)], [((0.15, 0.2), (0.75, 1.5)), ((0.85, 1.0), (1.0, 1.0)), ((0.1, 0.9), (0.3, 3.0))]
    ):
        for seed in range(40):
            draw = torch.rand(1, generator=generator(seed)).item()
            expected = image_block_size(grid, scale, ratio, generator(seed))
            assert block_shape(grid, scale, ratio, draw) == expected


def statistics_of(masks: list[tuple[Tensor, Tensor] | Masks], grid: tuple[int, ...]) -> dict[str, Tensor]:
    """Shares by row and column (or time) of context and target, and lengths, batch by batch."""
    tokens = torch.Size(grid).numel()
    found: dict[str, list[Tensor]] = {}
    for context, target in masks:
        for name, index in (("context", context), ("target", target.flatten(1))):
            hit = torch.zeros(len(index), tokens).scatter_(1, index, 1).mean(0).view(grid)
            for axis in range(len(grid)):
                others = [other for other in range(len(grid)) if other != axis]
                found.setdefault(f"{name} along axis {axis}", []).append(hit.mean(others))
            found.setdefault(f"length of {name}", []).append(torch.tensor([float(index.shape[1])]))
    return {name: torch.stack(values).double() for name, values in found.items()}


def check_same_distribution(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Means over batches that agree within 4.5 standard errors of their difference, spreads within a third."""
    for name, first in one.items():
        second = other[name]
        error = (first.var(0) / len(first) + second.var(0) / len(second)).sqrt()
        difference = (first.mean(0) - second.mean(0)).abs()
        assert (difference <= 4.5 * error + 1e-9).all(), (name, difference / error)
        if name.startswith("length"):
            torch.testing.assert_close(first.std(0), second.std(0), rtol=0.33, atol=0.1)


@pytest.mark.parametrize(("grid", "batch"), [((14, 14), 8), ((9, 12), 3)])
def test_images_have_the_distribution_of_the_published_loop(grid: tuple[int, int], batch: int) -> None:
    loop, sampler, batches = generator(1), BlockMaskSampler(grid, official=True), 250
    expected = statistics_of([image_masks(batch, grid, loop) for _ in range(batches)], grid)
    draws = generator(2)
    found = statistics_of([sampler(batch, draws) for _ in range(2 * batches)], grid)
    check_same_distribution(found, expected)


def test_contexts_overlap_with_targets_where_the_published_loop_drops_a_constraint() -> None:
    options: dict[str, Any] = {"num_targets": 6, "target_scale": (0.5, 0.5), "context_scale": (0.5, 0.5)}
    masks = BlockMaskSampler((10, 10), official=True, **options)(200, generator())
    hidden = torch.zeros(200, 100, dtype=torch.bool).scatter_(1, masks.target.flatten(1), True)
    assert masks.context.shape[1] > 10
    overlapping = hidden.gather(1, masks.context).any(1).double().mean()
    assert overlapping > 0.5
    last = torch.zeros(200, 100, dtype=torch.bool).scatter_(1, masks.target[:, 0], True)
    assert last.gather(1, masks.context).any(1).double().mean() < overlapping, "the last target is given up first"


@pytest.mark.parametrize(
    ("grid", "num_blocks", "scale", "batch"),
    [((8, 14, 14), 8, 0.15, 24), ((8, 14, 14), 2, 0.7, 24), ((3, 5, 6), 3, 0.4, 4)],
)
def test_videos_have_the_distribution_of_the_published_loop(
    grid: tuple[int, int, int], num_blocks: int, scale: float, batch: int
) -> None:
    batches = 60 if batch > 10 else 200
    loop, draws = generator(1), generator(2)
    sampler = TubeMaskSampler(grid, num_blocks=num_blocks, spatial_scale=(scale, scale), official=True)
    expected = statistics_of([video_masks(batch, grid, num_blocks, scale, loop) for _ in range(batches)], grid)
    found = statistics_of([sampler(batch, draws) for _ in range(batches)], grid)
    check_same_distribution(found, expected)


def test_the_published_cut_starves_late_frames() -> None:
    target = coverage(TubeMaskSampler((8, 14, 14), official=True), 40, 24, generator()).target.mean((1, 2))
    assert target[0].item() == pytest.approx(0.63, abs=0.03)
    assert target[7].item() == pytest.approx(0.05, abs=0.03)


def test_samples_without_context_are_drawn_again() -> None:
    sampler = TubeMaskSampler((1, 2, 3), num_blocks=2, spatial_scale=(0.5, 0.5), aspect_ratio=(0.4, 0.4), official=True)
    masks = sampler(500, generator())  # a block is one of two rows: half of all draws cover everything
    assert masks.context.shape == masks.target.shape == (500, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"grid": (8, 8)},
            r"with target_scale=\(0.15, 0.2\) on grid \(8, 8\) the published code may draw a block of 9 tokens, and "
            "would then search for ever for one of more than min_keep=10; use official=False, target_scale from 0.21, "
            "min_keep up to 8, or a larger grid",
        ),
        (
            {"grid": (14, 14), "context_scale": (0.01, 0.2)},
            r"with context_scale=\(0.01, 0.2\) .* a block of 1 token,",
        ),
        ({"grid": (2, 2)}, "a block of 0 tokens.*use official=False, or a larger grid"),
        ({"grid": (14,)}, r"official=True draws the published masks of images, .* got grid \(14,\)"),
        ({"grid": (1, 14)}, r"official=True draws the published masks of images, .* got grid \(1, 14\)"),
    ],
)
def test_where_the_published_loop_would_not_end_it_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BlockMaskSampler(**options, official=True)


def test_what_a_refusal_suggests_works() -> None:
    for options in ({}, {"target_scale": (0.21, 0.21)}, {"min_keep": 8}):
        official = bool(options)
        masks = BlockMaskSampler((8, 8), official=official, **options)(16, generator())
        assert masks.context.shape[1] > 0
    with pytest.raises(ValueError, match="a block of 9 tokens"):
        BlockMaskSampler((8, 8), official=True, min_keep=9)


def test_the_smallest_published_block_is_found_among_a_thousand_draws() -> None:
    for grid, scale, ratio in (
        ((14, 14), (0.15, 0.2), (0.75, 1.5)),
        ((8, 8), (0.15, 0.2), (0.75, 1.5)),
        ((9, 30), (0.05, 0.3), (0.2, 8.0)),
        ((6, 6), (0.3, 0.3), (0.5, 2.0)),
    ):
        shares = torch.linspace(0, 1, 20_001).tolist()
        areas = [torch.Size(block_shape(grid, scale, ratio, share)).numel() for share in shares]
        assert smallest_block(grid, scale, ratio) == min(areas)
