"""The composition root: a trainer with good defaults, its run folder, and what shows it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from jepa import distributed
from jepa.config.schema import TrainerConfig
from jepa.loggers import get_sinks
from jepa.models.jepa import JEPA
from jepa.objectives import Objective, as_objective
from jepa.trainer.callback import Callback
from jepa.trainer.frontend import where
from jepa.trainer.ranks import on_rank_zero
from jepa.trainer.remote import RemoteRun
from jepa.trainer.replay import follow, read_score
from jepa.trainer.run import RunFolder, fresh_name
from jepa.trainer.trainer import JEPATrainer, View
from jepa.trainer.utils import default_device

REPLAY = "JEPA_REPLAY"
"""Names the run folder that the first unnamed trainer of a batch does again."""

_unnamed_in_batch = 0


def create_trainer(
    model: JEPA | Objective | nn.Module,
    objective: str = "state_pair",
    *,
    objective_options: Mapping[str, Any] | None = None,
    run: str | os.PathLike[str] | Literal[False] | None = None,
    runs_dir: str | os.PathLike[str] = "runs",
    device: torch.device | str = "auto",
    val_loader: Any = None,
    callbacks: Sequence[Callback] = (),
    logger: Any = None,
    live_plot: bool | Literal["auto"] = "auto",
    control_panel: bool | Literal["auto"] = "auto",
    distributed: bool | Literal["auto"] = "auto",
    world_size: int | None = None,
    local_rank: int | None = None,
    config: TrainerConfig | None = None,
    **options: Any,
) -> JEPATrainer:
    """A trainer with AdamW, a warm-up and cosine over the true number of steps, an EMA target, and a run folder.

    Args:
        model: A `JEPA`, an `Objective` that owns one, or an encoder, which gets the usual parts of the objective.
        objective: Name of the objective when `model` is not one: `"state_pair"`, `"ijepa"`, `"vjepa"`, `"lejepa"`,
            `"vicreg"` or `"action_conditioned"`.
        objective_options: Its arguments, such as `{"variance_weight": 1.0}`.
        run: Name of the run, or a path. A named run that exists is continued if its parameters agree; an unnamed one
            is new. `False` writes no run folder.
        runs_dir: Where run folders are.
        device: `"auto"` takes the best there is.
        val_loader: Validation data, looked at every `eval_every` epochs.
        callbacks: Objects that act on the run.
        logger: Where metrics go besides the run folder: `"console"`, `"jsonl"`, `"tensorboard"`, `"wandb"`, any
            callable that takes events, or a list of these.
        live_plot: Live curves; `"auto"` shows them in a notebook with a front end. Without one the run ends with a
            static figure.
        control_panel: A panel to pause, step, edit and checkpoint; `"auto"` as for `live_plot`.
        distributed: Train on all processes that torchrun started; `"auto"` does so under torchrun.
        world_size: Number of processes expected.
        local_rank: This process's number on its machine; torchrun's by default.
        config: All options at once, in place of those of the objective's paper; options given by name change it.
        **options: Fields of `TrainerConfig` by name, such as `learning_rate=5e-4`.

    Returns:
        The trainer. No file is written before training starts.

    Raises:
        ValueError: An option is unknown or out of range; the message names the nearest known one.
        RuntimeError: `distributed=True` in a process that torchrun did not start.
    """
    target = as_objective(model, objective, objective_options)
    for name in set(options) & set(target.config()):
        raise ValueError(
            f"{name} is an option of the objective: pass objective_options={{{name!r}: {options[name]!r}}}"
        )
    config = (config or TrainerConfig(**target.paper)).updated(options)
    chosen = _join_ranks(distributed, world_size, local_rank, device)
    target = target.to(chosen)
    optimizer = make_optimizer(target, config)
    folder = _run_folder(run, runs_dir, config)
    place = where()
    trainer = JEPATrainer(
        target,
        optimizer,
        scheduler="warmup_cosine",
        logger=get_sinks(logger, folder.path if folder else None, progress=config.progress) if _is_first() else None,
        config=config,
        callbacks=callbacks,
        run=folder,
        device=chosen,
        val_loader=val_loader,
    )
    if run is None and _unnamed_in_batch == 1 and (replayed := os.environ.get(REPLAY)):
        follow(read_score(replayed), trainer)
    if _is_first():
        _attach_views(trainer, live_plot, control_panel, place)
    return trainer


def make_optimizer(objective: nn.Module, config: TrainerConfig) -> torch.optim.AdamW:
    """AdamW over what receives gradients: fused where it exists; biases, norms and other 1-D tensors do not decay."""
    for part in distributed.sharded_parts(objective):
        part.reshard()  # what a forward pass has gathered are not the parameters
    parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("the model has no trainable parameter: every requires_grad is False")
    decayed = [parameter for parameter in parameters if parameter.ndim > 1]
    plain = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    fused = all(p.device.type in ("cpu", "cuda", "mps") and p.is_floating_point() for p in parameters)
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=fused)


def _is_first() -> bool:
    return distributed.rank() == 0


def _join_ranks(
    wish: bool | Literal["auto"], world_size: int | None, local_rank: int | None, device: torch.device | str
) -> torch.device:
    if wish is True or (wish == "auto" and distributed.under_torchrun()):
        number = distributed.local_rank() if local_rank is None else local_rank
        if torch.cuda.is_available() and str(device) in ("auto", "cuda"):
            torch.cuda.set_device(number)
        distributed.init(world_size=world_size, backend="gloo" if str(device) == "cpu" else None)
    elif world_size not in (None, 1):
        raise ValueError(f"world_size={world_size} needs distributed=True and processes that torchrun started")
    return default_device() if str(device) == "auto" else torch.device(device)


def _run_folder(run: Any, runs_dir: str | os.PathLike[str], config: TrainerConfig) -> RunFolder | None:
    """The named folder, the one a batch has set, or a fresh one; the same on every rank."""
    if run is False:
        return None
    if run is None:
        path = _batch_folder() or on_rank_zero(lambda: Path(runs_dir) / fresh_name())
    else:
        path = Path(run) if len(Path(run).parts) > 1 else Path(runs_dir) / run
        if ".." in path.parts:
            raise ValueError(f"run must be a name or a path without '..', got {os.fspath(run)!r}")
    return RunFolder(path, keep_checkpoints=config.keep_checkpoints, keep_every=config.keep_checkpoint_every)


def _batch_folder() -> Path | None:
    """The folder that `JEPA_RUN` names: for the first unnamed trainer, numbered folders inside it for further ones."""
    global _unnamed_in_batch
    folder = os.environ.get("JEPA_RUN")
    if not folder:
        return None
    _unnamed_in_batch += 1
    return Path(folder) if _unnamed_in_batch == 1 else Path(folder) / f"trainer-{_unnamed_in_batch}"


def _attach_views(trainer: JEPATrainer, live_plot: Any, control_panel: Any, place: str) -> None:
    """Widgets where a front end is there or was asked for; a static figure at the end of a headless notebook."""
    shown = place == "frontend"
    plot = shown if live_plot == "auto" else bool(live_plot)
    panel = shown if control_panel == "auto" else bool(control_panel)
    silent = live_plot is False and control_panel is False
    if not (plot or panel) and (place != "headless" or silent):
        return
    try:
        import jepa_widgets
    except ImportError as error:
        if live_plot is True or control_panel is True:
            raise ImportError("live_plot and control_panel need: pip install 'jepa-lab[notebook]'") from error
        return
    if plot or panel:
        trainer.view = jepa_widgets.attach(trainer, live_plot=plot, control_panel=panel)
    else:
        trainer.subscribe(jepa_widgets.StaticFigure(trainer))


def view_of(run: RemoteRun) -> View:
    """Panel and chart for a run that trains elsewhere.

    Raises:
        RuntimeError: This process is no notebook.
        ImportError: The widgets are not installed.
    """
    if where() == "script":
        raise RuntimeError(
            "panel and chart are shown in a notebook: run.show() in a cell of JupyterLab; from a terminal, "
            f"python -m jepa.cli attach {run.path} follows and steers the run"
        )
    try:
        import jepa_widgets
    except ImportError as error:
        raise ImportError("run.show() needs: pip install 'jepa-lab[notebook]'") from error
    return jepa_widgets.attach(run)


def _with_options(function: Callable[..., JEPATrainer]) -> None:
    """Let editors complete the options: they are fields of one dataclass, shown in the signature."""
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    more = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in fields(TrainerConfig)
    ]
    function.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]


_with_options(create_trainer)
