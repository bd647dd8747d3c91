"""Units that nothing makes active."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jepa.diagnostics import dead_units, record_dead_units
from jepa.models.layers import MLP


def test_units_with_a_bias_far_below_are_dead() -> None:
    torch.manual_seed(0)
    mlp, plain = MLP(4, 8), nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    for layer in (mlp.fc1, plain[0]):
        nn.init.zeros_(layer.bias)
        layer.bias.data[:3] = -100
    x = torch.randn(64, 4)
    assert dead_units(mlp, x) == {"": 3 / 8}
    assert dead_units(plain, x) == {"1": 3 / 8}
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in (*mlp.modules(), *plain.modules()))


def test_a_unit_counts_as_active_if_any_call_activates_it_and_channels_are_units() -> None:
    relu = nn.Sequential(nn.ReLU())
    maps = -torch.ones(2, 3, 4, 4)
    maps[1, 2, 0, 0] = 1
    assert dead_units(relu, maps)["0"] == pytest.approx(2 / 3)
    with record_dead_units(relu) as units:
        relu(maps)
        relu(maps.flip(1))
    assert units.shares()["0"] == pytest.approx(1 / 3)
