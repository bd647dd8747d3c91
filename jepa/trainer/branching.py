"""Back to a checkpoint of a run, and off into a new run from one."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jepa.files import JSONLines, is_plain_name, write_text
from jepa.trainer.by_hand import edited_file
from jepa.trainer.checkpoint import CheckpointFolder, link, read_plain
from jepa.trainer.control import EditedByHand
from jepa.trainer.journal import Edit, Journal
from jepa.trainer.ranks import on_rank_zero
from jepa.trainer.run import RunFolder

if TYPE_CHECKING:
    from jepa.trainer.trainer import JEPATrainer

COPIED = ("config.yaml", "experiment.yaml")


def go_back(trainer: JEPATrainer, path: Path) -> None:
    """Give a trainer the state of a checkpoint of its run (training thread, or no thread; on every rank).

    Raises:
        CheckpointError: The file is damaged or does not fit; nothing was changed.
    """
    trainer.saver.settle(alone=not trainer.is_live)
    state = trainer.lineage.read_together(path) if trainer.is_live else trainer.lineage.read(path)
    total = trainer.total_steps
    trainer.lineage.restore(state, path)
    if trainer.rank == 0:
        keep_by_step(trainer.folder_for("rewind").checkpoints, path, trainer.step)
    if trainer.is_live:
        trainer.lineage.go_on(total)


def keep_by_step(checkpoints: CheckpointFolder, path: Path, step: int) -> None:
    """What a run goes on from is found again by its step, even if that was the best checkpoint, whose name moves on."""
    target = checkpoints.file(step).with_suffix(Path(path.name.removesuffix(".replaced")).suffix)
    if step > 0 and path != target and not target.exists():
        link(path, target)


def branch_off(trainer: JEPATrainer, name: str, checkpoint: str | None = None) -> Path:
    """Let a trainer go on in a new run folder beside its own (training thread, or no thread; on every rank).

    Args:
        trainer: It has a run folder.
        name: Of the new run.
        checkpoint: Where it branches off; here and now by default.

    Returns:
        The new folder.

    Raises:
        OSError: The folder cannot be written; the trainer goes on in its own.
    """
    parent, lineage = trainer.folder_for("fork"), trainer.lineage
    trainer.saver.settle(alone=not trainer.is_live)
    origin = trainer.save_checkpoint() if checkpoint is None else parent.checkpoints.find(checkpoint)
    folder, copy = on_rank_zero(lambda: _fork(parent.path, name, origin.name))
    try:
        on_rank_zero(lambda: lineage.open(parent, None))
        trainer.journal("Forked", durable=False, name=name, checkpoint=origin.name)
        lineage.move_to(folder, copy)
    except BaseException:
        if trainer.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if checkpoint is not None:
        go_back(trainer, copy)
    elif trainer.is_live:
        lineage.say_branched()
    return folder


def link_edits(edits: Iterable[Edit], source: Path, target: Path) -> None:
    """Keep the weights that were changed by hand in another folder, too, where they are still there.

    Raises:
        ValueError: A journal names a place outside of its folder.
    """
    for edit in edits:
        if isinstance(edit.command, EditedByHand):
            path = edited_file(source, edit.command)
            if path.exists():
                link(path, target / path.name)


def folder_of_fork(parent: RunFolder, name: str) -> Path:
    """Where a fork of a run will be.

    Raises:
        ValueError: The name is no plain name, or taken.
    """
    target = parent.path.parent / name
    if not is_plain_name(name):
        raise ValueError(f"a fork is named by a plain name and lies beside its parent, got {name!r}")
    if os.path.lexists(target):
        raise ValueError(f"there is already a run {name!r} in {target.parent}; choose another name for the fork")
    return target


def fork_run(run: str | os.PathLike[str], name: str, checkpoint: str | int | None = None) -> Path:
    """Make a new run that begins at a checkpoint of another one, which stays as it is.

    The new folder points to its parent, and needs nothing of it: `create_trainer(..., run=name)` goes on from there.

    Args:
        run: Folder of the parent.
        name: Of the new run, beside its parent.
        checkpoint: Its step or file name; the newest valid one by default.

    Returns:
        The new folder; it is whole or not there.

    Raises:
        ValueError: The name is taken, or there is no such checkpoint.
    """
    return _fork(run, name, checkpoint)[0]


def _fork(run: str | os.PathLike[str], name: str, checkpoint: str | int | None) -> tuple[Path, Path]:
    """The new folder, and its first checkpoint."""
    parent = RunFolder(run)
    if not parent.journal_path.exists():
        raise ValueError(f"{parent.path} is not the folder of a run: it has no journal.jsonl")
    target = folder_of_fork(parent, name)
    path, state = _origin(parent, checkpoint)
    building = target.with_name(f".{name}.{secrets.token_hex(4)}.tmp")
    try:
        copy = _build(RunFolder(building), parent, path, state)
        building.rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target, target / copy.relative_to(building)


def _origin(parent: RunFolder, checkpoint: str | int | None) -> tuple[Path, dict[str, Any]]:
    if checkpoint is not None:
        path = parent.checkpoints.find(checkpoint)
        return path, read_plain(path)
    told = Journal.read(parent.journal_path)
    found = parent.checkpoints.newest_valid(parent.leads_on_from(told), set_aside=False)
    if found is None:
        raise ValueError(f"run {parent.name!r} in {parent.path.parent} has no checkpoint to begin from")
    return found


def _build(folder: RunFolder, parent: RunFolder, path: Path, state: Mapping[str, Any]) -> Path:
    """Everything that a new run needs to be continued and replayed without its parent; returns its checkpoint."""
    step = state["position"]["step"]
    copy, initial = folder.checkpoints.file(step).with_suffix(path.suffix), parent.checkpoints.initial
    link(path, copy)
    if initial.exists() and not initial.is_symlink():
        link(initial, folder.checkpoints.path / initial.name)
    for name in COPIED:
        if (parent.path / name).is_file():
            shutil.copyfile(parent.path / name, folder.path / name)
    told, stamp = Journal.read(parent.journal_path), state.get("journal") or {}
    tick = told.tick_of(stamp)
    repeats = told.edits(tick) if tick is not None else []
    link_edits(repeats, parent.checkpoints.path, folder.checkpoints.path)
    line: dict[str, Any] = {
        "tick": 0,
        "segment": 0,
        "time": time.time(),
        "step": step,
        "event": "Branched",
        "parent": parent.name,
        "checkpoint": path.name,
        "continues": None,
        "run": secrets.token_hex(8),
        "origin": {key: stamp.get(key) for key in ("run", "tick")},
        "repeats": [edit.as_data() for edit in repeats],
        "plans": [list(plan) for plan in told.plans(tick)] if tick is not None else [],
    }
    journal = JSONLines(folder.journal_path, durable=True)
    journal.append(line)
    journal.close()
    total = line["plans"][-1][1] if line["plans"] else state["position"]["total_steps"]
    status = {"state": "stopped", "step": step, "total_steps": total, "time": line["time"]}
    write_text(folder.status_path, json.dumps(status), durable=False)
    return copy
