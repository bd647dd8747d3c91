"""The tree of modules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jepa.diagnostics import module_summary


def test_a_module_counts_what_is_inside_it() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.Sequential(nn.ReLU(), nn.Linear(2, 2, bias=False)))
    module[0](torch.ones(1, 3)).sum().backward()
    rows = {row.name: row for row in module_summary(module, updates={"1.1.weight": torch.tensor(4.0)})}
    assert list(rows) == ["", "0", "1", "1.1"]
    assert [row.parameters for row in rows.values()] == [12, 8, 4, 4]
    assert rows["0"].shapes == {"weight": (2, 3), "bias": (2,)}
    assert rows[""].shapes == {}
    whole = torch.cat([p.detach().flatten() for p in module.parameters()]).norm()
    assert rows[""].norm == pytest.approx(float(whole))
    assert rows["0"].grad_norm == pytest.approx(8**0.5)
    assert rows["1"].grad_norm is None
    assert (rows[""].update_norm, rows["0"].update_norm, rows["1"].update_norm) == (4.0, None, 4.0)
