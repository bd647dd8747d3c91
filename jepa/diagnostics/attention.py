"""Where the attention layers of a model look.

Axes: B batch, M tokens that ask, N tokens that are looked at, H heads, E features of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jepa.models.layers import Attention, pick
from jepa.models.positions import rotate


@dataclass(frozen=True, slots=True)
class Attended:
    """What went into one attention layer, on the CPU: small, while the weights grow with the square of the tokens.

    Attributes:
        queries: (B, H, M, E) float32.
        keys: (B, H, N, E) float32.
        mask: (M, N) bool, whether a token sees another; `None` where all do.
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor | None = None

    def weights(self) -> Tensor:
        """(B, H, M, N): how much each token (row) takes from each (column); rows sum to 1."""
        return self._softmax(self.queries, self.keys)

    def of_sample(self, sample: int) -> Tensor:
        """(H, M, N) weights of one sample."""
        return self._softmax(self.queries[sample], self.keys[sample])

    def _softmax(self, queries: Tensor, keys: Tensor) -> Tensor:
        scores = queries @ keys.transpose(-2, -1) / keys.shape[-1] ** 0.5
        return (scores if self.mask is None else scores.masked_fill(~self.mask, -torch.inf)).softmax(-1)


@contextmanager
def record_attention(module: nn.Module, *, samples: int = 2) -> Iterator[dict[str, Attended]]:
    """Note what the layers of this package attend to in the forward passes of the block, the first call of each.

    Args:
        module: A model, or any module that holds `jepa.models.layers.Attention`.
        samples: Of each batch, from the first on.

    Yields:
        By the name of the layer in `module`, filled as layers are called. Layers of other makes are not seen.

    Example:
        ::

            with record_attention(model) as seen, torch.no_grad():
                model.encoder(images)
            attention_figure(seen, "encoder.blocks.0")
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    seen: dict[str, Attended] = {}
    hooks = []
    for name, layer in module.named_modules():
        if isinstance(layer, Attention):
            hook = _hook(seen, name.removesuffix(".attn"), samples)
            hooks.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def find_block(seen: Mapping[str, Attended], block: str) -> Attended:
    """What was noted of a block.

    Raises:
        ValueError: There is no such block; the message names those there are.
    """
    if block not in seen:
        known = ", ".join(seen) or "none: the model has no attention layers of jepa.models"
        raise ValueError(f"there is no attention block {block!r}; there are {known}")
    return seen[block]


def _hook(seen: dict[str, Attended], name: str, samples: int) -> Any:
    def note(layer: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        if name not in seen:
            seen[name] = _attended(layer, inputs[0][:samples], **options)

    return note


@torch.no_grad()
def _attended(
    layer: Attention, x: Tensor, *, only: Any = None, rotation: Tensor | None = None, mask: Tensor | None = None
) -> Attended:
    queries, keys, _ = layer._heads(layer.qkv(x)).unbind(2)
    queries, keys = queries.transpose(1, 2), keys.transpose(1, 2)
    if rotation is not None:
        rotation = rotation[: len(x)] if rotation.ndim == 3 else rotation
        queries, keys = rotate(queries, rotation), rotate(keys, rotation)
    if only is not None:
        only = only if isinstance(only, slice) else only[: len(x)]
        queries = pick(queries.transpose(1, 2).flatten(2), only).unflatten(2, (layer.num_heads, -1)).transpose(1, 2)
    cpu = torch.device("cpu")
    queries, keys = (part.float().to(cpu, copy=True) for part in (queries, keys))
    return Attended(queries, keys, None if mask is None else mask.to(cpu, copy=True))
