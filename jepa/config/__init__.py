"""Typed configuration."""

from jepa.config.schema import TrainerConfig

__all__ = ["TrainerConfig"]
