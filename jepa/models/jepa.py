"""The joint-embedding predictive model: an encoder, a predictor, and the target branch it learns from.

LeCun 2022, "A path towards autonomous machine intelligence". Axes: B batch, N tokens, C context tokens,
K target blocks, M tokens of a target block, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from jepa.models.base import BaseModel, describe, evaluating, register
from jepa.models.target import make_target


class JEPAOutput(NamedTuple):
    """What `JEPA.forward` returns.

    Attributes:
        prediction: Of the target embedding, the shape of `target`; without a predictor the context embedding itself.
        target: Embedding from the target branch.
        context: Embedding of the context, from the encoder.
    """

    prediction: Tensor
    target: Tensor
    context: Tensor


@register
class JEPA(BaseModel):
    """Predicts the embedding of one part of the input from another part.

    Args:
        encoder: Any module that returns (B, D) or (B, N, D).
        predictor: Any module from context embeddings to predictions; with masks it is called as
            `predictor(context, context_mask, target_mask)`, with one row for each block of each sample unless its class
            says `takes_blocks = True`, as `MaskedPredictor` does. `None` for methods without one, which compare
            embeddings as they are.
        target: `"ema"` (a moving average of the encoder), `"stop_gradient"`, or `"shared"`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        predictor: nn.Module | None = None,
        target: Literal["ema", "stop_gradient", "shared"] = "ema",
    ) -> None:
        super().__init__()
        for name, module in (("encoder", encoder), ("predictor", predictor)):
            if not isinstance(module, nn.Module) and (name, module) != ("predictor", None):
                raise TypeError(f"{name} must be an nn.Module, got {type(module).__name__}")
        widths = getattr(encoder, "hidden_dim", None), getattr(predictor, "hidden_dim", None)
        if None not in widths and widths[0] != widths[1]:
            raise ValueError(f"encoder and predictor have different hidden_dim: {widths[0]} and {widths[1]}")
        grid = getattr(getattr(encoder, "tokenizer", None) or encoder, "grid", None)  # of an adapted one: its own
        other = getattr(predictor, "grid", None)
        if grid is not None and other is not None and tuple(grid) != tuple(other):
            raise ValueError(
                f"the encoder's token grid is {tuple(grid)}, the predictor's {tuple(other)}; build "
                f"{type(predictor).__name__}(hidden_dim, grid={tuple(grid)})"
            )
        self.encoder = encoder
        self.predictor = predictor
        self.target = make_target(target, encoder)

    def config(self) -> dict[str, Any]:
        """Constructor arguments; `None` stands for a module that is not built in, an absent predictor is left out."""
        parts = {"encoder": self.encoder, "predictor": self.predictor}
        described = {name: describe(part) for name, part in parts.items() if part is not None}
        return {**described, "target": self.target.kind}

    def forward(
        self, context: Tensor, target: Tensor, *, context_mask: Tensor | None = None, target_mask: Tensor | None = None
    ) -> JEPAOutput:
        """Encode the context, predict the target's embedding, and encode the target.

        Args:
            context: Input of the encoder.
            target: Input of the target branch.
            context_mask: (B, C) token positions that the encoder sees; all without masks.
            target_mask: (B, M) positions to predict, or (B, K, M) for K blocks predicted one by one.

        Returns:
            Prediction and target have the shape (B, D) or (B, N, D) without masks, (B, M, D) or (B, K, M, D) with.
        """
        if context_mask is None or target_mask is None:
            if context_mask is not target_mask:
                raise ValueError("pass both context_mask and target_mask, or neither")
            embedding = self.encoder(context)
            prediction = embedding if self.predictor is None else self.predictor(embedding)
            wanted = self.target(target)
            _check_shape(prediction, wanted.shape)
            return JEPAOutput(prediction, wanted, embedding)
        if self.predictor is None:
            raise ValueError("masks need a predictor that fills them in: JEPA(encoder, MaskedPredictor(...))")
        embedding = self.encoder(context, keep=context_mask)
        prediction = _predict(self.predictor, embedding, context_mask, target_mask)
        wanted = self.target(target, only=target_mask.flatten(1))
        shape = (*target_mask.shape, embedding.shape[-1])
        _check_shape(prediction, shape)
        return JEPAOutput(prediction, wanted.view(shape), embedding)

    def encode(
        self,
        x: Tensor | Iterable[Any],
        *,
        which: Literal["context", "target"] = "context",
        batch_size: int | None = None,
    ) -> Tensor:
        """Token embeddings for later use, without gradients and in evaluation mode.

        Args:
            x: One input batch, or a loader of batches (a tensor, or a tuple whose first part is the input).
            which: The context encoder or the target encoder (the moving average, where there is one).
            batch_size: Samples at a time, for a tensor.

        Returns:
            (B, N, D), a vector input giving N = 1; on the CPU for a loader, on the model's device for a tensor.

        Evaluation mode is a property of the module: do not call this while the model trains in another thread, which
        would then train in evaluation mode too. Pause the run first, or use `run.inspect()`.
        """
        return self._in_parts(x, which, batch_size, lambda tokens: tokens)

    def embed(
        self,
        x: Tensor | Iterable[Any],
        *,
        which: Literal["context", "target"] = "context",
        batch_size: int | None = None,
    ) -> Tensor:
        """One vector a sample: the mean of its token embeddings. Arguments as in `encode`.

        As with `encode`, not while the model trains in another thread: pause the run first, or use `run.inspect()`.

        Returns:
            (B, D).
        """
        return self._in_parts(x, which, batch_size, lambda tokens: tokens.mean(dim=1))

    def _in_parts(
        self, x: Tensor | Iterable[Any], which: str, batch_size: int | None, reduce: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """`reduce` of the token embeddings, part by part, so that only what it returns is kept."""
        if which not in ("context", "target"):
            raise ValueError(f"which must be 'context' or 'target', got {which!r}")
        branch = self.encoder if which == "context" else self.target
        with evaluating(self.encoder, self.target), torch.no_grad():
            if isinstance(x, Tensor):
                parts = x.split(batch_size) if batch_size else [x]
                return torch.cat([reduce(self._encode_batch(branch, part)) for part in parts])
            return _join([reduce(self._encode_batch(branch, _first(batch))).cpu() for batch in x])

    def _encode_batch(self, branch: nn.Module, x: Tensor) -> Tensor:
        parameter = next((part for part in self.encoder.parameters() if part.is_floating_point()), None)
        if parameter is not None:
            x = x.to(parameter.device)
        if x.dtype == torch.uint8:
            x = x.to(torch.float32 if parameter is None else parameter.dtype) / 255
        tokens = branch(x)
        return tokens.unsqueeze(1) if tokens.ndim == 2 else tokens


def _predict(predictor: nn.Module, embedding: Tensor, context_mask: Tensor, target_mask: Tensor) -> Tensor:
    """Target tokens from context tokens, block by block."""
    if target_mask.ndim == 2 or getattr(predictor, "takes_blocks", False):
        return predictor(embedding, context_mask, target_mask)
    count = target_mask.shape[1]
    repeated = (x.repeat_interleave(count, dim=0) for x in (embedding, context_mask))
    return predictor(*repeated, target_mask.flatten(0, 1)).unflatten(0, (-1, count))


def _check_shape(prediction: Tensor, wanted: tuple[int, ...]) -> None:
    """Losses would broadcast what does not fit."""
    if prediction.shape != wanted:
        raise ValueError(
            f"the predictor returned {tuple(prediction.shape)}, but the target embedding is {tuple(wanted)}; "
            "its output must have the target's shape"
        )


def _join(parts: list[Tensor]) -> Tensor:
    if not parts:
        raise ValueError("the loader gave no batch; it must be re-iterable and not empty")
    return torch.cat(parts)


def _first(batch: Any) -> Tensor:
    first = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(first, Tensor):
        raise TypeError(f"expected batches that are tensors or tuples that begin with one, got {type(batch).__name__}")
    return first
