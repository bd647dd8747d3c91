"""MLPs: rows apart from each other, the norms, sizes, and the trip to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from jepa.models import MLPEncoder, MLPPredictor
from jepa.models.mlp import Norm


def linears(module: nn.Module) -> list[tuple[int, int]]:
    return [(part.in_features, part.out_features) for part in module.modules() if isinstance(part, nn.Linear)]


def by_hand(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Linear, layer norm, GELU, ..., linear: in plain products."""
    for part in layers:
        if isinstance(part, nn.Linear):
            x = x @ part.weight.T + part.bias
        elif isinstance(part, nn.LayerNorm):
            centred = x - x.mean(-1, keepdim=True)
            x = centred / (centred.square().mean(-1, keepdim=True) + part.eps).sqrt() * part.weight + part.bias
        else:
            x = x * 0.5 * (1 + torch.erf(x / 2**0.5))
    return x


@pytest.mark.parametrize("norm", ["layer", "none"])
@pytest.mark.parametrize("shape", [(5, 3), (5, 4, 3)])
def test_an_encoding_is_linear_layers_with_norms_and_rectifiers_between(shape: tuple[int, ...], norm: Norm) -> None:
    encoder = MLPEncoder(3, 8, width=6, norm=norm).double()
    assert linears(encoder) == [(3, 6), (6, 6), (6, 8)]
    x = torch.randn(shape, dtype=torch.float64)
    out = encoder(x)
    assert out.shape == (*shape[:-1], 8)
    torch.testing.assert_close(out, by_hand(encoder.layers, x))


@given(rows=st.integers(1, 6), changed=st.integers(0, 5), norm=st.sampled_from(["layer", "none"]))
def test_rows_stay_apart(rows: int, changed: int, norm: Norm) -> None:
    model = MLPPredictor(4, depth=1, norm=norm)
    x = torch.randn(rows, 4)
    other = x.clone()
    other[changed % rows] += 3
    same = torch.arange(rows) != changed % rows
    assert torch.equal(model(x)[same], model(other)[same])
    assert not torch.allclose(model(x), model(other))


def test_a_predictor_keeps_the_width_unless_another_is_asked_for() -> None:
    assert linears(MLPPredictor(8)) == [(8, 32), (32, 32), (32, 8)]
    wider = MLPPredictor(8, 64, width=64)
    assert linears(wider) == [(8, 64), (64, 64), (64, 64)]
    assert wider(torch.randn(5, 8)).shape == (5, 64)
    assert wider(torch.randn(5, 3, 8)).shape == (5, 3, 64)
    assert linears(MLPPredictor(8, 2, depth=0)) == [(8, 2)]
    assert linears(MLPEncoder(3, 8, depth=1)) == [(3, 16), (16, 8)]


@pytest.mark.parametrize("model", [MLPEncoder(3, 8, width=5, depth=1, norm="none"), MLPPredictor(8, 4)])
def test_a_trip_to_files_and_back_keeps_arguments_and_outputs(model: Any, tmp_path: Path) -> None:
    restored = type(model).from_pretrained(model.save_pretrained(tmp_path))
    assert restored.config() == model.config()
    x = torch.randn(4, 3 if isinstance(model, MLPEncoder) else 8)
    assert torch.equal(restored(x), model(x))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0, 8), {}, "widths must be at least 1, got input_dim=0, output_dim=8, width=16"),
        ((3, 8), {"width": 0}, "got input_dim=3, output_dim=8, width=0"),
        ((3, 8), {"depth": -1}, "depth must be at least 0 hidden layers, got -1"),
        ((3, 8), {"norm": "batch"}, "norm must be one of 'layer', 'none', got 'batch'"),
    ],
)
def test_sizes_that_make_no_network_are_refused(arguments: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MLPEncoder(*arguments, **options)


@pytest.mark.parametrize("shape", [(3,), (4, 2), (2, 3, 4, 3)])
def test_a_wrong_shape_is_an_error_that_names_what_it_got_and_what_it_takes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"takes \(B, 3\) or \(B, T, 3\), got \(.*; set input_dim="):
        MLPEncoder(3, 8)(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"takes \(B, 3\) or \(B, N, 3\), got \(.*; its hidden_dim must be"):
        MLPPredictor(3)(torch.zeros(shape))
