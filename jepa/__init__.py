"""Train, watch, steer and batch joint-embedding predictive models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jepa.models import JEPA, Encoder, ImageTokenizer, MaskedPredictor, Predictor, SeriesTokenizer
from jepa.replay import replay
from jepa.trainer import JEPAEvaluator, JEPATrainer, TrainerConfig, attach, create_trainer
from jepa.trainer import fork_run as fork

if TYPE_CHECKING:
    from jepa.batch import runs
    from jepa.config import preset

__version__ = "0.1.0.dev0"

__all__ = [
    "JEPA",
    "Encoder",
    "ImageTokenizer",
    "JEPAEvaluator",
    "JEPATrainer",
    "MaskedPredictor",
    "Predictor",
    "SeriesTokenizer",
    "TrainerConfig",
    "__version__",
    "attach",
    "create_trainer",
    "fork",
    "preset",
    "replay",
    "runs",
]


def __getattr__(name: str) -> Any:
    if name == "preset":  # the presets are built when one is asked for
        from jepa.config import preset

        return preset
    if name == "runs":
        from jepa.batch import runs

        return runs
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
