"""Configurations as YAML files: typed, strict, and with errors that name the key and the next move."""

from __future__ import annotations

import inspect
import os
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from jepa.config.presets import preset
from jepa.config.run import Experiment, RunConfig
from jepa.config.schema import TrainerConfig, unknown_key_error
from jepa.files import write_text

EXPERIMENT = "experiment.yaml"


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        twice = {str(key) for key in keys if keys.count(key) > 1}
        if twice:
            raise ValueError(f"{', '.join(sorted(twice))} is given twice (line {node.start_mark.line + 1})")
        return super().construct_mapping(node, deep)


def load_config(
    path: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    trainer_defaults: Callable[[str], Mapping[str, Any]] | None = None,
) -> RunConfig:
    """Read a run configuration.

    Args:
        path: A YAML file, such as `generate_config` writes.
        overrides: `"trainer.learning_rate=1e-3"` and the like, which win over the file.
        trainer_defaults: Gives what the `trainer` section leaves out, from the name of the objective; without it
            the defaults of `TrainerConfig` do.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A key is unknown (the nearest is named), a value has the wrong type, or the file is not YAML.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no configuration at {path} (looked from {Path.cwd()}); write one: "
            f"python -m jepa.cli generate-config --output {path}"
        )
    data = _parse(path.read_bytes(), str(path))
    if not isinstance(data, dict):
        raise ValueError(f"{path} must hold a mapping, got {type(data).__name__}")
    for override in overrides:
        _override(data, override)
    try:
        config: RunConfig = _typed(RunConfig, data, "")
        if trainer_defaults is None:
            return config
        left_out = {**trainer_defaults(config.objective), **(data.get("trainer") or {})}
        return replace(config, trainer=_typed(TrainerConfig, left_out, "trainer"))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _parse(text: str | bytes, origin: str) -> Any:
    try:
        return yaml.load(text, _StrictLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{origin} is not valid YAML: {' '.join(str(error).split())}") from error


def save_config(config: RunConfig, path: str | os.PathLike[str]) -> None:
    """Write a configuration, atomically."""
    write_text(path, yaml.safe_dump(_plain(asdict(config)), sort_keys=False))


def experiment_text(experiment: Experiment) -> str:
    """What a run folder keeps of how its run was made, as `load_experiment` reads it.

    Raises:
        yaml.YAMLError: The configuration holds something that is no plain value.
    """
    return yaml.safe_dump(_plain(asdict(experiment)), sort_keys=False)


def load_experiment(folder: str | os.PathLike[str]) -> Experiment:
    """How the run of a folder was made: its configuration, and how it was started.

    Raises:
        FileNotFoundError: The folder does not say; only runs made from a configuration do.
        ValueError: A key is unknown (the nearest is named), a value has the wrong type, or the file is not YAML.
    """
    path = Path(folder) / EXPERIMENT
    data = _parse(path.read_bytes(), str(path))
    try:
        return _typed(Experiment, data, "")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def generate_config(kind: str = "state_pair") -> str:
    """A preset as a commented file that trains as it is.

    Args:
        kind: Name of the preset, see `preset`.

    Raises:
        ValueError: There is none of that name; the message names the nearest.
    """
    return "\n".join(_commented(preset(kind), 0)) + "\n"


def _commented(config: Any, indent: int) -> list[str]:
    pad = "  " * indent
    help_texts = _argument_help(type(config))
    lines = []
    for item in fields(config):
        value = getattr(config, item.name)
        lines += [f"{pad}# {line}" for line in help_texts.get(item.name, [])]
        if is_dataclass(value):
            lines += [f"{pad}{item.name}:", *_commented(value, indent + 1)]
        else:
            text = yaml.safe_dump(_plain(value), sort_keys=False, default_flow_style=True, width=10_000)
            lines.append(f"{pad}{item.name}: {text.removesuffix('...' + chr(10)).strip()}")
    return lines


def _argument_help(cls: type) -> dict[str, list[str]]:
    """Field to its lines in the class's docstring."""
    section = (inspect.getdoc(cls) or "").partition("Args:")[2]
    found: dict[str, list[str]] = {}
    name = ""
    for line in section.splitlines():
        match = re.match(r"    (\w+): (.*)", line)
        if match:
            name = match[1]
            found[name] = [match[2]]
        elif name and line.strip():
            found[name].append(line.strip())
    return found


def _override(data: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"expected key=value, such as trainer.learning_rate=1e-3, got {text!r}")
    *parents, last = key.strip().split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise ValueError(f"{key}: {parent} is not a section")
    data[last] = _parse(value, f"{key}: {value!r}")


def _typed(cls: type, data: Mapping[str, Any], where: str) -> Any:
    if not isinstance(data, Mapping):
        raise ValueError(f"{where} must be a section, got {data!r}")
    hints = get_type_hints(cls)
    values = {}
    for key, value in data.items():
        name = f"{where}.{key}" if where else str(key)
        if key not in hints:
            raise unknown_key_error(name, [f"{where}.{h}" if where else h for h in hints], "key")
        values[key] = _convert(hints[key], value, name)
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}" if where else str(error)) from error


def _convert(hint: Any, value: Any, name: str) -> Any:
    if is_dataclass(hint):
        return _typed(hint, value, name)  # type: ignore[arg-type]
    origin, choices = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        for choice in choices:
            try:
                return _convert(choice, value, name)
            except ValueError:
                continue
    elif origin is Literal:
        if value in choices:
            return value
    elif origin is tuple:
        if isinstance(value, list | tuple) and len(value) == len(choices):
            return tuple(_convert(choice, part, name) for choice, part in zip(choices, value, strict=True))
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
            return float(value)  # YAML 1.1 reads 1e-3 as text
    elif hint is type(None):
        if value is None:
            return None
    elif origin is not None:  # Mapping[str, Any]
        if isinstance(value, Mapping):
            return dict(value)
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ValueError(f"{name} must be {_type_name(hint)}, got {value!r}")


def _type_name(hint: Any) -> str:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return " | ".join(map(_type_name, get_args(hint)))
    if origin is Mapping:
        return "a mapping"
    if origin is None:
        return "None" if hint is type(None) else hint.__name__
    return str(hint).replace("typing.", "")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
