"""A run once more: the same start, the same data, and every command of its journal before the same step.

What a hand did is repeated by a machine, and the weights are the same: bit for bit on the same machine with the same
number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jepa.data.source import size_of
from jepa.trainer.branching import link_edits
from jepa.trainer.checkpoint import completed, read_checkpoint
from jepa.trainer.control import EditedByHand
from jepa.trainer.journal import Edit, Journal, Plan
from jepa.trainer.run import RunFolder

if TYPE_CHECKING:
    from jepa.trainer.trainer import JEPATrainer


@dataclass(frozen=True, slots=True, repr=False)
class Replay:
    """What came of a replay.

    Attributes:
        run: Its own run folder, if it has one.
        trainer: The trainer that made it, with its model; `None` where that was in another process.
        step: Updates done.
        checkpoint: The checkpoint of the original run that it was compared with.
        difference: Largest absolute difference between a weight of the two (model, EMA target and heads); 0 if they are
            the same bit for bit.
    """

    run: Path | None
    trainer: JEPATrainer | None
    step: int
    checkpoint: Path
    difference: float

    def __repr__(self) -> str:
        outcome = (
            "the same weights, bit for bit"
            if self.equal
            else f"weights differ by up to {self.difference:.3g} (other data, or another machine?)"
        )
        return f"<replay of {self.checkpoint}: {outcome}, step {self.step}, {self.run or 'no run folder'}>"

    @property
    def equal(self) -> bool:
        """Whether all weights are the same, bit for bit."""
        return self.difference == 0.0


@dataclass(frozen=True, slots=True)
class Score:
    """What a run's folder says about how to make it again.

    Attributes:
        initial: The state that it began with.
        final: The state to arrive at.
        checkpoint: Where `final` was read from.
        edits: What was changed on the way, with the steps: hyper-parameters that were set, weights that a hand changed.
        folder: Where the changed weights are.
        plans: Over how many steps the schedules were laid, and from which step on.
    """

    initial: Mapping[str, Any]
    final: Mapping[str, Any]
    checkpoint: Path
    edits: list[Edit]
    plans: list[Plan]
    folder: Path

    @property
    def step(self) -> int:
        """Updates to do in all."""
        return self.final["position"]["step"]


def read_score(run: str | os.PathLike[str]) -> Score:
    """Read how to make a run again, up to its newest valid checkpoint.

    Raises:
        FileNotFoundError: There is no such run.
        ValueError: The folder does not hold what a replay needs.
    """
    folder = RunFolder(run)
    if not folder.journal_path.is_file():
        raise FileNotFoundError(f"{folder.path} is not the folder of a run: it has no journal.jsonl")
    told = Journal.read(folder.journal_path)
    found = folder.checkpoints.newest_valid(folder.leads_on_from(told))
    if found is None or not folder.checkpoints.initial.exists():
        raise ValueError(
            f"{folder.path} cannot be replayed: it needs checkpoints/initial.pt, the state that the run began with, "
            "and a later checkpoint to arrive at"
        )
    path, final = found[0], completed(*found)
    tick = told.tick_of(final.get("journal"))
    if tick is None:
        raise ValueError(f"{path} was not written by this run, so its journal does not tell how it came about")
    return Score(
        read_checkpoint(folder.checkpoints.initial),
        final,
        path,
        told.edits(tick),
        told.plans(tick),
        folder.checkpoints.path,
    )


def perform(score: Score, trainer: JEPATrainer, loader: Any) -> Replay:
    """Train as a run was trained.

    Args:
        score: Of the run.
        trainer: Built as the run's was, with a run folder of its own or none. Its weights are replaced by those that
            the run began with.
        loader: The same data, in the same batches.

    Raises:
        CheckpointError: The trainer has another objective, model or optimizer.
        ValueError: The loader has other data, or batches of another size.
    """
    had, given = score.final.get("data"), size_of(trainer.source_of(loader))
    if had is not None and given is not None and had != given:
        raise ValueError(f"the run was trained on other data: it had {had}, this loader has {given}")
    follow(score, trainer)
    ends = [after.step for _, after in pairwise(score.plans)] + [score.step]
    try:
        for plan, end in zip(score.plans, ends, strict=True):
            trainer.gate.until = end
            trainer.train(loader, max_steps=plan.total_steps)
    finally:
        trainer.gate.until = None
    folder = trainer.run.path if trainer.run is not None else None
    difference = largest_difference(trainer.objective.state_dict(), score.final["objective_state"])
    return Replay(folder, trainer, trainer.step, score.checkpoint, difference)


def follow(score: Score, trainer: JEPATrainer) -> None:
    """Let a trainer begin where a run began, and be steered by that run's journal alone until its end."""
    trainer.lineage.restore(score.initial, score.checkpoint)
    trainer.lineage.follow(_within_reach(score, trainer))
    trainer.gate.until = score.step


def _within_reach(score: Score, trainer: JEPATrainer) -> list[Edit]:
    """The edits as the trainer can make them: weights changed by hand lie in its own folder, or are named in full."""
    if trainer.run is not None:
        if trainer.rank == 0:
            link_edits(score.edits, score.folder, trainer.run.checkpoints.path)
        return score.edits
    return [
        edit._replace(command=EditedByHand(str(score.folder / edit.command.checkpoint)))
        if isinstance(edit.command, EditedByHand)
        else edit
        for edit in score.edits
    ]


def largest_difference(weights: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> float:
    """Largest absolute difference between the weights of two runs, by name; 0 means the same bit for bit."""
    return max(_difference(weight.cpu(), others[name].cpu()) for name, weight in weights.items())


def _difference(one: Tensor, other: Tensor) -> float:
    if torch.equal(one, other):
        return 0.0
    return float((one.double() - other.double()).abs().max())
