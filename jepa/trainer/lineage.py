"""Where a trainer's state comes from: the checkpoint it was restored from, and the run folder that it goes on in."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jepa.data.source import DataSize
from jepa.files import move_aside
from jepa.trainer.checkpoint import CheckpointFolder, read_checkpoint, read_plain, read_sharded, restore_random_state
from jepa.trainer.journal import Edit, Journal
from jepa.trainer.ranks import on_rank_zero
from jepa.trainer.run import RunFolder
from jepa.trainer.snapshot import own_shards, restore_snapshot

if TYPE_CHECKING:
    from jepa.trainer.trainer import JEPATrainer

logger = logging.getLogger(__name__)


class Lineage:
    """Restores a trainer, takes up its run folder, and tells the journal from where the run goes on.

    Attributes:
        data_size: Samples and global batch size of the loader trained on last; a checkpoint keeps them.
        begins: Whether what is trained next is the beginning of its run, of which nothing has been kept.
    """

    def __init__(self, trainer: JEPATrainer) -> None:
        self._trainer = trainer
        self.data_size: DataSize | None = None
        self._stamp: Mapping[str, Any] | None = None  # of the checkpoint that the state was taken from
        self._went_on = False  # since then
        self._continues: int | None = None  # tick of the journal at which that state was taken
        self._repeats: list[Edit] = []  # edits made after it, which are made again
        self._randomness: Mapping[str, Any] | None = None  # of that checkpoint, until training goes on

    @property
    def begins(self) -> bool:
        """Whether nothing of the run came before."""
        return self._trainer.run is not None and self._continues is None

    def read(self, path: Path) -> dict[str, Any]:
        """Read a checkpoint for the trainer: of a sharded one, on every rank, that rank's part (training thread).

        Raises:
            FileNotFoundError: There is none.
            CheckpointError: It is damaged.
        """
        if self._trainer.sharded and path.is_dir():
            return read_sharded(path, own_shards(self._trainer))
        return read_checkpoint(path)

    def restore(self, state: Mapping[str, Any], path: Path) -> None:
        """Give the trainer everything back from a checkpoint that was read from `path`.

        Raises:
            CheckpointError: It is of another objective, model or optimizer; nothing was changed.
        """
        trainer = self._trainer
        restore_snapshot(trainer, state, str(path))
        kept = state["random"]  # by rank
        self._randomness = kept[trainer.rank] if len(kept) == trainer.world_size else kept[0]
        self.data_size = state.get("data")
        self._stamp, self._went_on, self._repeats = state.get("journal"), False, []
        trainer.saver.taken_up(path, trainer.step)

    def restore_randomness(self) -> None:
        """Give the process-wide generators the state of the checkpoint taken up last, once."""
        if self._randomness is not None:
            restore_random_state(self._randomness)
            self._randomness = None

    # ------------------------------------------------------------------ before training

    def take_up(self, folder: RunFolder, size: DataSize | None, *, spoilt: bool) -> bool:
        """Open the run folder; a fresh (or spoilt) trainer takes up the newest valid checkpoint that it finds there.

        Args:
            folder: The trainer's.
            size: Of the data to be trained on.
            spoilt: Whether the trainer's own state is of no use.

        Returns:
            Whether it took up a checkpoint.
        """
        trainer = self._trainer
        fresh = spoilt or (trainer.step == 0 and not self._went_on)

        def find() -> tuple[Path | None, int | None, list[Edit], int]:
            self.open(folder, size)
            told = Journal.read(folder.journal_path)
            found = folder.checkpoints.newest_valid(folder.leads_on_from(told)) if fresh else None
            if found is None:
                return None, folder.tick if self._went_on else folder.tick_of(self._stamp), [], folder.segment
            tick = folder.tick_of(found[1].get("journal"))
            return found[0], tick, _lost_edits(told, tick), folder.segment

        path, self._continues, edits, folder.segment = on_rank_zero(find)
        if path is not None:
            self.restore(self.read(path), path)
            trainer.gate.repeat(edits)
            logger.info("continuing run %s from step %d", folder.name, trainer.step)
        self._repeats = edits
        return path is not None

    def open(self, folder: RunFolder, size: DataSize | None) -> None:
        """Open a run folder for the trainer, if it is not open (rank 0)."""
        if not folder.is_open:
            folder.open(self._trainer.describe(size or self.data_size))

    def check_same_data(self, size: DataSize | None) -> None:
        """Compare the data to be trained on with the data trained on before.

        Raises:
            ValueError: They differ, and the run is in the middle of an epoch.
        """
        trainer = self._trainer
        before, self.data_size = self.data_size, size or self.data_size
        if before is None or size is None or before == size:
            return
        words = "{samples:,} samples in batches of {global_batch_size} over all processes"
        was, now = words.format(**before), words.format(**size)
        if trainer.batches_done:
            self.data_size = before
            raise ValueError(
                f"the run is in the middle of epoch {trainer.epoch} of {was}, this loader has {now}: pass the same "
                f"data in batches of {before['global_batch_size'] // trainer.world_size} on {trainer.world_size} "
                "process(es), or begin a new run"
            )
        warnings.warn(f"the run goes on with other data: it had {was}, now {now}", stacklevel=5)

    # ------------------------------------------------------------------ while training

    def say_started(self, notes: list[str]) -> None:
        """Tell the journal from where training begins or goes on."""
        self._say("RunStarted", self._continues, notes=notes)

    def say_branched(self) -> None:
        """Tell the journal of a new folder that training goes on there, from its first line on."""
        self._trainer.folder_for("fork").segment += 1
        self._say("RunStarted", 1)

    def go_on(self, state: Mapping[str, Any], total_steps: int) -> None:
        """While training: go on from a state that was restored (training thread)."""
        trainer = self._trainer
        folder = trainer.folder_for("rewind")
        trainer.rates.plan(total_steps, step=trainer.step, previous_total=trainer.total_steps or None)
        trainer.total_steps = total_steps
        trainer.optimizer.zero_grad(set_to_none=True)
        self.restore_randomness()
        trainer.gate.repeat(())
        trainer.moved = True
        folder.segment += 1
        self._say("Rewound", folder.tick_of(state.get("journal")), durable=False)
        if trainer.rank == 0:
            folder.flush()
            set_aside_given_up(folder.checkpoints, trainer.step)

    def _say(self, event: str, continues: int | None, *, durable: bool = True, **fields: Any) -> None:
        trainer = self._trainer
        repeats = [edit.as_data() for edit in self._repeats]
        self._went_on, self._repeats = True, []
        trainer.journal(
            event,
            durable=durable,
            continues=continues,
            run=trainer.run.identity if trainer.run else None,
            repeats=repeats,
            total_steps=trainer.total_steps,
            world_size=trainer.world_size,
            **fields,
        )

    def move_to(self, path: Path, checkpoint: Path) -> None:
        """Go on in another run folder, which holds a checkpoint already (training thread, or no thread)."""
        trainer = self._trainer
        parent = trainer.folder_for("fork")
        writes = trainer.is_live and trainer.rank == 0
        if writes:
            parent.write_status({**asdict(trainer.status()), "state": "stopped"})
        parent.close()
        kept = parent.checkpoints
        trainer.run = RunFolder(path, keep_checkpoints=kept.keep, keep_every=kept.keep_every)
        trainer.saver.taken_up(checkpoint, trainer.step)
        if writes:
            self.open(trainer.run, self.data_size)
            trainer.run.segment = 0  # of the line that it begins with; going on from there begins the next one
            trainer.write_status()


def _lost_edits(told: Journal, tick: int | None) -> list[Edit]:
    """Edits made after a checkpoint, which a killed run makes again; not those after which the loss was not finite."""
    lost = told.edits()[len(told.edits(tick)) :] if tick is not None else []
    if lost and told.broke_by_numbers:
        named = ", ".join(f"{edit.command.name}={edit.command.value:g} at step {edit.step}" for edit in lost)
        warnings.warn(f"the loss was not finite after {named}, which is not set again", RuntimeWarning, stacklevel=7)
        return []
    return lost


def set_aside_given_up(checkpoints: CheckpointFolder, step: int) -> None:
    """After going back to `step`: later checkpoints, and a best one of later, no longer belong to the run."""
    checkpoints.set_aside_after(step)
    best = checkpoints.best
    if best.exists() and (read_plain if best.is_dir() else read_checkpoint)(best)["position"]["step"] > step:
        move_aside(best, ".replaced")
