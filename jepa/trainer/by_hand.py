"""What a hand changes in the model while the run is paused: found before the run goes on, and kept to be made again.

A fingerprint of each tensor is taken when the pause begins, and compared before anything uses the state: the weights
that differ are written to a file of their own, which a replay, and a run that is taken up after a kill, load at that
step.
"""

from __future__ import annotations

import copy
import secrets
import time
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from jepa import distributed
from jepa.files import is_plain_name, remove
from jepa.trainer import events
from jepa.trainer.checkpoint import check_fits, random_state, restore_random_state, write_checkpoint
from jepa.trainer.control import EditedByHand, Fork, Resume, Rewind, Step, Stop, Ticket
from jepa.trainer.ranks import on_rank_zero

if TYPE_CHECKING:
    from jepa.models.jepa import JEPA
    from jepa.trainer.trainer import JEPATrainer

NAMED = 20  # changed tensors that the journal names; it counts them all
PATIENCE = 10.0  # seconds that the ranks have to make the same change
CHUNK = 1 << 22  # elements
_ODD = 0x1E3779B97F4A7C15


class ModelChangedError(ValueError):
    """The model was changed while the run was paused in a way in which it cannot go on; the message says how."""


class Watched(NamedTuple):
    """A model at the beginning of a pause.

    Attributes:
        tensors: Its parameters and saved buffers, by name.
        kinds: Shape, type, device of each, and whether it is trained.
        prints: The fingerprint of each.
        randomness: State of the process-wide generators.
    """

    tensors: dict[str, Tensor]
    kinds: dict[str, tuple[Any, ...]]
    prints: dict[str, int]
    randomness: dict[str, Any]


class HandEdits:
    """Changes made by hand to the model of one trainer (training thread only)."""

    def __init__(self, trainer: JEPATrainer) -> None:
        self._trainer = trainer
        self._before: Watched | None = None

    def watch(self) -> None:
        """A pause begins, or the run has changed the weights itself in one."""
        tensors = self._tensors()
        kinds = {name: _kind(tensor) for name, tensor in tensors.items()}
        self._before = Watched(tensors, kinds, fingerprints(tensors), random_state())

    def forget(self) -> None:
        """The pause is over."""
        self._before = None

    def settle(self) -> None:
        """Something is about to use the state: leave in it what a hand changed in the model, and nothing else.

        Raises:
            ModelChangedError: Its structure was changed, or the ranks changed it differently.
            OSError: The changed weights cannot be kept.
        """
        if self._before is None:
            return
        changed = self._agreed()
        self._trainer.objective.train()
        self._trainer.optimizer.zero_grad(set_to_none=True)  # of a backward pass in a cell
        restore_random_state(self._before.randomness)
        if changed:
            self._record(list(changed))
            self.watch()
            self._trainer.saver.saved_step = -1  # what was saved at this step is another state

    def settle_to_stop(self) -> None:
        """`settle`, but a disk that refuses does not hold a run that is to end."""
        try:
            self.settle()
        except OSError as error:
            warnings.warn(
                f"the weights changed by hand at step {self._trainer.step} could not be kept ({error}): a replay of "
                "this run will come out differently",
                RuntimeWarning,
                stacklevel=2,
            )

    def _tensors(self) -> dict[str, Tensor]:
        state = self._trainer.objective.state_dict(keep_vars=True)
        return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}

    def _agreed(self) -> dict[str, int]:
        """The new fingerprints of what was changed, once all ranks have changed the same; they get some time to."""
        deadline = time.monotonic() + PATIENCE
        while True:
            found = distributed.gather_objects(self._look())
            problem = next((what for _, what in found if what), None)
            if problem:
                raise ModelChangedError(problem)
            late = distributed.broadcast_object(time.monotonic() > deadline)  # one clock decides
            if self._trainer.sharded or all(changed == found[0][0] for changed, _ in found):
                return found[0][0]
            if late:
                raise ModelChangedError(
                    "the processes changed the model differently while the run was paused: make the same change on "
                    "every one, or go back to a checkpoint with run.rewind(...)"
                )
            time.sleep(0.05)

    def _look(self) -> tuple[dict[str, int], str]:
        """What was changed, and why the run cannot go on with it, if so."""
        assert self._before is not None
        tensors = self._tensors()
        if problem := _structure(self._before, tensors):
            return {}, (
                f"the model was rebuilt while the run was paused: {problem}. A run goes on with the tensors that it "
                "began with: change their values in place, with torch.no_grad(), as in weight.mul_(0.5), or put back "
                "what was there; for another model, stop this run and create a new trainer"
            )
        before = self._before.prints
        changed = {name: print_ for name, print_ in fingerprints(tensors).items() if print_ != before[name]}
        if changed and self._trainer.sharded:
            return changed, (
                "the model is sharded, and what is changed by hand in one cannot be kept: go back to a checkpoint with "
                "run.rewind(...)"
            )
        return changed, ""

    def _record(self, names: list[str]) -> None:
        trainer = self._trainer
        told = {"tensors": names[:NAMED], "count": len(names)}
        kept = on_rank_zero(lambda: self._keep(told))
        command = {"type": EditedByHand.__name__, "checkpoint": kept}
        trainer.publish(events.CommandApplied(trainer.step, trainer.epoch, command, "hand", told))

    def _keep(self, told: Mapping[str, Any]) -> str | None:
        """Write the weights, then the line that leads to them; returns the file's name."""
        trainer, folder = self._trainer, self._trainer.run
        if folder is None:
            return None
        path = folder.checkpoints.path / f"edited-{trainer.step:08d}-{secrets.token_hex(4)}.pt"
        write_checkpoint({"objective_state": trainer.objective.state_dict()}, path)
        try:
            trainer.journal("EditedByHand", command=EditedByHand(path.name).as_data(), **told)
        except OSError:
            remove(path)
            raise
        return path.name


