"""Positions: tables and rotations against formulas written out."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from jepa.models.positions import Positions, distinct, gather_tokens, rotary_positions, rotate, sincos_positions


def test_positions_of_a_sequence_are_sines_and_cosines_of_falling_frequency() -> None:
    table = sincos_positions((5,), 6)
    for position in range(5):
        angles = [position / 10000 ** (k / 3) for k in range(3)]
        expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        torch.testing.assert_close(table[position], torch.tensor(expected), atol=1e-6, rtol=0)


def test_positions_of_a_grid_are_row_major_and_share_the_features_among_the_axes() -> None:
    rows, columns = 3, 4
    table = sincos_positions((rows, columns), 8).view(rows, columns, 8)
    torch.testing.assert_close(table[2, 1, :4], sincos_positions((rows,), 4)[2])
    torch.testing.assert_close(table[2, 1, 4:], sincos_positions((columns,), 4)[1])
    assert len(torch.unique(table.view(-1, 8), dim=0)) == rows * columns


@pytest.mark.parametrize("dim", [1, 3, 5, 7, 10])
@pytest.mark.parametrize("grid", [(3,), (2, 3), (2, 2, 2)])
def test_features_that_fill_no_pair_stay_zero(grid: tuple[int, ...], dim: int) -> None:
    table = sincos_positions(grid, dim)
    assert table.shape == (math.prod(grid), dim)
    filled = dim // (2 * len(grid)) * 2 * len(grid)
    assert torch.equal(table[:, filled:], torch.zeros(len(table), dim - filled))
    assert torch.isfinite(table).all()


def turned_by_hand(x: list[float], place: tuple[int, ...]) -> list[float]:
    """Axis by axis, pair by pair; feature j of an axis turns by the frequency j mod P (arXiv 2506.09985)."""
    pairs = len(x) // (2 * len(place))
    out = list(x)
    for axis, position in enumerate(place):
        start = 2 * pairs * axis
        for j in range(0, 2 * pairs, 2):
            even, odd = (position / 10000 ** ((feature % pairs) / pairs) for feature in (j, j + 1))
            first, second = x[start + j], x[start + j + 1]
            out[start + j] = first * math.cos(even) - second * math.sin(even)
            out[start + j + 1] = second * math.cos(odd) + first * math.sin(odd)
    return out


@pytest.mark.parametrize(("grid", "dim"), [((6,), 8), ((3, 4), 8), ((2, 3, 2), 12), ((2, 2, 3), 16), ((2, 3), 6)])
def test_rotary_positions_turn_each_pair_of_features_by_its_place_on_each_axis(grid: tuple[int, ...], dim: int) -> None:
    x = torch.randn(1, 1, math.prod(grid), dim)
    turned = rotate(x, rotary_positions(grid, dim))
    places = torch.cartesian_prod(*(torch.arange(size) for size in grid)).view(-1, len(grid)).tolist()
    for token, place in enumerate(places):
        expected = torch.tensor(turned_by_hand(x[0, 0, token].tolist(), tuple(place)))
        torch.testing.assert_close(turned[0, 0, token], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(turned[0, 0, 0], x[0, 0, 0]), "the first position turns nothing"


def test_rotations_of_each_sample_are_its_own() -> None:
    table = rotary_positions((2, 3), 8)
    index = torch.tensor([[5, 0], [2, 3]])
    x = torch.randn(2, 3, 2, 8)
    turned = rotate(x, gather_tokens(table.expand(2, -1, -1), index))
    for sample in range(2):
        torch.testing.assert_close(turned[sample], rotate(x[sample : sample + 1], table[index[sample]])[0])


@pytest.mark.parametrize("batched", [False, True])
def test_tokens_without_a_position_are_put_in_front_and_not_turned(batched: bool) -> None:
    module = Positions("rotary", (6,), 20, 2)
    table = module.table.expand(3, -1, -1) if batched else module.table
    x = torch.randn(3, 2, 8, 10)
    turned = rotate(x, module.unturned(table, 2))
    assert torch.equal(turned[:, :, :2], x[:, :, :2])
    torch.testing.assert_close(turned[:, :, 2:], rotate(x[:, :, 2:], module.table))


def test_rotation_keeps_the_type_of_what_it_turns() -> None:
    assert rotate(torch.randn(1, 1, 3, 4).bfloat16(), rotary_positions((3,), 4)).dtype == torch.bfloat16


@pytest.mark.parametrize("compute", [sincos_positions, rotary_positions])
def test_a_grid_over_the_same_extent_has_its_cells_at_the_centres_of_what_they_cover(compute: Any) -> None:
    fine = compute((8, 8), 16)
    assert torch.equal(compute((8, 8), 16, (8, 8)), fine)
    # the one cell of a coarse grid lies in the middle of the eight it covers: 3.5
    middle = compute((1,), 4, (8,))[0]
    angles = [3.5, 3.5 / 100]
    if compute is sincos_positions:
        expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
    else:
        expected = [math.cos(a) for a in angles * 2] + [
            s * math.sin(a) for s, a in zip((-1, 1, -1, 1), angles * 2, strict=True)
        ]
    torch.testing.assert_close(middle, torch.tensor(expected))


def positions(kind: str, grid: tuple[int, ...] | None = (2, 3)) -> Positions:
    return Positions(kind, grid, 16, 2)


def test_tables_are_added_and_rotations_are_handed_on() -> None:
    tokens = torch.randn(4, 6, 16)
    for kind in ("sincos", "table"):
        placed, rotation = positions(kind)(tokens, torch.float32)
        torch.testing.assert_close(placed, tokens + sincos_positions((2, 3), 16))
        assert rotation is None
    placed, rotation = positions("rotary")(tokens, torch.float32)
    assert placed is tokens
    assert rotation is not None
    assert torch.equal(rotation, rotary_positions((2, 3), 8))


@pytest.mark.parametrize("kind", ["sincos", "table", "rotary"])
def test_kept_tokens_have_the_positions_they_had(kind: str) -> None:
    tokens, index = torch.randn(2, 6, 16), torch.tensor([[5, 1], [0, 3]])
    whole, turns = positions(kind)(tokens, torch.float32)
    kept, kept_turns = positions(kind)(gather_tokens(tokens, index), torch.float32, index=index)
    assert torch.equal(kept, gather_tokens(whole, index))
    if turns is not None and kept_turns is not None:
        assert torch.equal(kept_turns, gather_tokens(turns.expand(2, -1, -1), index))


@pytest.mark.parametrize("kind", ["sincos", "rotary"])
def test_other_grids_are_computed_once_and_follow_the_module(kind: str) -> None:
    module = positions(kind)
    tokens = torch.zeros(1, 4, 16)

    def table(dtype: torch.dtype) -> Tensor:
        placed, rotation = module(tokens.to(dtype), dtype, grid=(2, 2))
        return placed[0] if rotation is None else rotation

    compute, features = (sincos_positions, 16) if kind == "sincos" else (rotary_positions, 8)
    assert torch.equal(table(torch.float32), compute((2, 2), features, (2, 3)))
    assert len(module._others) == 1
    table(torch.float32)
    assert len(module._others) == 1
    assert table(torch.float64).dtype == torch.float64
    module.double()
    assert not module._others
    assert table(torch.float64).dtype == torch.float64
    assert copy.deepcopy(module)._others.keys() == module._others.keys()


@pytest.mark.parametrize("grid", [None, (2, 2)])
def test_tables_kept_by_an_evaluation_in_inference_mode_serve_training(grid: tuple[int, ...] | None) -> None:
    module, other = Positions("rotary", grid, 8, 1), (6,) if grid is None else (3, 2)
    x = torch.randn(1, 6, 8, requires_grad=True)
    with torch.inference_mode():
        module(x, x.dtype, grid=other)
    _, rotation = module(x, x.dtype, grid=other)
    assert rotation is not None
    rotate(x, rotation).sum().backward()
    assert x.grad is not None


def test_only_a_stored_table_is_part_of_the_state_and_it_fits_its_own_grid_only() -> None:
    assert [list(positions(kind).state_dict()) for kind in ("sincos", "table", "rotary")] == [[], ["table"], []]
    with pytest.raises(ValueError, match=r"holds the positions of a \(2, 3\) grid of tokens, got an input of \(2, 2\)"):
        positions("table")(torch.zeros(1, 4, 16), torch.float32, grid=(2, 2))


def test_kinds_and_heads_that_do_not_fit_are_errors_that_say_what_would() -> None:
    message = "one of 'sincos', 'table', 'rotary', got 'rotery'; did you mean 'rotary'?"
    with pytest.raises(ValueError, match=re.escape(message)):
        positions("rotery")
    with pytest.raises(ValueError, match="positions='table' needs a grid of known size: give the encoder a tokenizer"):
        positions("table", None)
    with pytest.raises(ValueError, match=r"at least 6 for a grid of 3 axes, got 4 \(16 features, num_heads=4\)"):
        Positions("rotary", (2, 2, 2), 16, 4)
    with pytest.raises(ValueError, match=r"even number of features, .*got 5 \(15 features, num_heads=3\)"):
        Positions("rotary", (4,), 15, 3)


def test_gather_picks_tokens_of_each_sample_in_the_order_asked() -> None:
    x = torch.arange(2 * 4 * 3).view(2, 4, 3)
    picked = gather_tokens(x, torch.tensor([[3, 0], [1, 1]]))
    assert torch.equal(picked, torch.stack([x[0, [3, 0]], x[1, [1, 1]]]))


@pytest.mark.parametrize("shape", [(2,), (1, 2), (3, 2), (2, 2, 1)])
def test_gather_refuses_positions_that_are_not_one_row_a_sample(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"one row of token positions a sample, (2, K), got {shape}")):
        gather_tokens(torch.zeros(2, 4, 3), torch.zeros(shape, dtype=torch.int64))


def test_positions_wanted_several_times_are_computed_once() -> None:
    index = torch.tensor([[3, 0, 3, 5], [2, 2, 2, 2], [0, 1, 2, 2]])
    once, where = distinct(index, 6)
    assert once.shape == (3, 3)
    assert once.gather(1, where).tolist() == index.tolist()
    assert [len(set(row)) for row in once.tolist()] == [3, 3, 3], "filled up with others, none of them twice"


@given(index=st.lists(st.lists(st.integers(0, 6), min_size=4, max_size=4), min_size=1, max_size=4))
def test_every_position_is_found_among_the_distinct_ones(index: list[list[int]]) -> None:
    once, where = distinct(torch.tensor(index), 7)
    assert once.gather(1, where).tolist() == index
    assert once.shape[1] == max(len(set(row)) for row in index)
    assert all(len(set(row)) == len(row) for row in once.tolist())
