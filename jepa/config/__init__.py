"""Typed configurations and their files."""

from jepa.config.files import generate_config, load_config, save_config
from jepa.config.presets import preset
from jepa.config.run import DataConfig, ModelConfig, RunConfig
from jepa.config.schema import TrainerConfig

__all__ = [
    "DataConfig",
    "ModelConfig",
    "RunConfig",
    "TrainerConfig",
    "generate_config",
    "load_config",
    "preset",
    "save_config",
]