def edited_file(folder: Path, edit: EditedByHand) -> Path:
    """The weights of an edit, in the folder of the checkpoints.

    Raises:
        ValueError: The edit, which a file tells of, names a place outside of that folder.
    """
    if not is_plain_name(edit.checkpoint):
        raise ValueError(
            f"weights changed by hand are kept in the run's checkpoints/, under a plain name, got {edit.checkpoint!r}"
        )
    return folder / edit.checkpoint


def model_at_rest(trainer: JEPATrainer, asked: Ticket | None) -> JEPA:
    """A trainer's model, if no training thread changes it; in a replay, which no hand changes, a copy.

    Args:
        trainer: In this process.
        asked: What was asked of it last.

    Raises:
        RuntimeError: It is training, or about to.
    """
    if trainer.gate.until is not None:
        return copy.deepcopy(trainer.model)
    going_on = asked is not None and not asked.done and isinstance(asked.command, Resume | Step | Stop | Rewind | Fork)
    if trainer.is_live and (trainer.state != "paused" or going_on):
        state = "about to go on" if trainer.state == "paused" else trainer.state
        raise RuntimeError(
            f"the run is {state} at step {trainer.step}, and its weights change with every step: run.pause().result() "
            "first, or look at a copy with run.inspect()"
        )
    return trainer.model


def take_weights(trainer: JEPATrainer, path: Path) -> None:
    """Give the model the weights that a hand gave it (training thread, on every rank).

    Raises:
        FileNotFoundError: The file is not there.
        CheckpointError: It is damaged, or of another model; nothing was changed.
    """
    weights = trainer.lineage.read_together(path)["objective_state"]
    check_fits(trainer.objective, weights, path)
    trainer.objective.load_state_dict(weights)


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.dtype, tensor.device, tensor.requires_grad


def _structure(before: Watched, now: Mapping[str, Tensor]) -> str:
    """What is no longer as it was, beside values; empty if nothing."""
    added, gone = sorted(now.keys() - before.tensors.keys()), sorted(before.tensors.keys() - now.keys())
    both = [name for name in now if name in before.tensors]
    other = [name for name in both if isinstance(now[name], nn.Parameter) and now[name] is not before.tensors[name]]
    altered = [name for name in both if _kind(now[name]) != before.kinds[name]]
    parts = {
        "added": added,
        "gone": gone,
        "replaced by another tensor": [name for name in other if name not in altered],
        "of another shape, type, device or requires_grad": altered,
    }
    return "; ".join(f"{_some(names)} {what}" for what, names in parts.items() if names)


def _some(names: list[str]) -> str:
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")


def fingerprints(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """A number for the bytes of each tensor; those of tensors on a device are brought to the host together."""
    parts = {name: distributed.own_part(tensor.detach()) for name, tensor in tensors.items()}
    here = {name: _checksum(part) for name, part in parts.items() if part.device.type == "cpu"}
    there = {name: weighed_sum(part) for name, part in parts.items() if name not in here}
    numbers = torch.stack(list(there.values())).tolist() if there else []
    return {**here, **dict(zip(there, numbers, strict=True))}


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


@torch.no_grad()
def weighed_sum(tensor: Tensor) -> Tensor:
    """The bits of a tensor as whole numbers, each times a number of its place, summed up modulo 2^64 where it is."""
    width = {1: torch.uint8, 2: torch.int16}.get(tensor.element_size(), torch.int32)
    bits = tensor.contiguous().reshape(-1).view(width)
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    places = torch.arange(1, min(len(bits), CHUNK) + 1, device=tensor.device) * _ODD
    factors = (places ^ (places >> 29)) * _ODD | 1
    for chunk in bits.split(CHUNK):
        total = total * _ODD + (chunk.long() * factors[: len(chunk)]).sum()
    return total
