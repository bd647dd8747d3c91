"""`jepa.replay`: what was done by hand, done again by a machine."""

from __future__ import annotations

import os
import secrets
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from jepa import distributed
from jepa.config.schema import TrainerConfig
from jepa.trainer import JEPATrainer, Replay, create_trainer
from jepa.trainer.checkpoint import CheckpointFolder, completed
from jepa.trainer.create import REPLAY
from jepa.trainer.eval import objective_of
from jepa.trainer.replay import Score, largest_difference, perform, read_score


def replay(
    run: str | os.PathLike[str],
    model: nn.Module | None = None,
    loader: Any = None,
    *,
    trainer: JEPATrainer | None = None,
    val_loader: Any = None,
    name: str | None = None,
    device: str = "auto",
) -> Replay:
    """Train a run once more: from its start, with its configuration, and each command of its journal at its step.

    Runs that the command line, `make_trainer` or a batch made need nothing but their folder. For one made by hand,
    pass the loader, and the model unless it is made of built-in parts: its weights do not matter, those that the run
    began with are in its folder.

    Args:
        run: Folder of the run.
        model: A model built as the run's was; built from the run's own description by default.
        loader: The data, in the batches that it was trained on; from the run's configuration by default.
        trainer: In place of a model, a trainer built as the run's was, for runs with an optimizer, a scheduler or
            callbacks of their own.
        val_loader: Validation data; without it the replay does not evaluate, which changes no weight.
        name: Of the replay's own folder, beside the run's.
        device: Where to train.

    Returns:
        The trainer, and how its weights compare with those of the run's newest checkpoint.

    Raises:
        FileNotFoundError: There is no such run.
        ValueError: The folder does not hold what a replay needs, or something has to be passed.
        CheckpointError: The model is another one.

    Example:
        What came of it::

            again = jepa.replay("runs/monday", loader=loader)
            assert again.equal
    """
    path = Path(os.path.abspath(run))  # noqa: PTH100 - without '..', and links as they are
    score = read_score(path)
    if trainer is None:
        target = path.parent / (name or f"{path.name}-replay-{secrets.token_hex(2)}")
        if target.exists():
            raise ValueError(f"there is already a run {target.name!r} in {target.parent}; choose another name=")
        if model is None and loader is None and (path / "batch.json").is_file():
            return _notebook_again(path, score, target)
        trainer, loader = _built(path, score, target, model, loader, val_loader, device)
    elif name is not None:
        raise ValueError("name= is for the folder that a replay makes; the trainer you pass has its own")
    if loader is None:
        raise ValueError(f"the data of run {path.name!r} is not written down: pass loader=")
    return perform(score, trainer, loader)


def _notebook_again(path: Path, score: Score, target: Path) -> Replay:
    """Execute the notebook of a batch run once more, with its parameters; its first trainer follows the journal."""
    from jepa.batch import run_again

    result = run_again(path, target, {REPLAY: str(path)})
    found = CheckpointFolder(target / "checkpoints").newest_valid()
    if result.exit_code != 0 or found is None:
        raise RuntimeError(f"the notebook did not run to its end ({result.status}: {result.error}); see {target}")
    state = completed(*found)
    difference = largest_difference(state["objective_state"], score.final["objective_state"])
    return Replay(target, None, state["position"]["step"], score.checkpoint, difference)


def _built(
    path: Path, score: Score, target: Path, model: nn.Module | None, loader: Any, val_loader: Any, device: str
) -> tuple[JEPATrainer, Any]:
    """A trainer like the run's, and the data."""
    options: dict[str, Any] = {
        "run": target,
        "device": device,
        "live_plot": False,
        "control_panel": False,
        "logger": None,
    }
    if model is None and loader is None and (path / "experiment.yaml").is_file():
        return _from_configuration(path, options)
    optimizer = score.final["optimizer_name"]
    if optimizer != "AdamW" or "group_rates" in score.final["rates"]:
        raise ValueError(
            f"run {path.name!r} has an optimizer or a scheduler of its own ({optimizer}): pass trainer=, built as the "
            "run's was"
        )
    try:
        objective = objective_of(score.final, score.checkpoint, model)
    except ValueError as error:
        if model is not None:
            raise
        raise ValueError(
            f"the model of run {path.name!r} holds modules of your own: pass model=, built as it was; its weights do "
            "not matter"
        ) from error
    return create_trainer(objective, config=_config(score, val_loader), val_loader=val_loader, **options), loader


def _from_configuration(path: Path, options: dict[str, Any]) -> tuple[JEPATrainer, Any]:
    """With as many samples a step as all processes of the run had together."""
    from jepa.config.files import load_experiment
    from jepa.experiment import make_trainer

    experiment = load_experiment(path)
    data = experiment.config.data
    size = data.batch_size * experiment.world_size // distributed.world_size()
    return make_trainer(replace(experiment.config, data=replace(data, batch_size=size)), **options)


def _config(score: Score, val_loader: Any) -> TrainerConfig:
    kept = {field.name for field in fields(TrainerConfig)}
    config = {name: value for name, value in score.final["config"].items() if name in kept}
    config["betas"] = tuple(config["betas"])
    if val_loader is None:  # what decides by it when to stop has decided: the replay ends where the run did
        config.update(monitor=None, early_stopping=None)
    return TrainerConfig(**config)
