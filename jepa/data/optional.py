"""Libraries that are needed by one kind of data only: imported when it is used, with a hint where they are missing."""

from __future__ import annotations

import importlib
from typing import Any


def optional(module: str, what: str, extra: str) -> Any:
    """Import a module, or say how to install it.

    Args:
        module: Name of the module.
        what: What needs it, in the plural, for the message.
        extra: Of this distribution, that brings it.

    Raises:
        ImportError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        top = module.partition(".")[0]
        library = {"PIL": "Pillow", "sklearn": "scikit-learn"}.get(top, top)
        raise ImportError(f"{what} need {library}: pip install 'jepa-lab[{extra}]' ({error})") from error
