"""Names of the weights in the published layouts, and ours for them.

A layout is a list of rewrites from its names to ours. The same list serves both ways: reading renames what there is,
writing asks of each name that there must be which of our tensors it is. Our names have two forms: as in our modules,
with query, key and value stacked in `attn.qkv`, and apart, as `attn.q`, `attn.k` and `attn.v`.
Axes: D features, K mask tokens, N positions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Layout = tuple[tuple[str, str], ...]
POSITIONS = "positions.table"

OFFICIAL_ENCODER: Layout = ((r"^patch_embed\.proj\.", "embed."), (r"^pos_embed$", POSITIONS))
OFFICIAL_PREDICTOR: Layout = (
    (r"^predictor_pos_embed$", POSITIONS),
    (r"^predictor_(embed|blocks|norm|proj)\.", r"\1."),
    (r"^mask_token$", "mask_tokens.0"),
)
_PARTS_OF_BLOCKS: Layout = (
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(?:attention\.)?([qkv])(?:uery|ey|alue|_proj)\.", r".attn.\1."),
    (r"\.attention\.(?:output\.dense|o_proj|proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)
# transformers 5 has other names in memory than on disk; these rewrite both
IJEPA_MODEL: Layout = (
    (r"^embeddings\.position_embeddings$", POSITIONS),
    (r"^embeddings\.patch_embeddings\.projection\.", "embed."),
    (r"^(?:encoder\.layer|layers)\.", "blocks."),
    (r"^layernorm\.", "norm."),
    *_PARTS_OF_BLOCKS,
)
VJEPA2_ENCODER: Layout = (
    (r"^encoder\.embeddings\.patch_embeddings\.proj\.", "embed."),
    (r"^encoder\.layer\.", "blocks."),
    (r"^encoder\.layernorm\.", "norm."),
    *_PARTS_OF_BLOCKS,
)
VJEPA2_PREDICTOR: Layout = (
    (r"^predictor\.embeddings\.predictor_embeddings\.", "embed."),
    (r"^predictor\.embeddings\.mask_tokens$", "mask_tokens"),
    (r"^predictor\.layer\.", "blocks."),
    (r"^predictor\.layernorm\.", "norm."),
    (r"^predictor\.proj\.", "proj."),
    *_PARTS_OF_BLOCKS,
)


def our_name(name: str, layout: Layout) -> str:
    """Our name (query, key and value apart) for a name of that layout; a name that it does not know stays."""
    for pattern, replacement in layout:
        name = re.sub(pattern, replacement, name)
    return name


def to_ours(tensors: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Rename, stack query, key and value, stack the mask tokens to (K, D), and drop the batch axis of positions.

    The kernel of the patch embedding keeps its shape, from which patch sizes are read.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        own = our_name(name, layout)
        renamed[f"second {own} ({name})" if own in renamed else own] = tensor  # reported when weights are loaded
    for query in [name for name in renamed if ".attn.q." in name]:
        triple = [query.replace(".attn.q.", f".attn.{part}.") for part in "qkv"]
        _join(renamed, triple, query.replace(".attn.q.", ".attn.qkv."), torch.cat)
    count = sum(name.startswith("mask_tokens.") for name in renamed)
    _join(renamed, [f"mask_tokens.{index}" for index in range(count)], "mask_tokens", torch.stack)
    for name, axes in (("mask_tokens", (1, -1)), (POSITIONS, (0, -2))):
        if name in renamed and renamed[name].ndim > 2:
            renamed[name] = renamed[name].flatten(*axes)
    return renamed


def _join(tensors: dict[str, Tensor], names: list[str], joined: str, join: Callable[[list[Tensor]], Tensor]) -> None:
    """Several tensors as one; what is incomplete or differs in shape stays, and is reported when weights are loaded."""
    parts = [tensors[name] for name in names if name in tensors]
    if names and len(parts) == len(names) and parts[0].ndim and len({part.shape for part in parts}) == 1:
        tensors[joined] = join(parts)
        for name in names:
            del tensors[name]


def apart(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors with query, key and value apart."""
    split: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        if ".attn.qkv." in name:
            parts = zip("qkv", tensor.chunk(3), strict=True)
            split.update({name.replace(".attn.qkv.", f".attn.{part}."): chunk for part, chunk in parts})
        else:
            split[name] = tensor
    return split
