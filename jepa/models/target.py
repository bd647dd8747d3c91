"""Where targets come from: a slowly moving copy of the encoder, or the encoder itself with or without gradient."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class Target(nn.Module):
    """The target branch around an encoder.

    Args:
        encoder: The context encoder. It is not registered here, so its parameters appear once in the model.

    Attributes:
        kind: `"ema"`, `"stop_gradient"` or `"shared"`.
    """

    kind: str

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self._source = [encoder]  # in a list, so that nn.Module does not register it

    @property
    def source(self) -> nn.Module:
        """The context encoder."""
        return self._source[0]

    @property
    def encoder(self) -> nn.Module:
        """The module that encodes targets."""
        return self.source

    def update(self, momentum: float) -> None:
        """Follow the context encoder after an optimizer step."""


class SharedTarget(Target):
    """The context encoder itself, gradients included."""

    kind = "shared"

    def forward(self, x: Tensor) -> Tensor:
        """Encode with gradient."""
        return self.source(x)


class StopGradientTarget(Target):
    """The context encoder, without gradient."""

    kind = "stop_gradient"

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Encode without a graph."""
        return self.source(x)


class EMATarget(Target):
    """An exponential moving average of the context encoder: `target = m * target + (1 - m) * encoder`."""

    kind = "ema"

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder)
        self.average = copy.deepcopy(encoder).requires_grad_(False)
        self._pairs: tuple[list[Tensor], list[Tensor], list[str]] | None = None

    @property
    def encoder(self) -> nn.Module:
        """The averaged encoder."""
        return self.average

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Encode without a graph."""
        return self.average(x)

    @torch.no_grad()
    def update(self, momentum: float) -> None:
        """Move towards the context encoder.

        Args:
            momentum: Share of the old average that stays, in [0, 1]; buffers (such as running statistics) are copied.
        """
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"EMA momentum must lie in [0, 1], got {momentum}")
        if self._pairs is None:
            self._pairs = [*self.average.parameters()], [*self.source.parameters()], _state_buffers(self.source)
        averages, sources, buffers = self._pairs
        torch._foreach_lerp_(averages, sources, 1.0 - momentum)  # pyright: ignore[reportPrivateImportUsage]
        for name in buffers:  # by name: a module may replace its buffers instead of changing them in place
            self.average.get_buffer(name).copy_(self.source.get_buffer(name))

    def _apply(self, fn: Any, recurse: bool = True) -> EMATarget:
        self._pairs = None  # moving a module may replace its parameters
        return super()._apply(fn, recurse)


def _state_buffers(module: nn.Module) -> list[str]:
    """Names of the buffers that belong to the state."""
    state = module.state_dict(keep_vars=True)
    return [name for name, _ in module.named_buffers() if name in state]


TARGETS: dict[str, type[Target]] = {cls.kind: cls for cls in (EMATarget, StopGradientTarget, SharedTarget)}


def make_target(kind: str, encoder: nn.Module) -> Target:
    """The target branch of that kind.

    Raises:
        ValueError: The kind is unknown.
    """
    if kind not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(map(repr, TARGETS))}, got {kind!r}")
    return TARGETS[kind](encoder)
