"""Transformer parts against formulas written out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa.models.layers import (
    MLP,
    Attention,
    Block,
    Only,
    attend,
    default_heads,
    heads_of,
    init_weights,
    make_blocks,
    make_mlp,
    pick,
    run_blocks,
)
from jepa.models.positions import rotary_positions


@pytest.mark.parametrize(("dim", "heads"), [(1, 1), (48, 1), (64, 1), (128, 2), (192, 3), (200, 2), (254, 2), (384, 6)])
def test_default_heads_hold_about_64_features_and_divide_the_width(dim: int, heads: int) -> None:
    assert default_heads(dim) == heads
    assert dim % default_heads(dim) == 0


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
    with pytest.raises(ValueError, match="num_heads must be at least 1, got -1"):
        Attention(8, -1)


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
    assert make_mlp(4, 1.75).fc1.out_features == 7


@pytest.mark.parametrize("ratio", [0.0, -4.0, 0.1, math.inf, math.nan])
def test_a_ratio_that_leaves_the_mlp_no_features_is_refused(ratio: float) -> None:
    message = f"mlp_ratio must be positive and give the width 8 at least one hidden feature, got {ratio}"
    with pytest.raises(ValueError, match=message):
        Block(8, 2, mlp_ratio=ratio)


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


WANTED = [slice(2, None), torch.tensor([[4, 0, 4], [1, 2, 3]])]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("only", WANTED)
def test_wanted_tokens_alone_equal_the_full_computation_with_its_gradients(only: Only, turned: bool) -> None:
    blocks = make_blocks(16, 2, 2, 4.0).double()
    x = torch.randn(2, 5, 16, dtype=torch.float64, requires_grad=True)
    rotation = rotary_positions((5,), 8).double() if turned else None
    weight = torch.randn(pick(x, only).shape, dtype=torch.float64)
    wanted = [x, *blocks.parameters()]
    lean = run_blocks(blocks, x, only=only, rotation=rotation)
    full = pick(run_blocks(blocks, x, rotation=rotation), only)
    torch.testing.assert_close(lean, full)
    for mine, other in zip(
        torch.autograd.grad((lean * weight).sum(), wanted),
        torch.autograd.grad((full * weight).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)


def test_only_the_last_block_leaves_tokens_out() -> None:
    blocks = make_blocks(8, 3, 1, 4.0)
    seen: list[int] = []
    for block in blocks:
        block.mlp.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    run_blocks(blocks, torch.randn(2, 6, 8), only=slice(4, None))
    assert seen == [6, 6, 2]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_blocks_computed_again_for_the_backward_pass_give_the_same_gradients(precision: str) -> None:
    blocks = make_blocks(16, 3, 2, 4.0)
    x = torch.randn(2, 5, 16, requires_grad=True)
    gradients: list[tuple[Tensor, ...]] = []
    for recompute in (False, True):
        calls: list[int] = []
        hooks = [block.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1)) for block in blocks]
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = run_blocks(blocks, x, only=slice(1, None), recompute=recompute).float().square().sum()
        gradients.append(torch.autograd.grad(loss, [x, *blocks.parameters()]))
        assert len(calls) == (6 if recompute else 3)
        for hook in hooks:
            hook.remove()
    for kept, computed in zip(*gradients, strict=True):
        assert torch.equal(kept, computed)


def test_nothing_is_computed_again_where_no_gradient_is_wanted() -> None:
    blocks = make_blocks(8, 2, 1, 4.0)
    with torch.no_grad():
        assert not run_blocks(blocks, torch.randn(1, 2, 8), recompute=True).requires_grad


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("tokens", "grad"), [(5, False), (5, True), (200, False), (200, True)])
def test_attention_is_the_same_function_in_either_precision(tokens: int, grad: bool, masked: bool) -> None:
    q, k, v = torch.randn(3, 2, 2, tokens, 8, requires_grad=grad)
    mask = torch.ones(tokens, tokens).tril().bool() if masked else None
    scores = q @ k.transpose(-2, -1) / math.sqrt(8)
    exact = torch.softmax(scores if mask is None else scores.masked_fill(~mask, -math.inf), -1) @ v
    torch.testing.assert_close(attend(q, k, v, mask), exact)
    with torch.autocast("cpu", torch.bfloat16):
        rough = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, atol=0.03, rtol=0.03)


def test_heads_must_be_positive_and_divide_the_width() -> None:
    assert heads_of(384, None) == 6
    assert heads_of(384, 12) == 12
    with pytest.raises(ValueError, match="num_heads must be at least 1, got 0"):
        heads_of(8, 0)
    with pytest.raises(ValueError, match="num_heads=3 must divide the width 8"):
        heads_of(8, 3)
