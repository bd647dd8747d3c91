"""Encoders of other libraries: vision transformers and convolutional networks of timm and transformers, or any module.

Nothing is guessed from batch to batch. One example input goes through the module when it is wrapped, what comes out
decides what it is from then on, and whether tokens can be hidden from it is *tried*.

Axes: B batch, P tokens in front that have no place on the grid (class token, registers), N tokens, K kept tokens,
D features, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from jepa.models.base import evaluating
from jepa.models.positions import gather_tokens

Output = Literal["auto", "tokens", "vector"]
Returns = Literal["vector", "tokens", "maps", "maps_last"]
# submodules whose output is the sequence of tokens before the first block: timm's name, then that of transformers
BEFORE_BLOCKS = ("norm_pre", "embeddings")
WITHOUT_MASKS = "it trains with objectives that hide nothing, such as 'lejepa', 'vicreg' or 'state_pair'"


class ModuleEncoder(nn.Module):
    """An encoder around any module, with what objectives and predictors have to know of it; see `as_encoder`.

    Files cannot name such an encoder: build it again and pass it, `JEPA.from_pretrained(path, encoder=...)`.

    Args:
        module: Takes one batch; returns a tensor, or an object with `last_hidden_state`. It is called by its
            `forward_features` if it has one.
        hidden_dim: Width of the embeddings.
        returns: `"vector"` (B, D), `"tokens"` (B, P + N, D), `"maps"` (B, D, H, W) or `"maps_last"` (B, H, W, D).
        pooled: Whether to return the mean over the tokens.
        grid: Of its tokens, where that is known.
        prefix: Tokens in front that are left out, P.
        drop_after: Name of the submodule whose output is the sequence of all tokens before the first block.
        no_masks: Why tokens cannot be hidden from it; empty if they can.
    """

    def __init__(
        self,
        module: nn.Module,
        hidden_dim: int,
        *,
        returns: Returns,
        pooled: bool = False,
        grid: tuple[int, ...] | None = None,
        prefix: int = 0,
        drop_after: str = "",
        no_masks: str = "",
    ) -> None:
        super().__init__()
        self.module = module
        self.hidden_dim = hidden_dim
        self.returns: Returns = returns
        self.pooled = pooled
        self.grid = grid
        self.prefix = prefix
        self.drop_after = drop_after
        self.no_masks = no_masks

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Encode a batch.

        Args:
            x: What the module takes.
            keep: (B, K) positions; only these tokens are computed, the others are dropped before the first block.

        Returns:
            (B, D), or (B, N, D) or (B, K, D) tokens.
        """
        if keep is None:
            return self._finish(_call(self.module, x))
        if self.no_masks:
            raise ValueError(self.no_masks)
        with self._dropping(keep):
            tokens = self._finish(_call(self.module, x))
        if tokens.shape[:2] != keep.shape:
            raise ValueError(f"{keep.shape[1]} tokens were kept, but the module returned {tuple(tokens.shape)}")
        return tokens

    def extra_repr(self) -> str:
        """What is known of the module."""
        return f"hidden_dim={self.hidden_dim}, returns={self.returns!r}, grid={self.grid}, masks={not self.no_masks}"

    def _finish(self, x: Tensor) -> Tensor:
        if self.returns == "vector":
            return x
        if self.returns == "tokens":
            tokens = x[:, self.prefix :]
        else:
            tokens = x.flatten(2).transpose(1, 2) if self.returns == "maps" else x.flatten(1, 2)
        return tokens.mean(dim=1) if self.pooled else tokens

    @contextmanager
    def _dropping(self, keep: Tensor) -> Iterator[None]:
        """Inside, the tokens that are not kept end before the first block."""
        total = self.prefix + math.prod(self.grid or ())

        def drop(_: nn.Module, __: Any, tokens: Tensor) -> Tensor:
            if not isinstance(tokens, Tensor) or tokens.ndim != 3 or tokens.shape[1] != total:
                got = tuple(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
                raise ValueError(f"expected {total} tokens of {self.drop_after!r}, got {got}")
            return torch.cat([tokens[:, : self.prefix], gather_tokens(tokens[:, self.prefix :], keep)], dim=1)

        hook = self.module.get_submodule(self.drop_after).register_forward_hook(drop)
        try:
            yield
        finally:
            hook.remove()


def as_encoder(
    module: nn.Module,
    example: Tensor | None = None,
    *,
    output: Output = "auto",
    grid: tuple[int, ...] | None = None,
) -> ModuleEncoder:
    """Make an encoder of any module: a model of timm or transformers, or one of your own.

    Masked objectives need an encoder that drops tokens before its first block. Whether this one can is found out by
    reversing the order of its tokens there (which must do nothing but reverse its output) and by leaving half of them
    away; `no_masks` says why it cannot.

    Parameters that the output does not depend on, such as a classifier or a pooler, are frozen: they would have no
    gradient, which training on several ranks refuses.

    Args:
        module: Takes one batch.
        example: A batch of at least one input; by default noise of the size that the module's configuration names.
        output: `"tokens"`, `"vector"` (the mean over the tokens, where the module returns them), or `"auto"`: as it
            comes.
        grid: Token grid of one input, where the module does not say.

    Raises:
        TypeError: The module returns neither a tensor nor an object with `last_hidden_state`.
        ValueError: An example or a grid is needed, or does not fit what comes out.
    """
    if output not in get_args(Output):
        raise ValueError(f"output must be one of {', '.join(map(repr, get_args(Output)))}, got {output!r}")
    said = _read(module)
    example = _noise(module, said.input_shape) if example is None else example
    with evaluating(module), torch.no_grad():
        returned = _call(module, example)
        returns, width = _form(module, returned)
        if output == "tokens" and returns == "vector":
            raise ValueError(
                f"{type(module).__name__} returns {tuple(returned.shape)}, one vector an input: use output='vector'"
            )
        tokens = returns != "vector" and output != "vector"
        found, prefix = _layout(module, returned, returns, grid, said)
        encoder = ModuleEncoder(
            module,
            width,
            returns=returns,
            pooled=returns != "vector" and output == "vector",
            grid=found if tokens else None,
            prefix=prefix,
            drop_after=_before_blocks(module),
        )
        _freeze_unused(encoder, example)
        encoder.no_masks = _why_no_masks(encoder, example)
    return encoder


class _Said(NamedTuple):
    """What a module says of itself: the shape of one input, its token grid, its tokens in front; `None` if nothing."""

    input_shape: tuple[int, ...] | None = None
    grid: tuple[int, ...] | None = None
    prefix: int | None = None


def _read(module: nn.Module) -> _Said:
    """Sizes by the names that timm and transformers give them."""
    patches: Any = getattr(module, "patch_embed", None)
    if hasattr(patches, "grid_size"):
        channels = getattr(getattr(patches, "proj", None), "in_channels", 3)
        shape = None if patches.img_size is None else (channels, *_pair(patches.img_size))
        return _Said(shape, patches.grid_size and _pair(patches.grid_size), getattr(module, "num_prefix_tokens", 0))
    pretrained: Any = getattr(module, "pretrained_cfg", None)
    if isinstance(pretrained, dict) and "input_size" in pretrained:
        return _Said(tuple(pretrained["input_size"]))
    config: Any = getattr(module, "config", None)
    video = hasattr(config, "tubelet_size") or hasattr(config, "num_frames")
    if video or not hasattr(config, "image_size") or not hasattr(config, "num_channels"):
        return _Said()
    sizes = _pair(config.image_size)
    patch = getattr(config, "patch_size", None)
    grid = None if patch is None else tuple(size // side for size, side in zip(sizes, _pair(patch), strict=True))
    return _Said((config.num_channels, *sizes), grid)


def _pair(size: int | Sequence[int]) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else tuple(size)


def _noise(module: nn.Module, shape: tuple[int, ...] | None) -> Tensor:
    """Two inputs of that shape, where and as what the module's weights are."""
    if shape is None:
        raise ValueError(
            f"{type(module).__name__} does not say how large its inputs are: pass an example, "
            "as_encoder(module, torch.zeros(1, 3, 224, 224))"
        )
    noise = torch.randn((2, *shape), generator=torch.Generator().manual_seed(0))
    parameter = next(module.parameters(), noise)
    return noise.to(parameter.device, parameter.dtype)


def _call(module: nn.Module, x: Tensor) -> Tensor:
    features = getattr(module, "forward_features", None)
    returned = module(x) if features is None else features(x)
    tensor = getattr(returned, "last_hidden_state", returned)
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"{type(module).__name__} returned a {type(tensor).__name__}; an encoder returns a tensor, or an object "
            "with last_hidden_state"
        )
    return tensor


def _form(module: nn.Module, returned: Tensor) -> tuple[Returns, int]:
    """What the shape of an output means, and the number of features in it."""
    if returned.ndim == 4:
        last = getattr(module, "output_fmt", "") == "NHWC"  # as timm says of some
        return ("maps_last", returned.shape[-1]) if last else ("maps", returned.shape[1])
    if returned.ndim not in (2, 3):
        raise ValueError(
            f"{type(module).__name__} returns {tuple(returned.shape)}; an encoder returns (B, D), (B, N, D) or feature "
            "maps (B, D, H, W)"
        )
    return "vector" if returned.ndim == 2 else "tokens", returned.shape[-1]


def _layout(
    module: nn.Module, returned: Tensor, returns: Returns, grid: tuple[int, ...] | None, said: _Said
) -> tuple[tuple[int, ...] | None, int]:
    """Token grid, and the number of tokens in front of it."""
    if returns == "vector":
        return None, 0
    if returns != "tokens":
        sizes = tuple(returned.shape[2:] if returns == "maps" else returned.shape[1:3])
        if grid not in (None, sizes):
            raise ValueError(f"{type(module).__name__} returns maps of {sizes}, not of grid={grid}")
        return sizes, 0
    total = returned.shape[1]
    if grid is not None:
        prefix = total - math.prod(grid)
        if prefix < 0 or said.prefix not in (None, prefix):
            raise ValueError(
                f"grid={tuple(grid)} has {math.prod(grid)} tokens, but {type(module).__name__} returns {total}"
                + (f", {said.prefix} of them in front" if said.prefix else "")
            )
        return tuple(grid), prefix
    if said.grid is not None:
        prefix = total - math.prod(said.grid)
        # more tokens in front than on the grid would be another grid
        if 0 <= prefix < math.prod(said.grid) and said.prefix in (None, prefix):
            return said.grid, prefix
    return None, said.prefix or 0


def _before_blocks(module: nn.Module) -> str:
    names = [name for name, _ in module.named_modules()]
    return next((name for last in BEFORE_BLOCKS for name in names if name.rpartition(".")[2] == last), "")


def _freeze_unused(encoder: ModuleEncoder, example: Tensor) -> None:
    """Freeze the parameters that no gradient reaches."""
    parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    if not parameters:
        return
    with torch.enable_grad():
        reached = torch.autograd.grad(encoder(example).sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, reached, strict=True):
        parameter.requires_grad_(gradient is not None)


def _why_no_masks(encoder: ModuleEncoder, example: Tensor) -> str:
    """Why tokens cannot be hidden from it, found out by hiding some; empty if they can."""
    name = type(encoder.module).__name__
    if encoder.pooled or encoder.returns == "vector":
        return f"{name} gives one vector an input, so there are no tokens to hide; {WITHOUT_MASKS}"
    if encoder.returns != "tokens":
        return f"{name} mixes neighbours before any token could be hidden from it; {WITHOUT_MASKS}"
    if encoder.grid is None:
        return f"the token grid of {name} is not known: pass as_encoder(..., grid=...); or {WITHOUT_MASKS}"
    if not encoder.drop_after:
        return f"{name} has no part called {' or '.join(BEFORE_BLOCKS)} after which to hide tokens; {WITHOUT_MASKS}"
    order = torch.arange(math.prod(encoder.grid), device=example.device).flip(0).expand(len(example), -1)
    try:
        usual, backwards = encoder(example), encoder(example, keep=order)
        encoder(example, keep=order[:, : max(1, order.shape[1] // 2)])
    except Exception as error:  # a foreign module may fail in any way when tokens are missing
        return f"{name} fails when tokens are hidden from it ({error}); {WITHOUT_MASKS}"
    tolerance = math.sqrt(torch.finfo(usual.dtype).eps) * usual.abs().max()
    if (backwards - usual.flip(1)).abs().max() > tolerance:
        return f"the blocks of {name} depend on the order of its tokens, so none can be left away; {WITHOUT_MASKS}"
    return ""
