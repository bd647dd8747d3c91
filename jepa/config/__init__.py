"""Typed configurations and their files, which are read and written by what is imported when it is first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from jepa.config.schema import TrainerConfig

if TYPE_CHECKING:
    from jepa.config.files import experiment_text, generate_config, load_config, load_experiment, save_config
    from jepa.config.presets import preset
    from jepa.config.run import DataConfig, Experiment, ModelConfig, RunConfig

_MODULES = {
    "files": ["experiment_text", "generate_config", "load_config", "load_experiment", "save_config"],
    "presets": ["preset"],
    "run": ["DataConfig", "Experiment", "ModelConfig", "RunConfig"],
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "DataConfig",
    "Experiment",
    "ModelConfig",
    "RunConfig",
    "TrainerConfig",
    "experiment_text",
    "generate_config",
    "load_config",
    "load_experiment",
    "preset",
    "save_config",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
