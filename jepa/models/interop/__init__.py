"""Published checkpoints: the layouts of the official codes of I-JEPA, V-JEPA and V-JEPA 2, and of transformers.

Loading builds our `Encoder`, `MaskedPredictor` or `JEPA` with the published weights, strictly: every weight has its
place, or nothing is loaded and all misfits are listed. Nothing in a file is executed, nothing is downloaded.

Example:
    >>> encoder = from_official("IN1K-vit.h.14-300e.pth.tar", "target_encoder")  # doctest: +SKIP
    >>> encoder = from_transformers("folder/of/vjepa2-vitl-fpc64-256")  # doctest: +SKIP
"""

from jepa.models.interop.build import LayoutError
from jepa.models.interop.official_reader import from_official
from jepa.models.interop.official_writer import to_official
from jepa.models.interop.parity import Parity, parity
from jepa.models.interop.transformers_reader import from_transformers
from jepa.models.interop.transformers_writer import to_transformers

__all__ = [
    "LayoutError",
    "Parity",
    "from_official",
    "from_transformers",
    "parity",
    "to_official",
    "to_transformers",
]
