"""Attention weights are those the layer itself uses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jepa.diagnostics import find_block, record_attention
from jepa.models.layers import Attention, Block
from jepa.models.positions import rotary_positions


def output_by_weights(layer: Attention, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    values = layer._heads(layer.qkv(x)).unbind(2)[2].transpose(1, 2)
    return layer.proj((weights @ values).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("case", ["plain", "rotated", "masked", "only", "only a piece", "only and rotated"])
def test_the_weights_give_the_output_of_the_layer(case: str) -> None:
    torch.manual_seed(0)
    layer, x = Attention(16, 2), torch.randn(3, 6, 16)
    options: dict[str, object] = {}
    if "rotated" in case:
        options["rotation"] = rotary_positions((2, 3), 8)
    if "only" in case:
        options["only"] = slice(0, 2) if "piece" in case else torch.tensor([[0, 5], [2, 3], [1, 1]])
    if case == "masked":
        options["mask"] = torch.ones(6, 6, dtype=torch.bool).tril()
    model = nn.Sequential()
    model.add_module("attn", layer)
    with torch.no_grad(), record_attention(model, samples=3) as seen:
        expected = layer(x, **options)  # type: ignore[arg-type]
    weights = seen["attn"].weights()
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))
    torch.testing.assert_close(output_by_weights(layer, x, weights), expected)
    torch.testing.assert_close(seen["attn"].of_sample(1), weights[1])


def test_the_first_call_and_the_first_samples_are_kept_and_hooks_are_removed() -> None:
    block, x = nn.ModuleDict({"one": Block(8, 2)}), torch.randn(5, 3, 8)
    with torch.no_grad(), record_attention(block, samples=2) as seen:
        block["one"](x)
        kept = seen["one"].queries.clone()
        block["one"](x + 1)
    assert kept.shape == (2, 2, 3, 4)
    assert torch.equal(seen["one"].queries, kept)
    assert not any(part._forward_pre_hooks for part in block.modules())


def test_a_wrong_block_or_number_of_samples_is_an_error_that_helps() -> None:
    with torch.no_grad(), record_attention(nn.ModuleDict({"one": Block(8, 2)})) as seen:
        pass
    with pytest.raises(ValueError, match="no attention block 'two'; there are none"):
        find_block(seen, "two")
    with (
        pytest.raises(ValueError, match="samples must be at least 1, got 0"),
        record_attention(nn.Linear(1, 1), samples=0),
    ):
        pass
