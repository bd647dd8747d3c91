"""Checkpoints: the file, the folder of a run's, and the writer beside the training."""

from jepa.trainer.checkpoint.file import (
    FORMAT,
    CheckpointError,
    check_fits,
    read_checkpoint,
    step_in,
    write_checkpoint,
    write_staged,
)
from jepa.trainer.checkpoint.folder import FILE, SHARDED, CheckpointFolder, link
from jepa.trainer.checkpoint.randomness import random_state, restore_random_state
from jepa.trainer.checkpoint.sharded import Like, completed, read_plain, read_sharded, shard_like, write_sharded
from jepa.trainer.checkpoint.writer import BackgroundWriter, Written

__all__ = [
    "FILE",
    "FORMAT",
    "SHARDED",
    "BackgroundWriter",
    "CheckpointError",
    "CheckpointFolder",
    "Like",
    "Written",
    "check_fits",
    "completed",
    "link",
    "random_state",
    "read_checkpoint",
    "read_plain",
    "read_sharded",
    "restore_random_state",
    "shard_like",
    "step_in",
    "write_checkpoint",
    "write_sharded",
    "write_staged",
]
