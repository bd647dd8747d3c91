"""Reading checkpoints of other projects as plain tensors: nothing in a file is ever executed or taken at its word."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
PARTS = ("encoder", "target_encoder", "predictor")
_WRAPPERS = re.compile(r"^(?:(?:module|backbone|_orig_mod)\.)+")  # DDP, the official mask wrapper, torch.compile


def read_parts(path: Path) -> dict[str, Tensors]:
    """State dicts in a file, by the name of the part they belong to, `""` for a file of one bare module.

    Args:
        path: Of `torch.save` (tensors are mapped, not read, where that is possible) or in the safetensors format.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, holds no state dict, or would run code when read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path} (looked from {Path.cwd()})")
    content = read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    parts: dict[str, Tensors] = {}
    for name, value in content.items():
        if isinstance(value, Tensor):
            part, _, rest = str(name).partition(".")
            part, rest = (part, rest) if part in PARTS else ("", str(name))
            parts.setdefault(part, {})[rest] = value
        elif isinstance(value, Mapping) and value and all(isinstance(entry, Tensor) for entry in value.values()):
            parts[str(name)] = {str(key): entry for key, entry in value.items()}
    if not parts:
        raise ValueError(f"{path} holds no state dict; its entries are {', '.join(map(repr, content)) or 'none'}")
    return {part: _checked(path, tensors) for part, tensors in parts.items()}


def read_safetensors(path: Path) -> Tensors:
    """All tensors of a safetensors file.

    Raises:
        ValueError: The file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is truncated or damaged ({error}); download or copy it again") from error


def read_folder(folder: Path) -> tuple[dict[str, Any], Tensors]:
    """`config.json` and the weights (one file, or the shards that an index names) of a transformers folder.

    Raises:
        FileNotFoundError: One of the files is missing.
        ValueError: One of the files is damaged, or the index names files outside the folder.
    """
    config = _read_json(folder / "config.json")
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file() or not index.is_file():
        names = {single.name}
    else:
        names = set(_read_json(index).get("weight_map", {}).values())
    tensors: Tensors = {}
    for name in sorted(names):
        if Path(name).name != name:
            raise ValueError(f"{index} names {name!r}; shards must lie in the folder itself")
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no weights at {folder / name}; a transformers folder holds safetensors files")
        tensors.update(read_safetensors(folder / name))
    return config, _checked(folder, tensors)


def _read_torch(path: Path) -> Mapping[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except pickle.UnpicklingError as error:
        if asked := re.search(r"(?:GLOBAL|global) (\S+)", str(error)):
            raise ValueError(
                f"{path} is refused: reading it would call {asked[1]}, and a checkpoint must hold tensors and plain "
                "containers only; load it where you trust it and save the state dicts alone"
            ) from error
        raise _damaged(path, error) from error
    except Exception as error:  # what torch.load raises for a damaged file depends on where the damage is
        raise _damaged(path, error) from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a mapping of state dicts")
    return content


def _is_zip(path: Path) -> bool:
    """Files of torch before 1.6 are no archives and cannot be mapped."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _damaged(path: Path, error: Exception) -> ValueError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return ValueError(f"{path} is truncated or damaged ({reason:.120}); download or copy it again")


def _checked(path: Path, tensors: Tensors) -> Tensors:
    """Names without wrappers. A tensor that repeats a few bytes over and over could claim any size."""
    for name, tensor in tensors.items():
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"{path} claims {name} of shape {tuple(tensor.shape)}, but does not hold as much data")
    plain = {_WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}
    if len(plain) < len(tensors):
        raise ValueError(
            f"{path} holds the same names with and without the prefix of a wrapper; save one of them alone"
        )
    return plain


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; a transformers folder holds config.json and model.safetensors")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); download or copy it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {content!r:.50}")
    return content
