"""Transformer parts against formulas written out."""

from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jepa.models.layers import (
    MLP,
    Attention,
    Block,
    default_heads,
    gather_tokens,
    init_weights,
    make_blocks,
    sincos_positions,
)


@pytest.mark.parametrize(("dim", "heads"), [(1, 1), (48, 1), (64, 1), (128, 2), (192, 3), (200, 2), (254, 2), (384, 6)])
def test_default_heads_hold_about_64_features_and_divide_the_width(dim: int, heads: int) -> None:
    assert default_heads(dim) == heads
    assert dim % default_heads(dim) == 0


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


def test_attention_equals_softmax_of_scaled_products() -> None:
    attention = Attention(12, 3).double()
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    qkv = (x @ attention.qkv.weight.T + attention.qkv.bias).view(2, 5, 3, 3, 4)
    mixed = torch.empty(2, 5, 12, dtype=torch.float64)
    for sample in range(2):
        for head in range(3):
            q, k, v = (qkv[sample, :, part, head] for part in range(3))
            mixed[sample, :, 4 * head : 4 * head + 4] = torch.softmax(q @ k.T / math.sqrt(4), dim=1) @ v
    torch.testing.assert_close(attention(x), mixed @ attention.proj.weight.T + attention.proj.bias)


def test_attention_in_bfloat16_follows_float32_forward_and_backward() -> None:
    exact = Attention(16, 2)
    rough = Attention(16, 2)
    rough.load_state_dict(exact.state_dict())
    rough.bfloat16()
    x = torch.randn(3, 6, 16)
    outputs = exact(x), rough(x.bfloat16())
    for output in outputs:
        output.float().square().sum().backward()
    assert outputs[1].dtype == torch.bfloat16
    torch.testing.assert_close(outputs[1].float(), outputs[0], atol=0.02, rtol=0.05)
    assert exact.qkv.weight.grad is not None
    assert rough.qkv.weight.grad is not None
    error = (rough.qkv.weight.grad.float() - exact.qkv.weight.grad).norm() / exact.qkv.weight.grad.norm()
    assert error < 0.03


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="num_heads=3 must divide the width 8"):
        Attention(8, 3)


def test_block_adds_attention_and_mlp_of_normalised_input() -> None:
    block = Block(8, 2, mlp_ratio=2.0).double()
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    middle = x + block.attn(F.layer_norm(x, (8,), block.norm1.weight, block.norm1.bias, 1e-6))
    normed = F.layer_norm(middle, (8,), block.norm2.weight, block.norm2.bias, 1e-6)
    expected = middle + block.mlp.fc2(F.gelu(block.mlp.fc1(normed)))
    torch.testing.assert_close(block(x), expected)
    assert block.mlp.fc1.weight.shape == (16, 8)


def test_mlp_keeps_the_width() -> None:
    assert MLP(4, 7)(torch.zeros(2, 3, 4)).shape == (2, 3, 4)


def test_weights_begin_with_deviation_002_shrunk_with_depth() -> None:
    blocks = make_blocks(128, 3, None, 4.0)
    for depth, block in enumerate(blocks, start=1):
        assert block.attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
        shrunk = 0.02 / math.sqrt(2 * depth)
        assert block.mlp.fc2.weight.std().item() == pytest.approx(shrunk, rel=0.05)
        assert block.attn.proj.weight.std().item() == pytest.approx(shrunk, rel=0.05)
        assert not block.mlp.fc2.bias.any()


def test_initialisation_takes_linear_layers_without_bias_and_leaves_others_alone() -> None:
    linear, norm = nn.Linear(4, 4, bias=False), nn.LayerNorm(4)
    before = linear.weight.clone()
    init_weights(linear)
    init_weights(norm)
    assert not torch.equal(linear.weight, before)
    assert torch.equal(norm.weight, torch.ones(4))


def test_gather_picks_tokens_of_each_sample_in_the_order_asked() -> None:
    x = torch.arange(2 * 4 * 3).view(2, 4, 3)
    picked = gather_tokens(x, torch.tensor([[3, 0], [1, 1]]))
    assert torch.equal(picked, torch.stack([x[0, [3, 0]], x[1, [1, 1]]]))


@pytest.mark.parametrize("shape", [(2,), (1, 2), (3, 2), (2, 2, 1)])
def test_gather_refuses_positions_that_are_not_one_row_a_sample(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"one row of token positions a sample, (2, K), got {shape}")):
        gather_tokens(torch.zeros(2, 4, 3), torch.zeros(shape, dtype=torch.int64))
