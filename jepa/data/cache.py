"""Files that keep what took long to make, and are trusted only where they fit."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jepa.files import atomic_path

Arrays = dict[str, np.ndarray]


def cached(
    cache: str | os.PathLike[str] | None, arguments: Mapping[str, Any], make: Callable[[], Arrays], doing: str
) -> Arrays:
    """What `make` returns, read from an `.npz` file if it was made with the same arguments, else written there.

    Args:
        cache: The file; `None` for none.
        arguments: What the arrays depend on; values with a plain `repr`.
        make: Makes them.
        doing: What that is, in a word, for the warning that a file is replaced.
    """
    path = Path(cache) if cache is not None else None
    described = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    kept = _read(path, described, doing) if path is not None and path.exists() else None
    if kept is not None:
        return kept
    arrays = make()
    if path is not None:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, arguments=np.array(described), **arrays)  # type: ignore[arg-type]
    return arrays


def _read(path: Path, described: str, doing: str) -> Arrays | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            made_with = str(kept["arguments"])
            if made_with == described:
                return {name: kept[name] for name in kept.files if name != "arguments"}
        reason = f"was made with {made_with}"
    except (ValueError, TypeError, KeyError, EOFError, OSError, IndexError, zipfile.BadZipFile) as error:
        reason = f"cannot be read ({error})"
    warnings.warn(f"{path} {reason}; {doing} again and replacing it", stacklevel=4)
    return None
