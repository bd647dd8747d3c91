"""Which tokens are context and which are targets: masks as pure functions of a generator.

`BlockMaskSampler` is for images and series (I-JEPA), `TubeMaskSampler` for videos (V-JEPA). Both are unbiased and
always end; with `official=True` they draw what the published codes draw, for comparison. `coverage` shows where masks
fall.
"""

from __future__ import annotations

from jepa.masks.block import BlockMaskSampler
from jepa.masks.blocks import Masks
from jepa.masks.coverage import Coverage, MaskSampler, coverage
from jepa.masks.tube import TubeMaskSampler

__all__ = ["BlockMaskSampler", "Coverage", "MaskSampler", "Masks", "TubeMaskSampler", "coverage"]
