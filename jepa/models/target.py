"""Where targets come from: a slowly moving copy of the encoder, or the encoder itself with or without gradient.

Axes: B batch, N tokens, M wanted tokens, D features.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from jepa import distributed
from jepa.models.positions import gather_tokens


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

    def forward(self, x: Tensor, only: Tensor | None = None) -> Tensor:
        """Encode targets.

        Args:
            x: What the encoder takes.
            only: (B, M) positions of the token embeddings that are wanted. An encoder whose class says
                `takes_only = True`, as `Encoder` does, is called as `encoder(x, only=positions)` and spares the rest.

        Returns:
            What the encoder returns, or (B, M, D) with `only`.
        """
        raise NotImplementedError

    def update(self, momentum: float) -> None:
        """Follow the context encoder after an optimizer step."""

    def shard_alike(self) -> None:
        """Be sharded as the context encoder is, after `fully_shard` was called on that."""


def tokens_at(encoder: nn.Module, x: Tensor, only: Tensor | None) -> Tensor:
    """Embeddings of all tokens, or of those at the positions (B, M) without more of the others than is needed."""
    if only is None:
        return encoder(x)
    if getattr(encoder, "takes_only", False):
        return encoder(x, only=only)
    return gather_tokens(encoder(x), only)


class SharedTarget(Target):
    """The context encoder itself, gradients included."""

    kind = "shared"

    def forward(self, x: Tensor, only: Tensor | None = None) -> Tensor:
        """Encode with gradient."""
        return tokens_at(self.source, x, only)


class StopGradientTarget(Target):
    """The context encoder, without gradient."""

    kind = "stop_gradient"

    @torch.no_grad()
    def forward(self, x: Tensor, only: Tensor | None = None) -> Tensor:
        """Encode without a graph."""
        return tokens_at(self.source, x, only)


class EMATarget(Target):
    """An exponential moving average of the context encoder: `target = m * target + (1 - m) * encoder`.

    The average of a half-precision encoder is kept in float32, where steps of one part in a thousand and less are not
    rounded away, and encodes under autocast to the encoder's precision.
    """

    kind = "ema"

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder)
        if distributed.sharded_parts(encoder):
            raise ValueError(
                "the encoder is sharded already, and cannot be copied for the EMA target: build JEPA(encoder, "
                "predictor) first, then call fully_shard on its parts"
            )
        self.average = copy.deepcopy(encoder).requires_grad_(False)
        self.average._apply(_widen)
        self._pairs: tuple[list[Tensor], list[Tensor], list[str]] | None = None

    @property
    def encoder(self) -> nn.Module:
        """The averaged encoder."""
        return self.average

    @torch.no_grad()
    def forward(self, x: Tensor, only: Tensor | None = None) -> Tensor:
        """Encode without a graph."""
        half = next((source for source in self._tensors()[1] if source.dtype in HALF), None)
        if half is None:
            return tokens_at(self.average, x, only)
        with torch.autocast(half.device.type, dtype=half.dtype):
            return tokens_at(self.average, x, only).to(half.dtype)

    @torch.no_grad()
    def update(self, momentum: float) -> None:
        """Move towards the context encoder.

        Args:
            momentum: Share of the old average that stays, in [0, 1]; buffers (such as running statistics) are copied.
        """
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"EMA momentum must lie in [0, 1], got {momentum}")
        averages, sources, buffers = self._tensors()
        if any(source.dtype in HALF for source in sources):
            sources = [source.to(average.dtype) for average, source in zip(averages, sources, strict=True)]
        torch._foreach_lerp_(averages, sources, 1.0 - momentum)  # pyright: ignore[reportPrivateImportUsage]
        for name in buffers:  # by name: a module may replace its buffers instead of changing them in place
            self.average.get_buffer(name).copy_(self.source.get_buffer(name))

    def shard_alike(self) -> None:
        """Shard the average, part by part, as `fully_shard` has sharded the encoder; unless it was sharded, too.

        Its weights are gathered for each forward pass and let go after it: no backward pass would do so.
        """
        for part in [*distributed.sharded_parts(self.source), *distributed.sharded_parts(self.average)]:
            part.reshard()
        if not any(distributed.is_sharded(weight) for weight in self.average.parameters()):
            _shard_like(self.average, self.source)
        for part in distributed.sharded_parts(self.average):
            part.set_reshard_after_forward(True)
        self._pairs = None
        self._tensors()  # now: between forward and backward pass, the encoder's parameters are the gathered ones

    def _tensors(self) -> tuple[list[Tensor], list[Tensor], list[str]]:
        """Averages, the encoder's parameters they follow, and names of the buffers that are copied."""
        if self._pairs is None:
            self._pairs = [*self.average.parameters()], [*self.source.parameters()], _state_buffers(self.source)
        return self._pairs

    def _apply(self, fn: Any, recurse: bool = True) -> EMATarget:
        self._pairs = None  # moving a module may replace its parameters

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in HALF else moved

        return super()._apply(move, recurse)


HALF = (torch.bfloat16, torch.float16)


def _widen(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in HALF else tensor


def _shard_like(average: nn.Module, source: nn.Module) -> None:
    from torch.distributed.fsdp import FSDPModule, fully_shard
    from torch.distributed.tensor import DTensor, Shard

    placed = {}
    for weight, like in zip(average.parameters(), source.parameters(), strict=True):
        if isinstance(like, DTensor):
            placed[weight] = next((place for place in like.placements if isinstance(place, Shard)), None)
    for name, module in reversed([*source.named_modules()]):  # inner ones first
        if isinstance(module, FSDPModule):
            weights = source.get_submodule(name).parameters()
            mesh = next(weight.device_mesh for weight in weights if isinstance(weight, DTensor))
            fully_shard(average.get_submodule(name), mesh=mesh, shard_placement_fn=placed.get)


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
