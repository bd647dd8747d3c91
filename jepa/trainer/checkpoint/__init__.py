"""Checkpoints: the file, the folder of a run's, and the writer beside the training."""

from jepa.trainer.checkpoint.file import FORMAT, CheckpointError, check_fits, read_checkpoint, write_checkpoint
from jepa.trainer.checkpoint.folder import CheckpointFolder
from jepa.trainer.checkpoint.randomness import random_state, restore_random_state

__all__ = [
    "FORMAT",
    "CheckpointError",
    "CheckpointFolder",
    "check_fits",
    "random_state",
    "read_checkpoint",
    "restore_random_state",
    "write_checkpoint",
]
