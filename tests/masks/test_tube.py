"""V-JEPA's masks: properties that hold for every configuration, and that every moment is predicted equally often."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from jepa.masks import Masks, TubeMaskSampler, coverage

SMALL: dict[str, Any] = {"num_blocks": 8, "spatial_scale": (0.15, 0.15)}
LARGE: dict[str, Any] = {"num_blocks": 2, "spatial_scale": (0.7, 0.7)}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def check(masks: Masks, sampler: TubeMaskSampler, batch: int) -> None:
    """Everything that every draw promises."""
    for index in masks:
        assert index.dtype == torch.int64
        assert index.shape[0] == batch
        assert index.min() >= 0
        assert index.max() < sampler.tokens
    assert masks.context.shape[1] >= sampler.min_keep
    assert masks.target.shape[1] >= 1
    both = torch.cat(masks, dim=1).sort(dim=1).values
    assert (both.diff(dim=1) > 0).all(), "a position twice, or both context and target"


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    side, share = st.integers(1, 8), st.floats(0.01, 1)
    narrow, wide = sorted((draw(st.floats(0.05, 20)), draw(st.floats(0.05, 20))))
    return {
        "grid": draw(st.tuples(st.integers(1, 6), side, side)),
        "num_blocks": draw(st.integers(1, 6)),
        "spatial_scale": tuple(sorted((draw(share), draw(share)))),
        "temporal_scale": draw(st.one_of(st.just((1.0, 1.0)), st.tuples(share, share).map(lambda x: tuple(sorted(x))))),
        "aspect_ratio": (narrow, wide),
        "min_keep": draw(st.one_of(st.none(), st.integers(1, 60))),
    }


def what_works(message: str, configuration: dict[str, Any]) -> list[dict[str, Any]]:
    """The configurations that a refusal says would be accepted."""
    fixed = []
    for name in ("spatial_scale", "temporal_scale"):
        if scale := re.search(rf"{name} up to (\d\.\d\d)", message):
            high = float(scale[1])
            fixed.append({**configuration, name: (min(configuration[name][0], high), high)})
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
        samplers = [TubeMaskSampler(**configuration)]
    except ValueError as error:
        refusal = str(error)
        samplers = [TubeMaskSampler(**one) for one in what_works(refusal, configuration)]
    assert samplers or "use a larger grid" in refusal
    for sampler in samplers:
        masks = sampler(batch, generator(seed))
        check(masks, sampler, batch)
        again = sampler(batch, generator(seed))
        assert all(torch.equal(a, b) for a, b in zip(masks, again, strict=True))


def share_by_time(maps: Tensor) -> Tensor:
    return maps.mean((1, 2))


@pytest.mark.parametrize("group", [SMALL, LARGE], ids=["small", "large"])
def test_every_moment_is_equally_often_context_and_equally_often_target(group: dict[str, Any]) -> None:
    maps = coverage(TubeMaskSampler((8, 14, 14), **group), 20, 64, generator())
    for share in map(share_by_time, maps):
        assert ((share - share.mean()).abs() / share.mean()).max() < 0.02


def worst_asymmetry(maps: Tensor) -> float:
    """Largest relative difference of a slice against its mirror, along each axis."""
    lines = [maps.mean([other for other in range(3) if other != axis]) for axis in range(3)]
    return max(float(((line - line.flip(0)).abs() / line).max()) for line in lines)


def test_no_side_of_the_grid_and_no_end_of_the_clip_is_favoured() -> None:
    sampler = TubeMaskSampler((6, 8, 8), num_blocks=4, spatial_scale=(0.1, 0.3), temporal_scale=(0.4, 0.7))
    context, target = coverage(sampler, 150, 128, generator())
    assert worst_asymmetry(context) < 0.03
    assert worst_asymmetry(target) < 0.03
    assert target.min() > 0.02


def test_blocks_last_as_long_as_asked_for() -> None:
    for scale, frames in ((0.25, 2), (0.5, 4), (1.0, 8), (0.01, 1)):
        sampler = TubeMaskSampler(
            (8, 4, 4), num_blocks=1, spatial_scale=(0.25, 0.25), aspect_ratio=(1, 1), temporal_scale=(scale, scale)
        )
        masks = sampler(100, generator())
        assert masks.target.shape[1] == 4 * frames
        time = masks.target // 16
        assert ((time.amax(1) - time.amin(1)) == frames - 1).all()
        assert time.min() == 0
        assert time.max() == 7
        assert masks.context.shape[1] == 128 - 4 * frames, "one block leaves everything else as context"


def test_targets_are_a_part_of_the_blocks_and_contexts_of_the_rest_in_all_but_a_few_samples() -> None:
    sampler = TubeMaskSampler((2, 10, 10), num_blocks=3, spatial_scale=(0.2, 0.2), aspect_ratio=(1, 1))
    masks = sampler(4000, generator())
    assert masks.target.shape[1] + masks.context.shape[1] < 200, "a part of both is cut off"
    hidden = torch.zeros(4000, 200).scatter_(1, masks.target, 1).view(4000, 2, 10, 10)
    seen = torch.zeros(4000, 200).scatter_(1, masks.context, 1).view(4000, 2, 10, 10)
    # blocks last through all time: a place that is context in one frame is no target in the other
    clash = (hidden.amax(1) * seen.amax(1)).flatten(1).any(1).double().mean()
    assert 0.02 < clash < 0.2


def test_equal_random_numbers_do_not_make_a_token_both_context_and_target(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = TubeMaskSampler((1, 4, 4), num_blocks=1, spatial_scale=(0.5, 0.5))
    monkeypatch.setattr(torch, "rand", lambda *sizes, **_: torch.zeros(*sizes))
    masks = sampler(3, generator())
    assert masks.context.shape[1] + masks.target.shape[1] == 16
    check(masks, sampler, 3)
    crowded = TubeMaskSampler((1, 4, 4), num_blocks=12, spatial_scale=(0.7, 0.7), min_keep=4)
    check(crowded(3, generator()), crowded, 3)


def test_blocks_of_an_elongated_frame_cover_the_share_asked_for_unless_official() -> None:
    options: dict[str, Any] = {"num_blocks": 1, "spatial_scale": (0.15, 0.15)}
    for seed in range(20):
        share = TubeMaskSampler((4, 2, 32), **options)(1, generator(seed)).target.shape[1] / 256
        assert 0.14 < share < 0.16
    cut = TubeMaskSampler((4, 2, 32), **options, official=True)
    assert min(cut(1, generator(seed)).target.shape[1] for seed in range(20)) < 0.1 * 256


def test_few_tokens_are_thrown_away_for_the_sake_of_equal_lengths() -> None:
    sampler = TubeMaskSampler((8, 14, 14), **SMALL)
    masks = [sampler(1, generator(seed)) for seed in range(40)]
    used = sum(mask.context.shape[1] + mask.target.shape[1] for mask in masks) / (40 * sampler.tokens)
    assert used > 0.77


def test_masks_of_a_few_large_blocks_keep_the_smallest_context() -> None:
    sampler = TubeMaskSampler((2, 4, 4), num_blocks=12, spatial_scale=(0.7, 0.7), min_keep=5)
    masks = sampler(64, generator())
    check(masks, sampler, 64)
    assert masks.context.shape[1] == 5
    assert masks.target.shape[1] <= 27


def test_lengths_do_not_depend_on_the_batch() -> None:
    sampler = TubeMaskSampler((4, 8, 8))
    for seed in range(10):
        shapes = {tuple(mask.shape[1] for mask in sampler(batch, generator(seed))) for batch in (1, 7, 64)}
        assert len(shapes) == 1


def test_draws_are_a_function_of_the_generator_alone() -> None:
    sampler = TubeMaskSampler((2, 4, 4))
    before = torch.get_rng_state()
    first, other = sampler(4, generator(3)), sampler(4, generator(4))
    assert torch.equal(torch.get_rng_state(), before), "the global generator was used"
    assert first.context.shape != other.context.shape or not torch.equal(first.context, other.context)
    assert not torch.equal(first.target[0].sort().values, first.target[1].sort().values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": (4, 4)}, r"three positive sizes, \(time, rows, columns\), got \(4, 4\)"),
        ({"grid": (0, 4, 4)}, r"three positive sizes, \(time, rows, columns\), got \(0, 4, 4\)"),
        ({"spatial_scale": (0.9, 0.2)}, r"spatial_scale must satisfy 0 < low <= high <= 1, got \(0.9, 0.2\)"),
        ({"temporal_scale": (0.0, 1.0)}, r"temporal_scale must satisfy 0 < low <= high <= 1, got \(0.0, 1.0\)"),
        ({"aspect_ratio": (2.0, 1.0)}, r"aspect_ratio must satisfy 0 < low <= high, got \(2.0, 1.0\)"),
        ({"num_blocks": 0}, "num_blocks must be at least 1, got 0"),
        ({"min_keep": 0}, "min_keep must be at least 1, got 0"),
        (
            {"spatial_scale": (0.5, 1.0)},
            r"may cover 32 of the 32 tokens of grid \(2, 4, 4\).*min_keep=1 as context; use spatial_scale up to 0.76, "
            "temporal_scale up to 0.74, or a larger grid",
        ),
        ({"grid": (1, 1, 1)}, "may cover 1 of the 1 tokens.*; use a larger grid"),
        ({"grid": (1, 1, 1), "official": True}, "may cover 1 of the 1 tokens.*; use a larger grid"),
    ],
)
def test_wrong_options_are_errors_that_name_the_value_and_what_is_allowed(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TubeMaskSampler(**{"grid": (2, 4, 4), **options})
