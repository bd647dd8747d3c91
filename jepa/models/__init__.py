"""Encoders, predictors, targets, and the model that joins them."""

from jepa.models.action_predictor import ActionPredictor
from jepa.models.adapters import ModuleEncoder, as_encoder
from jepa.models.base import BaseModel, build, describe, register
from jepa.models.encoder import Encoder
from jepa.models.jepa import JEPA, JEPAOutput
from jepa.models.mlp import MLPEncoder, MLPPredictor
from jepa.models.predictor import MaskedPredictor, Predictor
from jepa.models.resnet import ResNet
from jepa.models.target import EMATarget, SharedTarget, StopGradientTarget, Target
from jepa.models.tokenizers import ImageTokenizer, SeriesTokenizer, Tokenizer, VideoTokenizer
from jepa.models.vit import vit

__all__ = [
    "JEPA",
    "ActionPredictor",
    "BaseModel",
    "EMATarget",
    "Encoder",
    "ImageTokenizer",
    "JEPAOutput",
    "MLPEncoder",
    "MLPPredictor",
    "MaskedPredictor",
    "ModuleEncoder",
    "Predictor",
    "ResNet",
    "SeriesTokenizer",
    "SharedTarget",
    "StopGradientTarget",
    "Target",
    "Tokenizer",
    "VideoTokenizer",
    "as_encoder",
    "build",
    "describe",
    "register",
    "vit",
]
