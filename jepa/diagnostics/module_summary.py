"""A model as a tree of modules with the sizes of their parameters, gradients and updates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn


class ModuleSummary(NamedTuple):
    """One module with all that is inside it.

    Attributes:
        name: Its place, such as `encoder.blocks.0`; empty for the whole.
        kind: Its class.
        shapes: Of the parameters that it holds itself, by name.
        parameters: Number of parameters, those of its parts included.
        norm: Of all of them taken as one vector.
        grad_norm: The same of their gradients; `None` where none of them has one.
        update_norm: The same of their last update; `None` where it is not known.
    """

    name: str
    kind: str
    shapes: dict[str, tuple[int, ...]]
    parameters: int
    norm: float
    grad_norm: float | None = None
    update_norm: float | None = None


@torch.no_grad()
def module_summary(
    module: nn.Module, *, grads: Mapping[str, Tensor] | None = None, updates: Mapping[str, Tensor] | None = None
) -> list[ModuleSummary]:
    """All modules that hold parameters, each before its parts.

    Args:
        module: Any module.
        grads: Norms of gradients, 0-d, by the name of the parameter; those in `.grad` by default.
        updates: Norms of updates, likewise; see `adam_update_norms`.
    """
    own = dict(module.named_parameters())
    if grads is None:
        grads = {name: parameter.grad.norm() for name, parameter in own.items() if parameter.grad is not None}
    squares = [_squares({name: parameter.norm() for name, parameter in own.items()}), _squares(grads)]
    squares.append(_squares(updates or {}))
    rows = []
    for name, part in module.named_modules():
        inside = [key for key in own if not name or key.startswith(f"{name}.")]
        if inside:
            shapes = {key: tuple(value.shape) for key, value in part.named_parameters(recurse=False)}
            norms = [_norm(square, inside) for square in squares]
            count = sum(own[key].numel() for key in inside)
            rows.append(ModuleSummary(name, type(part).__name__, shapes, count, norms[0] or 0.0, *norms[1:]))
    return rows


def _squares(norms: Mapping[str, Tensor]) -> dict[str, float]:
    """As plain numbers: all of a device in one transfer."""
    if not norms:
        return {}
    values = torch.stack([norm.detach().double().cpu() for norm in norms.values()]).square().tolist()
    return dict(zip(norms, values, strict=True))


def _norm(squares: Mapping[str, float], names: list[str]) -> float | None:
    known = [squares[name] for name in names if name in squares]
    return sum(known) ** 0.5 if known else None
