"""Hidden units that no sample of a batch makes active: capacity that a model has lost, or never used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from jepa.models.layers import MLP

RECTIFIERS = (nn.ReLU, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.ELU)


class DeadUnits:
    """Which units were active, by the name of their MLP.

    Attributes:
        active: (units,) bool on the device of the model: whether an input above 0 was seen.
    """

    def __init__(self) -> None:
        self.active: dict[str, Tensor] = {}

    def shares(self) -> dict[str, float]:
        """Share of the units of each MLP that were never active, in [0, 1]."""
        return {name: 1 - float(active.float().mean()) for name, active in self.active.items()}

    def add(self, name: str, inputs: Tensor) -> None:
        """Note the inputs of an activation function: units on the last axis, or channels of feature maps."""
        units = inputs.detach().movedim(1, -1) if inputs.ndim == 4 else inputs.detach()
        active = (units > 0).flatten(0, -2).any(0)
        self.active[name] = active | self.active[name] if name in self.active else active


@contextmanager
def record_dead_units(module: nn.Module) -> Iterator[DeadUnits]:
    """Note which hidden units become active in the forward passes of the block.

    A unit is active where the input of its rectifier (ReLU, GELU and their like) is above 0. Seen are the MLPs of
    transformer blocks and every rectifier that is a module of its own; one that is called as a function is not.

    Args:
        module: Any module.

    Example:
        ::

            with record_dead_units(model) as units, torch.no_grad():
                model.encoder(x)
            units.shares()
    """
    found = DeadUnits()
    hooks = []
    for name, part in module.named_modules():
        if isinstance(part, MLP):
            hooks.append(part.fc1.register_forward_hook(_after(found, name)))
        elif isinstance(part, RECTIFIERS):
            hooks.append(part.register_forward_pre_hook(_before(found, name)))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _after(found: DeadUnits, name: str) -> Any:
    return lambda layer, inputs, output: found.add(name, output)


def _before(found: DeadUnits, name: str) -> Any:
    return lambda layer, inputs: found.add(name, inputs[0])


@torch.no_grad()
def dead_units(module: nn.Module, *inputs: Any, **options: Any) -> dict[str, float]:
    """Shares of dead units, by MLP, over one call of a module with these arguments."""
    with record_dead_units(module) as found:
        module(*inputs, **options)
    return found.shares()
