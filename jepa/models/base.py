"""Models that can be saved and rebuilt: safetensors for the weights, JSON for the constructor arguments."""

from __future__ import annotations

import copy
import difflib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from jepa.files import atomic_path, write_text

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
_REGISTRY: dict[str, type[nn.Module]] = {}
M = TypeVar("M", bound=type[nn.Module])
N = TypeVar("N", bound=nn.Module)


def register(cls: M) -> M:
    """Let files name this architecture. Its `config()` must return JSON-serializable constructor arguments."""
    _REGISTRY[cls.__name__] = cls
    return cls


def describe(module: nn.Module) -> dict[str, Any] | None:
    """`{"type": name, **arguments}` of a registered module, or `None` for any other (or one that holds another)."""
    cls = _class_of(module)
    if _REGISTRY.get(cls.__name__) is not cls:
        return None
    config = module.config()  # type: ignore[operator]
    return None if _foreign(module, config) else {"type": cls.__name__, **config}


def _class_of(module: nn.Module) -> type[nn.Module]:
    """Its class; of a module that `fully_shard` was called on, the one from before."""
    cls = type(module)
    return cls.__bases__[1] if cls.__bases__[0].__name__ == "FSDPModule" else cls


def _foreign(module: nn.Module, config: Mapping[str, Any]) -> list[str]:
    """Arguments that are modules which `config` could not describe."""
    return [name for name, _ in module.named_children() if config.get(name, 0) is None]


def build(spec: Mapping[str, Any]) -> nn.Module:
    """The module that `describe` described. Only registered names are built; no code is ever loaded by name.

    Raises:
        ValueError: The type is not registered, or the arguments do not fit it.
    """
    arguments = dict(spec)
    name = arguments.pop("type", None)
    if name not in _REGISTRY:
        nearest = difflib.get_close_matches(str(name), _REGISTRY, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(sorted(_REGISTRY))}"
        raise ValueError(f"unknown architecture {name!r}; {hint}")
    return _construct(_REGISTRY[name], arguments)


def _construct(cls: type[N], arguments: Mapping[str, Any]) -> N:
    """Call `cls` with arguments from a file: nested descriptions become modules, lists become tuples."""
    nested = {key: build(value) if isinstance(value, Mapping) else value for key, value in arguments.items()}
    try:
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in nested.items()})
    except TypeError as error:
        raise ValueError(f"the arguments of {cls.__name__} do not fit: {error}") from error


class BaseModel(nn.Module):
    """A module with `save_pretrained` and `from_pretrained`.

    A subclass returns its constructor arguments from `config`; submodules that it takes as arguments appear there
    as `describe(module)`, and are kept as attributes of the same name.
    """

    def config(self) -> dict[str, Any]:
        """Constructor arguments, JSON-serializable."""
        raise NotImplementedError(f"{type(self).__name__} must define config() to be saved")

    def save_pretrained(self, path: str | os.PathLike[str]) -> Path:
        """Write `model.safetensors` and `config.json` into the folder `path`.

        Returns:
            The folder.
        """
        from safetensors.torch import save_file

        folder = Path(path)
        if folder.is_file():
            raise NotADirectoryError(f"save_pretrained writes a folder, but {folder} is a file; choose another path")
        config = {"type": type(self).__name__, **self.config()}
        if foreign := _foreign(self, config):
            config["pass"] = foreign
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in unique_state(self).items()}
        with atomic_path(folder / WEIGHTS) as temporary:
            save_file(tensors, temporary)
        write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
        return folder

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], **modules: Any) -> Self:
        """Rebuild a model from a folder that `save_pretrained` wrote.

        Args:
            path: The folder.
            **modules: Constructor arguments that replace those in the file; needed for modules that are not built
                in. Modules are copied, so a model that still uses them keeps its weights.

        Raises:
            FileNotFoundError: The folder or one of its files is missing.
            ValueError: A module must be passed, or the files are damaged or do not fit.
        """
        folder = Path(path)
        config = _read_config(folder / CONFIG)
        if config.get("type") != cls.__name__:
            raise ValueError(f"{folder} holds a {config.get('type')}, not a {cls.__name__}")
        missing = [key for key in config.pop("pass", ()) if key not in modules]
        if missing:
            raise ValueError(
                f"{folder} was saved with modules of your own; build and pass them: "
                f"{cls.__name__}.from_pretrained(path, {', '.join(f'{key}=...' for key in missing)})"
            )
        arguments = {key: value for key, value in config.items() if key != "type"}
        # copied together, so that what they share stays shared
        model = _construct(cls, {**arguments, **copy.deepcopy(modules)})
        load_weights(model, folder / WEIGHTS)
        return model


def unique_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict with each shared tensor once, under its first name."""
    seen: set[int] = set()
    unique: dict[str, Tensor] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            unique[name] = tensor
    return unique


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a safetensors file into `module`, all of it and nothing else, without losing digits.

    A file in float64 makes the module float64; half precision is widened to the module's own type.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or names and shapes differ; the message lists them.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}; save_pretrained writes {WEIGHTS} and {CONFIG}")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or damaged ({error}); save or copy it again") from error
    misfit = misfits(unique_state(module), tensors)
    if misfit:
        raise ValueError(f"{path} does not fit this {type(module).__name__}: {misfit}")
    if any(tensor.dtype == torch.float64 for tensor in tensors.values()):
        module.double()
    module.load_state_dict(tensors, strict=False)


def misfits(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """How the names and shapes of a state differ from those of a model, the first few of them; empty if they fit."""
    problems = [f"missing {name}" for name in own if name not in given]
    problems += [f"unexpected {name}" for name in given if name not in own]
    problems += [
        f"{name} is {tuple(given[name].shape)}, the model has {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in given and given[name].shape != tensor.shape
    ]
    more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
    return "; ".join(problems[:5]) + more


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no model at {path.parent}: {path.name} is missing (looked from {Path.cwd()})")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); save or copy it again") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a JSON object, got {config!r:.50}; save or copy it again")
    return config


@contextmanager
def evaluating(*modules: object) -> Iterator[None]:
    """Evaluation mode inside, each submodule's own mode afterwards; what is no module is left out."""
    own = [module for module in modules if isinstance(module, nn.Module)]
    training = [part for module in own for part in module.modules() if part.training]
    for module in own:
        module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
