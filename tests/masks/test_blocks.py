"""The parts of block masks: where blocks go, and that nothing waits for a device."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from jepa.masks import BlockMaskSampler, Masks, TubeMaskSampler
from jepa.masks.blocks import block_shape, covered_by, host_draws, host_generator, place


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_block_covers_the_share_of_the_grid_in_the_ratio_asked_for() -> None:
    assert block_shape((14, 14), 0.18, 1.0) == (6, 6)
    assert block_shape((20, 20), 0.2, 5.0) == (20, 4)
    assert block_shape((20, 20), 0.2, 0.2) == (4, 20)
    assert block_shape((20,), 0.2, 5.0) == (4,)
    assert block_shape((3, 3), 0.01, 1.0) == (1, 1)
    assert block_shape((4, 4), 1.0, 3.0) == (4, 4)


def test_the_other_side_makes_up_for_one_that_does_not_fit() -> None:
    assert block_shape((2, 64), 0.15, 1.0) == (2, 10)
    assert block_shape((64, 2), 0.15, 1.0) == (10, 2)
    assert block_shape((1, 64), 0.2, 1.5) == (1, 13)
    assert block_shape((3, 50), 0.2, 0.75) == (3, 10)
    assert block_shape((30, 30), 0.01, 20.0) == (9, 1)


side = st.integers(1, 64)


@given(st.one_of(st.tuples(side), st.tuples(side, side)), st.floats(0.001, 1), st.floats(0.05, 20))
def test_a_block_covers_its_share_up_to_the_rounding_of_its_sides(
    grid: tuple[int, ...], scale: float, ratio: float
) -> None:
    shape = block_shape(grid, scale, ratio)
    assert all(1 <= side <= size for side, size in zip(shape, grid, strict=True))
    area = max(scale * math.prod(grid), 1)
    # some sides within half a token of these have exactly that area
    lows, highs = (math.prod(side + half for side in shape) for half in (-0.5, 0.5))
    assert lows - 1e-6 <= area <= highs + 1e-6


@pytest.mark.parametrize(
    ("grid", "shape"), [((9,), (3,)), ((4, 5), (2, 3)), ((3, 4, 5), (2, 3, 2)), ((2, 2, 2), (2, 2, 2))]
)
def test_blocks_are_filled_boxes_at_every_place_of_the_grid(grid: tuple[int, ...], shape: tuple[int, ...]) -> None:
    blocks = place(grid, shape, 2000, generator())
    places = {tuple(block) for block in blocks.tolist()}
    expected = set()
    cells = torch.arange(torch.Size(grid).numel()).view(grid)
    for corner in torch.cartesian_prod(
        *(torch.arange(size - side + 1) for size, side in zip(grid, shape, strict=True))
    ).view(-1, len(grid)):
        box = cells[tuple(slice(int(c), int(c) + side) for c, side in zip(corner, shape, strict=True))]
        expected.add(tuple(box.flatten().tolist()))
    assert places == expected
    covered = covered_by(blocks, cells.numel())
    assert (covered.sum(1) == torch.Size(shape).numel()).all()
    assert all(covered[row, blocks[row]].all() for row in range(10))


class Waits(TorchDispatchMode):
    """Names the operations that would make a CPU wait for an accelerator."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(
            name in str(func) for name in ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero")
        ):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("sampler", "waits"),
    [
        (BlockMaskSampler((14, 14)), False),
        (BlockMaskSampler((4, 4), num_targets=6, target_scale=(0.3, 0.5), min_keep=6), False),
        (BlockMaskSampler((30,)), False),
        (TubeMaskSampler((4, 6, 6)), False),
        (BlockMaskSampler((14, 14), official=True), True),
        (TubeMaskSampler((4, 6, 6), official=True), True),
    ],
)
def test_only_the_published_masks_wait_for_the_device(sampler: Callable[..., Masks], waits: bool) -> None:
    for seed in range(15):
        sampler(2, generator(seed))  # lengths are found once
    for seed in range(15):
        with Waits() as mode:
            sampler(8, generator(seed))
        assert bool(mode.found) == waits, mode.found


class DeviceGenerator:
    """Stands for the generator of an accelerator: its state, which changes with every draw, is kept on the host."""

    device = SimpleNamespace(type="cuda")

    def __init__(self) -> None:
        self.state = torch.tensor([7, 0, 0, 0, 0, 0, 0, 0] * 2, dtype=torch.uint8)

    def get_state(self) -> Tensor:
        return self.state


def test_numbers_that_decide_shapes_follow_from_the_state_of_a_generator_elsewhere() -> None:
    one, other = DeviceGenerator(), DeviceGenerator()
    first = host_draws(3, one)  # type: ignore[arg-type]
    assert host_draws(3, other) == first  # type: ignore[arg-type]
    assert all(0 <= number < 1 for number in first)
    one.state[8] += 4
    assert host_draws(3, one) != first  # type: ignore[arg-type]
    own = generator()
    assert host_generator(own) is own
    assert host_draws(2, own) != host_draws(2, own)


@pytest.mark.gpu
def test_masks_are_drawn_on_the_device_of_the_generator() -> None:
    for sampler in (BlockMaskSampler((14, 14)), TubeMaskSampler((4, 6, 6)), BlockMaskSampler((14, 14), official=True)):
        one, other = (torch.Generator("cuda").manual_seed(3) for _ in range(2))
        masks, again = sampler(8, one), sampler(8, other)
        assert {mask.device.type for mask in masks} == {"cuda"}
        assert all(torch.equal(a, b) for a, b in zip(masks, again, strict=True))
        later = sampler(8, one)
        assert later.context.shape != masks.context.shape or not torch.equal(later.context, masks.context)
