"""I-JEPA's masks: properties that hold for every configuration, and that no place of the grid is favoured."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from jepa.masks import BlockMaskSampler, Masks, coverage


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def check(masks: Masks, sampler: BlockMaskSampler, batch: int) -> None:
    """Everything that every draw promises."""
    context, target = masks
    tokens, columns = sampler.tokens, sampler.grid[-1]
    assert context.dtype == target.dtype == torch.int64
    assert len(context) == len(target) == batch
    assert target.shape[1] == sampler.num_targets
    assert context.shape[1] >= sampler.min_keep
    for index in (context, target):
        assert index.min() >= 0
        assert index.max() < tokens
        assert (index.sort(dim=-1).values.diff(dim=-1) > 0).all(), "a position twice"
    hidden = torch.zeros(batch, tokens, dtype=torch.bool).scatter(1, target.flatten(1), True)
    assert not hidden.gather(1, context).any(), "context and target overlap"
    row, column = target // columns, target % columns
    height, width = (x.amax(-1) - x.amin(-1) + 1 for x in (row, column))
    assert (height * width == target.shape[-1]).all(), "a target is not a filled rectangle"
    assert len(set(zip(height.flatten().tolist(), width.flatten().tolist(), strict=True))) == 1


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    side = st.integers(1, 16)
    grid = draw(st.one_of(st.tuples(st.integers(1, 60)), st.tuples(side, side)))
    low, high = sorted((draw(st.floats(0.01, 1)), draw(st.floats(0.01, 1))))
    first, second = sorted((draw(st.floats(0.01, 1)), draw(st.floats(0.01, 1))))
    narrow, wide = sorted((draw(st.floats(0.05, 20)), draw(st.floats(0.05, 20))))
    return {
        "grid": grid,
        "num_targets": draw(st.integers(1, 6)),
        "target_scale": (low, high),
        "context_scale": (first, second),
        "aspect_ratio": (narrow, wide),
        "min_keep": draw(st.one_of(st.none(), st.integers(1, 60))),
    }


def what_works(message: str, configuration: dict[str, Any]) -> list[dict[str, Any]]:
    """The configurations that a refusal says would be accepted."""
    fixed = []
    if scale := re.search(r"target_scale up to (\d\.\d\d)", message):
        high = float(scale[1])
        fixed.append({**configuration, "target_scale": (min(configuration["target_scale"][0], high), high)})
    if keep := re.search(r"min_keep up to (\d+)", message):
        fixed.append({**configuration, "min_keep": int(keep[1])})
    return fixed


@settings(max_examples=150, deadline=None)
@given(configurations(), st.integers(1, 5), st.integers(0, 2**31))
def test_every_configuration_gives_masks_or_is_refused_with_sizes_that_work(
    configuration: dict[str, Any], batch: int, seed: int
) -> None:
    refusal = ""
    try:
        samplers = [BlockMaskSampler(**configuration)]
    except ValueError as error:
        refusal = str(error)
        samplers = [BlockMaskSampler(**one) for one in what_works(refusal, configuration)]
    assert samplers or "use a larger grid" in refusal
    for sampler in samplers:
        masks = sampler(batch, generator(seed))
        check(masks, sampler, batch)
        again = sampler(batch, generator(seed))
        assert all(torch.equal(a, b) for a, b in zip(masks, again, strict=True))


@settings(max_examples=40, deadline=None)
@given(configurations(), st.integers(0, 2**31))
def test_the_tightest_accepted_context_is_always_kept(configuration: dict[str, Any], seed: int) -> None:
    try:
        BlockMaskSampler(**{**configuration, "min_keep": 10**6})
    except ValueError as error:
        keep = re.search(r"min_keep up to (\d+)", str(error))
    if keep is None:
        return
    tight = int(keep[1])
    sampler = BlockMaskSampler(**{**configuration, "min_keep": tight})
    for number in range(5):
        check(sampler(3, generator(seed + number)), sampler, 3)
    with pytest.raises(ValueError, match=f"min_keep={tight + 1} as context"):
        BlockMaskSampler(**{**configuration, "min_keep": tight + 1})


def test_the_largest_block_is_found_between_any_two_aspect_ratios() -> None:
    # blocks of 1,260 tokens occur for a sliver of aspect ratios only; 1,258 is the next size
    options: dict[str, Any] = {"grid": (36, 40), "target_scale": (0.86, 0.86), "aspect_ratio": (0.53, 7.88)}
    with pytest.raises(ValueError, match="may cover 1260 of the 1440 tokens"):
        BlockMaskSampler(**options, min_keep=1440 - 1258)
    assert BlockMaskSampler(**options, min_keep=1440 - 1260)


def test_the_papers_numbers_work_on_the_grid_of_the_digits_and_of_the_paper() -> None:
    for grid in ((8, 8), (4, 4), (14, 14), (16, 16)):
        sampler = BlockMaskSampler(grid)
        assert (sampler.target_scale, sampler.context_scale) == ((0.15, 0.2), (0.85, 1.0))
        for seed in range(50):
            check(sampler(16, generator(seed)), sampler, 16)


def test_target_blocks_cover_the_share_of_the_grid_that_was_asked_for() -> None:
    sampler = BlockMaskSampler((16, 16))
    shares = torch.tensor([sampler(1, generator(seed)).target.shape[-1] / 256 for seed in range(300)])
    assert 0.13 <= shares.min() <= 0.16
    assert 0.19 <= shares.max() <= 0.22
    assert shares.mean().item() == pytest.approx(0.175, abs=0.005)


def test_aspect_ratios_span_the_range_evenly_in_their_logarithm() -> None:
    sampler = BlockMaskSampler((60, 60), num_targets=1, target_scale=(0.1, 0.1), aspect_ratio=(0.25, 4.0))
    ratios = []
    for seed in range(400):
        block = sampler(1, generator(seed)).target[0, 0]
        rows, columns = block // 60, block % 60
        ratios.append(float((rows.max() - rows.min() + 1) / (columns.max() - columns.min() + 1)))
    logs = torch.tensor(ratios).log2()
    assert -2.1 <= logs.min() <= -1.8
    assert 1.8 <= logs.max() <= 2.1
    assert logs.mean().abs() < 0.15
    assert (logs.abs() < 1).double().mean().item() == pytest.approx(0.5, abs=0.08)


def test_a_sequence_is_masked_by_intervals() -> None:
    sampler = BlockMaskSampler((20,), num_targets=3, target_scale=(0.2, 0.2))
    target = sampler(50, generator()).target
    assert target.shape == (50, 3, 4)
    assert (target.diff(dim=-1) == 1).all()
    assert target.min() == 0
    assert target.max() == 19


def test_every_place_of_a_block_is_equally_likely() -> None:
    sampler = BlockMaskSampler((4, 5), num_targets=1, target_scale=(0.2, 0.2), aspect_ratio=(1, 1), min_keep=1)
    corners = torch.cat([sampler(100, generator(seed)).target[:, 0, 0] for seed in range(60)])
    counts = torch.bincount(corners, minlength=20).view(4, 5)
    assert not counts[3].any()
    assert not counts[:, 4].any()
    places = counts[:3, :4].double()
    chi_squared = ((places - 500).square() / 500).sum()
    assert chi_squared < 31.3, "11 degrees of freedom, probability 0.001"


def test_context_comes_from_its_block_before_anything_else() -> None:
    sampler = BlockMaskSampler((40,), num_targets=1, target_scale=(0.02, 0.02), context_scale=(0.25, 0.25), min_keep=1)
    context = sampler(200, generator()).context
    assert context.shape[1] == 9, "a block of 10, less a target of 1 where it falls inside"
    assert (context.amax(1) - context.amin(1) <= 9).all()


def test_context_is_completed_from_outside_its_block_where_that_is_too_small() -> None:
    sampler = BlockMaskSampler((40,), num_targets=1, target_scale=(0.1, 0.1), context_scale=(0.05, 0.05), min_keep=30)
    masks = sampler(200, generator())
    check(masks, sampler, 200)
    assert masks.context.shape[1] == 30
    assert len(masks.context.unique()) == 40
    inner = [set(range(start, start + 2)) for start in range(39)]
    wanted = [set(context.tolist()) for context in masks.context]
    hidden = [set(target.flatten().tolist()) for target in masks.target]
    assert all(any(block - gone <= kept for block in inner) for kept, gone in zip(wanted, hidden, strict=True))


def test_the_length_of_the_context_follows_from_the_sizes_of_the_blocks_alone() -> None:
    sampler = BlockMaskSampler((14, 14))
    lengths: dict[int, set[int]] = {}
    for seed in range(40):
        for batch in (1, 16, 64):
            masks = sampler(batch, generator(seed))
            lengths.setdefault(seed, set()).add(masks.context.shape[1])
    assert all(len(found) == 1 for found in lengths.values()), "it depends on the batch size"
    assert len({min(found) for found in lengths.values()}) > 3


def test_nine_of_ten_samples_keep_what_their_blocks_leave_them() -> None:
    options: dict[str, Any] = {"target_scale": (0.18, 0.18), "aspect_ratio": (1, 1), "context_scale": (0.9, 0.9)}
    sampler = BlockMaskSampler((14, 14), **options)
    masks = sampler(20_000, generator())
    lengths = [BlockMaskSampler((14, 14))(1, generator(seed)).context.shape[1] for seed in range(150)]
    assert sum(lengths) / len(lengths) > 70, "shorter contexts throw tokens away"
    assert masks.target.shape[2] == 36, "blocks of 6 x 6"
    block = torch.zeros(14, 14)
    block[:13, :13] = 1  # the context block at one of its four places
    places = torch.stack([block.roll(shift, (0, 1)) for shift in ((0, 0), (0, 1), (1, 0), (1, 1))]).flatten(1)
    free = sampler._targets((6, 6), 20_000, generator(1))  # before any moves
    hidden = torch.zeros(20_000, 196).scatter_(1, free.flatten(1), 1)
    left = ((1 - hidden) @ places.T).mean(1)  # over the places, which are equally likely
    too_few = (left < masks.context.shape[1]).double().mean()
    assert 0.05 < too_few < 0.15


def test_targets_move_onto_the_first_where_they_would_leave_too_little_context() -> None:
    sampler = BlockMaskSampler((4, 4), num_targets=4, target_scale=(0.5, 0.5), aspect_ratio=(0.5, 0.5), min_keep=8)
    masks = sampler(64, generator())
    check(masks, sampler, 64)
    assert (masks.target == masks.target[:, :1]).all()


def test_no_more_targets_move_than_have_to() -> None:
    sampler = BlockMaskSampler((14, 14))
    moved = torch.cat([(m.target == m.target[:, :1]).all(2) for m in (sampler(64, generator(s)) for s in range(60))])
    share = moved.double().mean(0).tolist()
    assert share[1] < share[2] < share[3] < 0.1, "one of a hundred coincides by chance"
    assert moved.all(1).double().mean() < 0.002


def test_draws_are_a_function_of_the_generator_alone() -> None:
    sampler = BlockMaskSampler((8, 8))
    first = sampler(4, generator(3))
    before = torch.get_rng_state()
    torch.rand(7)
    torch.set_rng_state(before)
    second = sampler(4, generator(3))
    other = sampler(4, generator(4))
    assert torch.equal(torch.get_rng_state(), before), "the global generator was used"
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert first.context.shape != other.context.shape or not torch.equal(first.context, other.context)
    assert not torch.equal(first.context[0], first.context[1]), "samples have positions of their own"


def worst_asymmetry(share: Tensor) -> float:
    """Largest relative difference of a row or column against its mirror."""
    rows, columns = share.mean(1), share.mean(0)
    return max(float(((line - line.flip(0)).abs() / line).max()) for line in (rows, columns))


def check_coverage(batches: int, tolerance: float) -> None:
    context, target = coverage(BlockMaskSampler((14, 14)), batches, 64, generator())
    assert worst_asymmetry(context) < tolerance
    assert worst_asymmetry(target) < tolerance
    assert context.min() > 0.05
    assert target.min() > 0.02


def test_no_side_of_the_grid_is_favoured() -> None:
    check_coverage(batches=300, tolerance=0.03)


@pytest.mark.full
def test_no_side_of_the_grid_is_favoured_by_two_percent() -> None:
    check_coverage(batches=2000, tolerance=0.02)


def test_completing_contexts_and_moving_targets_favour_no_side_either() -> None:
    tight = BlockMaskSampler((7, 7), target_scale=(0.3, 0.3), context_scale=(0.3, 0.5), min_keep=20)
    context, target = coverage(tight, 300, 256, generator())
    assert worst_asymmetry(context) < 0.03
    assert worst_asymmetry(target) < 0.03


@pytest.mark.parametrize("grid", [(14, 14), (8, 8), (6, 10), (24,)])
def test_every_position_is_context_at_times_and_target_at_others(grid: tuple[int, ...]) -> None:
    context, target = coverage(BlockMaskSampler(grid), 30, 64, generator())
    assert context.shape == target.shape == ((1, *grid) if len(grid) == 1 else grid)
    assert context.min() > 0
    assert target.min() > 0
    assert context.max() < 1
    assert target.max() < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": (2, 2, 2)}, r"one or two positive sizes, got \(2, 2, 2\)"),
        ({"grid": ()}, r"one or two positive sizes, got \(\)"),
        ({"grid": (0, 4)}, r"one or two positive sizes, got \(0, 4\)"),
        ({"target_scale": (0.9, 0.2)}, r"target_scale must satisfy 0 < low <= high <= 1, got \(0.9, 0.2\)"),
        ({"target_scale": (0.0, 0.2)}, r"target_scale must satisfy 0 < low <= high <= 1, got \(0.0, 0.2\)"),
        ({"context_scale": (0.5, 1.1)}, r"context_scale must satisfy 0 < low <= high <= 1, got \(0.5, 1.1\)"),
        ({"aspect_ratio": (0.0, 1.0)}, r"aspect_ratio must satisfy 0 < low <= high, got \(0.0, 1.0\)"),
        ({"aspect_ratio": (2.0, 1.0)}, r"aspect_ratio must satisfy 0 < low <= high, got \(2.0, 1.0\)"),
        ({"num_targets": 0}, "num_targets must be at least 1, got 0"),
        ({"min_keep": 0}, "min_keep must be at least 1, got 0"),
        ({"min_keep": -3}, "min_keep must be at least 1, got -3"),
        ({"grid": (1, 1)}, r"may cover 1 of the 1 tokens of grid \(1, 1\).*min_keep=1 as context; use a larger grid"),
    ],
)
def test_wrong_options_are_errors_that_name_the_value_and_what_is_allowed(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        BlockMaskSampler(**{"grid": (8, 8), **options})


def test_a_refusal_names_the_sizes_that_work() -> None:
    with pytest.raises(ValueError, match=r"target_scale up to 0.\d\d, min_keep up to 4, or a larger grid") as caught:
        BlockMaskSampler((4, 4), target_scale=(0.7, 0.7), aspect_ratio=(0.75, 0.75), min_keep=6)
    assert len(what_works(str(caught.value), {"target_scale": (0.7, 0.7)})) == 2
