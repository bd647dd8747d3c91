"""Encoders, predictors, targets, and the model that joins them."""

from jepa.models.base import BaseModel, build, describe, register
from jepa.models.encoder import Encoder
from jepa.models.jepa import JEPA, JEPAOutput
from jepa.models.predictor import MaskedPredictor, Predictor
from jepa.models.target import EMATarget, SharedTarget, StopGradientTarget, Target
from jepa.models.tokenizers import ImageTokenizer, SeriesTokenizer, Tokenizer

__all__ = [
    "JEPA",
    "BaseModel",
    "EMATarget",
    "Encoder",
    "ImageTokenizer",
    "JEPAOutput",
    "MaskedPredictor",
    "Predictor",
    "SeriesTokenizer",
    "SharedTarget",
    "StopGradientTarget",
    "Target",
    "Tokenizer",
    "build",
    "describe",
    "register",
]
