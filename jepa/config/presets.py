"""Recipes that hold up on small data: whole run configurations by name, `DATA-OBJECTIVE`.

Each trains in well under a minute on one core. Options were chosen by the score on a part of the training data; the
documentation's tables report the test part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jepa.config.run import DataConfig, ModelConfig, RunConfig
from jepa.config.schema import TrainerConfig, unknown_key_error

WIDTH = 64

# None of the papers' schedules: they are made for hundreds of thousands of steps, these runs have 400 to 1,500.
TRAINER = TrainerConfig(
    learning_rate=1e-3,
    warmup_fraction=0.1,
    final_learning_rate_fraction=0.01,
    weight_decay=0.05,
    betas=(0.9, 0.95),
    ema_momentum=0.99,
    final_ema_momentum=1.0,
    clip_grad_norm=1.0,
)
# Against collapse, which an EMA target alone does not prevent on small data.
SPREAD = {"variance_weight": 1.0, "covariance_weight": 2.5}


def _encoder(tokenizer: Mapping[str, Any]) -> ModelConfig:
    """A small transformer that several methods share, without a predictor."""
    encoder = {"type": "Encoder", "hidden_dim": WIDTH, "depth": 2, "tokenizer": tokenizer}
    return ModelConfig(encoder=encoder, predictor=None, target="shared")


def _predicting(model: ModelConfig, kind: str, target: str = "ema", **arguments: Any) -> ModelConfig:
    """The same encoder with a predictor."""
    return replace(model, predictor={"type": kind, "hidden_dim": WIDTH, **arguments}, target=target)


# Digits: 1,347 images of 8 x 8 pixels. Mirrored digits are other digits, and there is no colour.

DIGITS = DataConfig(name="digits", batch_size=64, val_fraction=0.0)
DIGITS_MODEL = _encoder({"type": "ImageTokenizer", "image_size": [8, 8], "patch_size": 2})
DIGITS_VIEWS = {"type": "ImageViews", "num_local": 0, "global_scale": [0.4, 1.0], "flip": 0.0, "grayscale": 0.0}

# Basic motions: 40 series of 6 sensors over 100 steps, whose deviations are 2 to 7.

MOTIONS = DataConfig(name="basic_motions", batch_size=20, val_fraction=0.0)
MOTIONS_MODEL = _encoder({"type": "SeriesTokenizer", "length": 100, "patch_size": 5, "channels": 6})
MOTIONS_VIEWS = {"type": "SeriesViews", "num_local": 0, "noise": 0.5}

# Pendulum from pixels: 6,000 steps, seen as two successive pictures of 32 x 32, or as clips.

PIXELS = DataConfig(
    name="pendulum_pixels", batch_size=64, num_steps=6000, cache="runs/data/pendulum_pixels.npz", val_fraction=0.0
)
PIXELS_MODEL = _encoder({"type": "ImageTokenizer", "image_size": [32, 32], "patch_size": 8, "channels": 2})
PIXELS_TRAINER = replace(TRAINER, learning_rate=2e-3, final_ema_momentum=0.99)
CLIPS_MODEL = _encoder(
    {
        "type": "VideoTokenizer",
        "num_frames": 4,
        "image_size": [32, 32],
        "patch_size": 8,
        "tubelet_size": 2,
        "channels": 1,
    }
)

PRESETS: dict[str, RunConfig] = {
    "digits-ijepa": RunConfig(
        objective="ijepa",
        objective_options={"num_targets": 2, "target_scale": [0.2, 0.35], **SPREAD},
        num_epochs=30,
        data=DIGITS,
        model=_predicting(DIGITS_MODEL, "MaskedPredictor", grid=[4, 4], depth=1),
        trainer=TRAINER,
    ),
    "digits-lejepa": RunConfig(
        objective="lejepa",
        objective_options={"augment": DIGITS_VIEWS},
        num_epochs=60,
        data=DIGITS,
        model=DIGITS_MODEL,
        trainer=TRAINER,
    ),
    "digits-vicreg": RunConfig(
        objective="vicreg",
        objective_options={"augment": DIGITS_VIEWS},
        num_epochs=60,
        data=DIGITS,
        model=DIGITS_MODEL,
        trainer=TRAINER,
    ),
    "basic_motions-ijepa": RunConfig(
        objective="ijepa",
        objective_options={"num_targets": 2, "target_scale": [0.2, 0.35], **SPREAD},
        num_epochs=200,
        data=MOTIONS,
        model=_predicting(MOTIONS_MODEL, "MaskedPredictor", grid=[20], depth=1),
        trainer=replace(TRAINER, learning_rate=2e-3),
    ),
    "basic_motions-lejepa": RunConfig(
        objective="lejepa",
        objective_options={"augment": MOTIONS_VIEWS},
        num_epochs=200,
        data=MOTIONS,
        model=MOTIONS_MODEL,
        trainer=TRAINER,
    ),
    "basic_motions-vicreg": RunConfig(
        objective="vicreg",
        objective_options={"augment": MOTIONS_VIEWS},
        num_epochs=200,
        data=MOTIONS,
        model=MOTIONS_MODEL,
        trainer=TRAINER,
    ),
    "pendulum-state_pair": RunConfig(
        objective="state_pair",
        num_epochs=10,
        data=DataConfig(name="pendulum"),
        model=ModelConfig(
            encoder={"type": "Encoder", "hidden_dim": WIDTH, "input_dim": 3, "depth": 2},
            predictor={"type": "Predictor", "hidden_dim": WIDTH, "depth": 1},
        ),
        trainer=TRAINER,
    ),
    "pendulum_pixels-state_pair": RunConfig(
        objective="state_pair",
        objective_options=SPREAD,
        num_epochs=16,
        data=replace(PIXELS, options={"layout": "pairs"}),
        model=_predicting(PIXELS_MODEL, "Predictor", depth=1),
        trainer=PIXELS_TRAINER,
    ),
    "pendulum_pixels-action_conditioned": RunConfig(
        objective="action_conditioned",
        objective_options={"history": 1, "rollout_steps": 2, "num_slices": 64},
        num_epochs=6,
        data=replace(PIXELS, batch_size=32, options={"layout": "trajectories", "length": 3}),
        model=_predicting(PIXELS_MODEL, "ActionPredictor", "shared", action_dim=1, history=1, grid=[4, 4], depth=1),
        trainer=PIXELS_TRAINER,
    ),
    "pendulum_pixels-vjepa": RunConfig(
        objective="vjepa",
        objective_options={"mask_groups": [[4, 0.15], [1, 0.5]], **SPREAD},
        num_epochs=8,
        data=replace(PIXELS, options={"layout": "video", "length": 4}),
        model=_predicting(CLIPS_MODEL, "MaskedPredictor", grid=[2, 4, 4], depth=1, num_mask_tokens=2),
        trainer=replace(PIXELS_TRAINER, final_ema_momentum=1.0),
    ),
}
SHORT_NAMES = {"state_pair": "pendulum-state_pair", "ijepa": "digits-ijepa"}


def preset(name: str, **trainer: Any) -> RunConfig:
    """A run configuration that holds up on small data; the documentation shows what each one reaches.

    Args:
        name: `DATA-OBJECTIVE`, such as `"digits-ijepa"`; `"state_pair"` and `"ijepa"` are short for the first ones.
        **trainer: Fields of `TrainerConfig` to change, such as `seed=1`.

    Raises:
        ValueError: There is none of that name, or a field is unknown; the message names the nearest.
    """
    full = SHORT_NAMES.get(name, name)
    if full not in PRESETS:
        raise unknown_key_error(name, [*PRESETS, *SHORT_NAMES], "preset")
    chosen = PRESETS[full]
    return replace(chosen, trainer=chosen.trainer.updated(trainer)) if trainer else chosen
