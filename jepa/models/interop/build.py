"""Modules of ours from tensors with our names: sizes are read from shapes, and everything must fit.

Axes: D features, P features inside the predictor, N tokens, K mask tokens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from jepa.models.encoder import Encoder
from jepa.models.interop.geometry import Grid, Patch, resize_positions
from jepa.models.interop.names import POSITIONS
from jepa.models.predictor import MaskedPredictor


class LayoutError(ValueError):
    """The weights in a file and those of the module that it should fill differ.

    Attributes:
        missing: Our names of weights that the file lacks.
        unexpected: Names in the file that no weight of ours stands for.
        misshapen: `(name, shape in the file, shape of ours)`.
    """

    def __init__(
        self,
        source: str,
        module: str,
        missing: tuple[str, ...] = (),
        unexpected: tuple[str, ...] = (),
        misshapen: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = (),
    ) -> None:
        self.missing, self.unexpected, self.misshapen = missing, unexpected, misshapen
        shapes = tuple(f"{name} {theirs} instead of {ours}" for name, theirs, ours in misshapen)
        lists = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        problems = "; ".join(f"{len(names)} {kind}: {_some(names)}" for kind, names in lists if names)
        super().__init__(f"{source} does not fit our {module}, nothing was loaded. {problems}")


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


class Unallocated(TorchFunctionMode):
    """Modules built in this context have weights without memory, which `allocate` gives them.

    Drawing random weights that are about to be replaced would take most of the time of loading a large model, and move
    the global generator. Other tensors, such as positions, are computed as ever, unlike under `torch.device("meta")`.
    """

    _CREATES = frozenset({torch.empty, torch.zeros, torch.randn})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Create on the device `meta`."""
        return func(*args, **{**(kwargs or {}), **({"device": "meta"} if func in self._CREATES else {})})


def allocate(module: nn.Module) -> None:
    """Give memory to the weights that have none."""
    module._apply(lambda tensor: torch.empty_like(tensor, device="cpu") if tensor.is_meta else tensor)


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Fill `module`, which may be `Unallocated`, with all of `tensors` and nothing else.

    Raises:
        LayoutError: Names or shapes differ.
    """
    own = module.state_dict()
    missing = tuple(name for name in own if name not in tensors)
    unexpected = tuple(name for name in tensors if name not in own)
    misshapen = tuple(
        (name, tuple(tensors[name].shape), tuple(tensor.shape))
        for name, tensor in own.items()
        if name in tensors and tensors[name].shape != tensor.shape
    )
    if missing or unexpected or misshapen:
        raise LayoutError(source, type(module).__name__, missing, unexpected, misshapen)
    allocate(module)
    module.load_state_dict(dict(tensors))


def build_encoder(
    tensors: Mapping[str, Tensor], *, patch: Patch, stored: Grid, grid: Grid, num_heads: int, source: str
) -> Encoder:
    """The encoder that these weights belong to.

    Args:
        tensors: With our names; the kernel of the patch embedding as a convolution has it.
        patch: What a token covers.
        stored: Grid of the stored positions.
        grid: Grid wanted; positions are resized to it.
        num_heads: Attention heads.
        source: Where the weights come from, for messages.

    Raises:
        LayoutError: Weights are missing, unexpected, or of another shape.
    """
    weights = {**tensors, "embed.weight": tensors["embed.weight"].flatten(1)}
    width = len(weights["embed.weight"])
    depth = depth_of(weights, "Encoder", source)
    with Unallocated():
        encoder = Encoder(
            width,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=_stored_ratio(weights, width),
            tokenizer=patch.tokenizer(grid),
            positions="table" if POSITIONS in weights else "rotary",
        )
    load_strictly(encoder, _with_grid(weights, stored, grid), source)
    return encoder


def build_predictor(
    tensors: Mapping[str, Tensor], *, stored: Grid, grid: Grid, num_heads: int, source: str
) -> MaskedPredictor:
    """The predictor that these weights belong to. Arguments as of `build_encoder`.

    Raises:
        LayoutError: Weights are missing, unexpected, or of another shape.
    """
    inner, width = matrix(tensors, "embed.weight", "MaskedPredictor", source)
    depth = depth_of(tensors, "MaskedPredictor", source)
    with Unallocated():
        predictor = MaskedPredictor(
            width,
            grid,
            predictor_dim=inner,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=_stored_ratio(tensors, inner),
            num_mask_tokens=matrix(tensors, "mask_tokens", "MaskedPredictor", source)[0],
            positions="table" if POSITIONS in tensors else "rotary",
        )
    load_strictly(predictor, _with_grid(tensors, stored, grid), source)
    return predictor


def matrix(tensors: Mapping[str, Tensor], name: str, module: str, source: str) -> tuple[int, int]:
    """Rows and columns of a weight from which sizes are read.

    Raises:
        ValueError: It is missing, or not a matrix.
    """
    if name not in tensors:
        raise LayoutError(source, module, (name,))
    if tensors[name].ndim != 2:
        raise ValueError(
            f"{source} does not fit our {module}: {name} must be a matrix, got {tuple(tensors[name].shape)}"
        )
    rows, columns = tensors[name].shape
    return rows, columns


def depth_of(tensors: Mapping[str, Tensor], module: str, source: str) -> int:
    """Number of blocks, counted rather than read off the largest number in a name.

    Raises:
        LayoutError: There are none, or numbers are left out.
    """
    numbers = {int(match[1]) for name in tensors if (match := re.match(r"blocks\.(\d+)\.", name))}
    gaps = sorted(set(range(max(len(numbers), 1))) - numbers)
    if gaps:
        raise LayoutError(source, module, tuple(f"blocks.{number}" for number in gaps))
    return len(numbers)


def mlp_ratio(hidden: int, width: int) -> float:
    """The ratio that gives exactly that many hidden features, whatever rounding does."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _stored_ratio(tensors: Mapping[str, Tensor], width: int) -> float:
    weight = tensors.get("blocks.0.mlp.fc1.weight")
    if weight is None or weight.ndim != 2:
        return 4.0  # reported when the weights are loaded
    return mlp_ratio(len(weight), width)


def _with_grid(tensors: Mapping[str, Tensor], stored: Grid, grid: Grid) -> dict[str, Tensor]:
    if POSITIONS not in tensors or len(tensors[POSITIONS]) != math.prod(stored):
        return dict(tensors)  # what does not fit is reported when the weights are loaded
    return {**tensors, POSITIONS: resize_positions(tensors[POSITIONS], stored, grid)}


def exportable(encoder: nn.Module) -> Encoder:
    """The encoder, if other layouts have a counterpart for it.

    Raises:
        ValueError: It is not the built-in one, or has registers.
    """
    if not isinstance(encoder, Encoder):
        raise ValueError(f"other layouts hold the built-in Encoder only, got {type(encoder).__name__}")
    if encoder.registers is not None:
        raise ValueError(f"no other layout has registers, and this encoder has {len(encoder.registers)}")
    Patch.of_tokenizer(encoder.tokenizer)
    return encoder


def state_of(module: Encoder | MaskedPredictor) -> dict[str, Tensor]:
    """Everything another layout stores: our state, and the table of positions where there is one, on the CPU."""
    state = {name: tensor.cpu() for name, tensor in module.state_dict().items()}
    return state if module.positions.kind == "rotary" else {**state, POSITIONS: module.positions.table.cpu()}
