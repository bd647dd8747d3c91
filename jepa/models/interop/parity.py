"""Does a loaded model compute what the original computes? Outputs are compared, not names.

Axes: B batch, C channels, T frames, H W pixels, N tokens, K context tokens, M target tokens, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jepa.models.base import evaluating
from jepa.models.jepa import JEPA
from jepa.models.positions import gather_tokens
from jepa.models.predictor import MaskedPredictor


@dataclass(frozen=True)
class Parity:
    """What `parity` found.

    Attributes:
        errors: Largest absolute difference of each output compared.
        scale: Largest absolute value in an output of the original, to judge the errors by.
        tolerance: What was allowed.
    """

    errors: dict[str, float]
    scale: float
    tolerance: float

    @property
    def max_error(self) -> float:
        """The largest of the errors."""
        return max(self.errors.values())


def parity(
    ours: nn.Module, theirs: Callable[..., Any], example: Tensor | tuple[Tensor, ...], *, tolerance: float = 1e-5
) -> Parity:
    """Compare the outputs of two models for the same input, in evaluation mode and without gradients.

    Args:
        ours: An encoder or predictor of ours, or a `JEPA` to compare both at once with a `VJEPA2Model`.
        theirs: A model of transformers, or any callable that takes what `ours` takes and returns a tensor.
        example: What `ours` takes, several inputs as a tuple. Images are (B, C, H, W), videos (B, C, T, H, W), whose
            axes are swapped for a `VJEPA2Model`. For a `JEPA`: `(videos, context_mask, target_mask)`, masks as
            positions (B, K) and (B, M); the context is cut from the embeddings of the whole video, as there.
        tolerance: Largest absolute difference allowed. In float32, sums in another order differ by about 1e-6.

    Returns:
        The differences found.

    Raises:
        ValueError: A difference is larger than `tolerance`, or not a number, or shapes differ.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    with evaluating(ours, theirs), torch.no_grad():
        pairs = _both(ours, theirs, *inputs) if isinstance(ours, JEPA) else {"output": _one(ours, theirs, inputs)}
    for name, (own, original) in pairs.items():
        if own.shape != original.shape:
            raise ValueError(f"no parity: {name} is {tuple(own.shape)}, the original's {tuple(original.shape)}")
    errors = {name: (own.double() - original.double()).abs().max().item() for name, (own, original) in pairs.items()}
    found = Parity(errors, max(original.abs().max().item() for _, original in pairs.values()), tolerance)
    if not all(error <= tolerance for error in errors.values()):  # not a number is no parity either
        listed = ", ".join(f"{error:.3g} in {name}" for name, error in errors.items())
        raise ValueError(
            f"no parity: largest absolute difference {listed}, allowed {tolerance:.3g}, for outputs up to "
            f"{found.scale:.3g}; check precision (float32?), number of heads, image size and which encoder was loaded"
        )
    return found


def _one(ours: nn.Module, theirs: Callable[..., Any], inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    video = _kind(theirs) == "vjepa2"
    output = theirs(inputs[0].transpose(1, 2), skip_predictor=True) if video else theirs(*inputs)
    return ours(*inputs), output if isinstance(output, Tensor) else output.last_hidden_state


def _both(ours: JEPA, theirs: Callable[..., Any], *inputs: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    if _kind(theirs) != "vjepa2" or not isinstance(ours.predictor, MaskedPredictor) or len(inputs) != 3:
        raise ValueError(
            "a JEPA with a MaskedPredictor is compared with a VJEPA2Model, on (videos, context_mask, target_mask); "
            "compare others part by part: parity(jepa.encoder, ...), parity(jepa.predictor, ...)"
        )
    x, context, target = inputs
    output = theirs(x.transpose(1, 2), context_mask=[context], target_mask=[target])
    tokens = ours.encoder(x)
    group = 1 % ours.predictor.num_mask_tokens  # the one that a VJEPA2Model always uses
    prediction = ours.predictor(gather_tokens(tokens, context), context, target, group=group)
    return {
        "encoder": (tokens, output.last_hidden_state),
        "predictor": (prediction, output.predictor_output.last_hidden_state),
    }


def _kind(model: Callable[..., Any]) -> str | None:
    return getattr(getattr(model, "config", None), "model_type", None)
