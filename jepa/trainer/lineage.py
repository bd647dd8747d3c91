"""Where a trainer's state comes from: the checkpoint it was restored from, and the run folder that it goes on in."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jepa.data.source import DataSize
from jepa.files import move_aside
from jepa.trainer.checkpoint import read_checkpoint, read_sharded, restore_random_state, step_in
from jepa.trainer.journal import Edit, Journal, read_edits
from jepa.trainer.ranks import on_every_rank, on_rank_zero
from jepa.trainer.run import RunFolder
from jepa.trainer.snapshot import own_shards, restore_snapshot

if TYPE_CHECKING:
    from jepa.trainer.trainer import JEPATrainer

logger = logging.getLogger(__name__)


class Restored(NamedTuple):
    """What a checkpoint says besides the state itself, until training goes on from it.

    Attributes:
        stamp: Which run it is of, and its place in that run's journal.
        randomness: Of the process-wide generators.
    """

    stamp: Mapping[str, Any]
    randomness: Mapping[str, Any]


class Lineage:
    """Restores a trainer, takes up its run folder, and tells the journal from where the run goes on.

    Attributes:
        data_size: Samples and global batch size of the loader trained on last; a checkpoint keeps them.
    """

    def __init__(self, trainer: JEPATrainer) -> None:
        self._trainer = trainer
        self.data_size: DataSize | None = None
        self._restored: Restored | None = None
        self._own_tick: int | None = None  # of the journal, where this trainer trained last
        self._continues: int | None = None  # tick of the journal at which the state was taken that training begins with
        self._repeats: list[Edit] = []  # edits made after it, which are made again

    @property
    def is_fresh(self) -> bool:
        """Whether the trainer neither trained nor took anything up."""
        return self._restored is None and self._own_tick is None

    @property
    def begins(self) -> bool:
        """Whether nothing of the run came before."""
        return self._trainer.run is not None and self._continues is None

    @property
    def stamp(self) -> dict[str, Any] | None:
        """Where the trainer's state was taken, and which edits were still to be made again: a checkpoint keeps it."""
        run = self._trainer.run
        if run is None:
            return None
        if self._restored is not None:
            place = {"run": self._restored.stamp.get("run"), "tick": self._restored.stamp.get("tick")}
        else:
            place = {"run": run.identity, "tick": run.tick if run.is_open else self._own_tick}
        return {**place, "pending": [edit.as_data() for edit in self._trainer.gate.edits]}

    def read(self, path: Path) -> dict[str, Any]:
        """Read a checkpoint for the trainer: of a sharded one, on every rank, that rank's part (training thread).

        Raises:
            FileNotFoundError: There is none.
            CheckpointError: It is damaged.
        """
        if self._trainer.sharded and path.is_dir():
            return read_sharded(path, own_shards(self._trainer))
        return read_checkpoint(path)

    def read_together(self, path: Path) -> dict[str, Any]:
        """`read` on every rank at the same time: if one cannot, none can (training thread)."""
        found: list[dict[str, Any]] = []
        on_every_rank(lambda: found.append(self.read(path)))
        return found[0]

    def restore(self, state: Mapping[str, Any], path: Path) -> None:
        """Give the trainer everything back from a checkpoint that was read from `path`.

        Raises:
            CheckpointError: It is of another objective, model or optimizer; nothing was changed.
        """
        trainer = self._trainer
        restore_snapshot(trainer, state, str(path))
        kept = state["random"]  # by rank
        randomness = kept[trainer.rank] if len(kept) == trainer.world_size else kept[0]
        self._restored = Restored(state.get("journal") or {}, randomness)
        self._repeats = []
        self.data_size = state.get("data")
        trainer.gate.repeat(pending_edits(state))
        trainer.saver.taken_up(path, trainer.step)
        trainer.spoilt = False

    def restore_randomness(self) -> None:
        """Give the process-wide generators the state of the checkpoint taken up last."""
        if self._restored is not None:
            restore_random_state(self._restored.randomness)

    def follow(self, edits: Sequence[Edit]) -> None:
        """Before a replay: these edits are to be made, as if a killed run made them again."""
        self._repeats = list(edits)
        self._trainer.gate.repeat([*self._trainer.gate.edits, *edits])

    # ------------------------------------------------------------------ before training

    def take_up(self, folder: RunFolder, size: DataSize | None) -> None:
        """Open the run folder; a fresh (or spoilt) trainer takes up the newest valid checkpoint that it finds there.

        Args:
            folder: The trainer's.
            size: Of the data to be trained on.
        """
        trainer = self._trainer
        wanted = trainer.spoilt or (self.is_fresh and trainer.step == 0)
        states: list[dict[str, Any]] = []  # rank 0's, which has read it to look for it

        def find() -> tuple[Path | None, int | None, list[Edit], int]:
            self.open(folder, size)
            told = folder.told
            found = folder.checkpoints.newest_valid(folder.leads_on_from(told)) if wanted else None
            if found is None:
                tick = self._own_tick if self._restored is None else folder.tick_of(self._restored.stamp)
                return None, tick, [], folder.segment
            states.append(found[1])
            tick = folder.tick_of(found[1].get("journal"))
            return found[0], tick, _lost_edits(told, tick), folder.segment

        path, self._continues, lost, folder.segment = on_rank_zero(find)
        if path is not None:
            self.restore(states[0] if states and path.is_file() else self.read(path), path)
            trainer.gate.repeat([*trainer.gate.edits, *lost])
            self._repeats = lost
            logger.info("continuing run %s from step %d", folder.name, trainer.step)

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
        """Tell the journal from where training begins or goes on, and set aside what was given up by that."""
        self._say("RunStarted", self._continues, notes=notes)
        self._set_aside_given_up()

    def say_branched(self) -> None:
        """Tell the journal of a new folder that training goes on there, from its first line on."""
        self._trainer.folder_for("fork").segment += 1
        self._say("RunStarted", 1)

    def note_end(self) -> None:
        """Training ends, and the folder is about to be closed."""
        run = self._trainer.run
        if self._restored is None and run is not None and run.is_open:
            self._own_tick = run.tick

    def go_on(self, total_steps: int) -> None:
        """While training: go on from a state that was restored (training thread)."""
        trainer = self._trainer
        folder, restored = trainer.folder_for("rewind"), self._restored
        assert restored is not None
        trainer.rates.plan(total_steps, step=trainer.step, previous_total=trainer.total_steps or None)
        trainer.total_steps = total_steps
        trainer.optimizer.zero_grad(set_to_none=True)
        self.restore_randomness()
        trainer.moved = True
        folder.segment += 1
        self._say("Rewound", folder.tick_of(restored.stamp), durable=False)
        folder.flush()
        self._set_aside_given_up()

    def _say(self, event: str, continues: int | None, *, durable: bool = True, **fields: Any) -> None:
        trainer = self._trainer
        repeats = [edit.as_data() for edit in self._repeats]
        self._restored, self._repeats = None, []
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
        self._own_tick = trainer.run.tick if trainer.run is not None else 0

    def _set_aside_given_up(self) -> None:
        """Later checkpoints, and a best one of later, no longer belong to the run."""
        trainer = self._trainer
        if trainer.run is None or trainer.rank > 0:
            return
        checkpoints = trainer.run.checkpoints
        checkpoints.set_aside_after(trainer.step)
        step = step_in(checkpoints.best)
        if step is not None and step > trainer.step:
            move_aside(checkpoints.best, ".replaced")

    def move_to(self, path: Path, checkpoint: Path) -> None:
        """Go on in another run folder, which holds a checkpoint already (training thread, or no thread; every rank).

        Raises:
            OSError: The folder cannot be written to; the trainer stays where it was.
        """
        trainer = self._trainer
        parent = trainer.folder_for("fork")
        kept = parent.checkpoints
        child = RunFolder(path, keep_checkpoints=kept.keep, keep_every=kept.keep_every)
        if trainer.is_live:
            on_rank_zero(lambda: self.open(child, self.data_size))
            if trainer.rank == 0:
                parent.write_status({**asdict(trainer.status()), "state": "stopped"})
        parent.close()
        trainer.run = child
        self._own_tick = 1
        child.segment = 0  # of the line that its folder begins with
        trainer.saver.taken_up(checkpoint, trainer.step)
        trainer.write_status()


def pending_edits(state: Mapping[str, Any]) -> list[Edit]:
    """The edits that were still to be made again when a checkpoint was taken."""
    return read_edits((state.get("journal") or {}).get("pending", ()))


def _lost_edits(told: Journal, tick: int | None) -> list[Edit]:
    """Edits made after a checkpoint, which a killed run makes again; not those after which the loss was not finite."""
    lost = told.edits()[len(told.edits(tick)) :] if tick is not None else []
    if lost and told.broke_by_numbers:
        named = ", ".join(map(str, lost))
        warnings.warn(f"the loss was not finite after {named}, which is not set again", RuntimeWarning, stacklevel=7)
        return []
    return lost
