"""Checkpoints: the file, the folder of a run's, and the writer beside the training."""

from jepa.trainer.checkpoint.file import (
    FORMAT,
    CheckpointError,
    check_fits,
    read_checkpoint,
    write_checkpoint,
    write_staged,
)
from jepa.trainer.checkpoint.folder import CheckpointFolder, link
from jepa.trainer.checkpoint.randomness import random_state, restore_random_state
from jepa.trainer.checkpoint.writer import BackgroundWriter, Written

__all__ = [
    "FORMAT",
    "BackgroundWriter",
    "CheckpointError",
    "CheckpointFolder",
    "Written",
    "check_fits",
    "link",
    "random_state",
    "read_checkpoint",
    "restore_random_state",
    "write_checkpoint",
    "write_staged",
]
