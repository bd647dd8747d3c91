"""The last update read off Adam's state is the one that was made."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from jepa.diagnostics import adam_update_norms


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.AdamW, {"weight_decay": 0.3}),
        (torch.optim.AdamW, {"weight_decay": 0.0, "amsgrad": True}),
        (torch.optim.Adam, {"weight_decay": 0.3}),
    ],
)
def test_it_is_the_difference_of_the_weights(kind: Any, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    module = nn.Linear(5, 3).double()
    optimizer = kind(module.parameters(), lr=0.05, **options)
    for _ in range(4):
        before = {name: p.detach().clone() for name, p in module.named_parameters()}
        optimizer.zero_grad()
        module(torch.randn(8, 5).double()).square().sum().backward()
        optimizer.step()
    norms = adam_update_norms(module, optimizer)
    for name, parameter in module.named_parameters():
        expected = (parameter.detach() - before[name]).norm()
        assert float(norms[name]) == pytest.approx(float(expected), rel=1e-5)


def test_before_a_step_there_is_none_and_other_optimizers_do_not_tell() -> None:
    module = nn.Linear(2, 2)
    assert adam_update_norms(module, torch.optim.AdamW(module.parameters())) == {}
    with pytest.raises(ValueError, match="the state of SGD does not tell its last update; that of Adam and AdamW does"):
        adam_update_norms(module, torch.optim.SGD(module.parameters(), lr=0.1))
