"""Train, watch, steer and batch joint-embedding predictive models."""

from jepa.config import preset
from jepa.models import JEPA, Encoder, ImageTokenizer, MaskedPredictor, Predictor, SeriesTokenizer
from jepa.trainer import JEPAEvaluator, JEPATrainer, TrainerConfig, create_trainer

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
    "create_trainer",
    "preset",
]
