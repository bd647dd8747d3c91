"""Running out of memory: what to do about it, said where it happens."""

from __future__ import annotations

import traceback

import torch

ADVICE = (
    "Out of memory. Less is needed with a smaller batch size (accumulate= more batches for as many samples an update), "
    'with precision="bf16", or with a smaller model. A run with a folder continues from its last checkpoint: the same '
    "call goes on from there"
)
# What the CPU allocator of PyTorch says, with a plain RuntimeError.
SENTENCES = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of the device or of the machine was used up."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sentence in str(error) for sentence in SENTENCES)


def advise_on_memory(error: BaseException) -> None:
    """Add advice to an error for want of memory, and let go of what its traceback holds, so that a checkpoint fits."""
    if is_out_of_memory(error):
        error.add_note(ADVICE)
        traceback.clear_frames(error.__traceback__)
