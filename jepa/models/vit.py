"""Vision transformers by the names their papers use.

Sizes: tiny and small from Touvron et al. 2020 (arXiv 2012.12877), base to huge from Dosovitskiy et al. 2020 (arXiv
2010.11929), giant as in I-JEPA (Assran et al. 2023, arXiv 2301.08243).
"""

from __future__ import annotations

import difflib
from typing import Any

from jepa.models.encoder import Encoder
from jepa.models.tokenizers import Tokenizer

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_dim": 192, "depth": 12, "num_heads": 3},
    "small": {"hidden_dim": 384, "depth": 12, "num_heads": 6},
    "base": {"hidden_dim": 768, "depth": 12, "num_heads": 12},
    "large": {"hidden_dim": 1024, "depth": 24, "num_heads": 16},
    "huge": {"hidden_dim": 1280, "depth": 32, "num_heads": 16},
    "giant": {"hidden_dim": 1408, "depth": 40, "num_heads": 16, "mlp_ratio": 48 / 11},
}


def vit(size: str, tokenizer: Tokenizer, **options: Any) -> Encoder:
    """An encoder of a named size.

    Args:
        size: `"tiny"`, `"small"`, `"base"`, `"large"`, `"huge"` or `"giant"`: 192 to 1408 features, 12 to 40 blocks.
        tokenizer: Cuts images, videos or time series into tokens.
        **options: Of `Encoder`, in place of the size's own; V-JEPA 2's giant has `num_heads=22`.

    Raises:
        ValueError: The size is unknown.

    Example:
        >>> from jepa.models import ImageTokenizer
        >>> encoder = vit("tiny", ImageTokenizer(32, 8, channels=3), positions="rotary")
        >>> encoder.hidden_dim, len(encoder.blocks)
        (192, 12)
    """
    if size not in SIZES:
        nearest = difflib.get_close_matches(str(size), SIZES, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"size must be one of {', '.join(map(repr, SIZES))}, got {size!r}{hint}")
    return Encoder(**{**SIZES[size], **options}, tokenizer=tokenizer)
