"""`resume`: go on with a run from its folder alone, in the way in which it was begun.

What a folder's files say decides what is trained, never which code is run or where is written: models and data come by
registered names, a batch's notebook from the folder's own copy, and folders that link elsewhere are refused.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import NoReturn

import torch

from jepa import distributed
from jepa.batch import resume_notebook, summary
from jepa.cli.runs import notebook_advice
from jepa.config import Experiment, load_experiment
from jepa.config.files import EXPERIMENT
from jepa.experiment import make_trainer
from jepa.trainer.journal import Journal
from jepa.trainer.listing import RunSummary, find_run, read_run
from jepa.trainer.ranks import on_rank_zero


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", help="name or path of the run, see: python -m jepa.cli runs")
    parser.add_argument("--device", help="auto, cpu, cuda, mps; by default as the run was begun")
    parser.add_argument("--runs-dir", default="runs", help="folder of the runs")
    parser.add_argument("--logger", action="append", help="console, jsonl, tensorboard, wandb; may be repeated")


def run(options: argparse.Namespace) -> int:
    """Go on with the run."""
    folder = find_run(options.run, options.runs_dir)
    refuse_links_out(folder)
    if (folder.parent / "batch.json").is_file():
        raise RuntimeError(
            f"{folder.name} is a trainer inside the batch run {folder.parent.name}, which goes on as a whole: "
            f"python -m jepa.cli resume {shlex.quote(str(folder.parent))}"
        )
    if (folder / "batch.json").is_file():
        return resume_batch(folder, options.device)
    if not (folder / EXPERIMENT).is_file():
        if has_to_go_on(read_run(folder)):
            raise RuntimeError(notebook_advice(folder.name))
        return 0
    return resume_experiment(folder, load_experiment(folder), options)


def refuse_links_out(folder: Path) -> None:
    """Raise where a link in a run folder would have something outside of it read as code, or written.

    Raises:
        RuntimeError: There is one; the message names it.
    """
    for path in folder.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(folder):
            raise RuntimeError(
                f"{path} is a symbolic link to {path.resolve()}, outside of the run's folder, which resume does not "
                "touch; move what it links to into the folder, or go on with the command or code that began the run"
            )


def has_to_go_on(state: RunSummary) -> bool:
    """Whether there is something left to train; says so if not.

    Raises:
        RuntimeError: Somebody is training it.
    """
    if state.is_live:
        who = f"process {state.pid} on {state.host or 'this machine'}" if state.pid else "another process"
        raise RuntimeError(
            f"run {state.name!r} is {state.state} in {who} (step {state.step} of {state.total_steps}); "
            "stop that one first, it ends with a checkpoint"
        )
    if state.state == "finished" and distributed.rank() == 0:
        print(
            f"run {state.name!r} is finished, at step {state.step} of {state.total_steps}; there is nothing to resume"
        )
    return state.state != "finished"


def resume_batch(folder: Path, device: str | None) -> int:
    """Go on with a batch run."""
    if device is not None:
        raise ValueError(f"--device is for runs of a configuration; the notebook of {folder.name} chooses its own")
    if not has_to_go_on(read_run(folder)):
        return 0
    result = resume_notebook(folder, say=lambda line: print(line, flush=True))
    print("\n".join(summary(result)))
    return result.exit_code


def resume_experiment(folder: Path, experiment: Experiment, options: argparse.Namespace) -> int:
    """Go on with a run of a configuration, on as many processes as it had."""
    device = options.device or experiment.device
    processes, total = last_start(folder, experiment)
    config = experiment.config
    refuse_foreign_code(config.data.name)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"the run was begun on {device}, which is not here; pass another --device, such as cpu")
    if distributed.under_torchrun():
        distributed.init(world_size=processes, backend="gloo" if device == "cpu" else None)
    if not on_rank_zero(lambda: has_to_go_on(read_run(folder))):
        return 0
    if processes > 1 and not distributed.under_torchrun():
        start_processes(processes, folder, options)
    trainer, loader = make_trainer(
        config,
        run=folder,
        device=device,
        logger=options.logger or ["console"],
        live_plot=False,
        control_panel=False,
    )
    if total is None:
        trainer.train(loader, config.num_epochs, max_steps=config.max_steps)
    else:
        trainer.train(loader, max_steps=total)
    return 0


def last_start(folder: Path, experiment: Experiment) -> tuple[int, int | None]:
    """Processes and total of steps of the run when it was trained last, which may be others than at first.

    Returns:
        The number of processes, and the steps; `None` where it never came to training.
    """
    told = Journal.read(folder / "journal.jsonl")
    sizes = [line["world_size"] for line in told.led_to() if isinstance(line.get("world_size"), int)]
    plans = told.plans()
    return (sizes[-1] if sizes else experiment.world_size), (plans[-1].total_steps if plans else None)


def refuse_foreign_code(data: str) -> None:
    """Raise for environments that gymnasium would import a module for, by a name in a file."""
    kind, _, environment = data.partition(":")
    if kind == "gymnasium" and ":" in environment:
        raise RuntimeError(
            f"the data {data!r} is code that a module outside of the run's folder provides, and resume imports none by "
            "name; go on with: python -m jepa.cli train --config ... --name ..."
        )


def start_processes(number: int, folder: Path, options: argparse.Namespace) -> NoReturn:
    """Become torchrun, which starts this command on so many processes."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(number)]
    command = [sys.executable, *torchrun, "-m", "jepa.cli", "resume", str(folder)]
    command += ["--device", options.device] if options.device else []
    for name in options.logger or ():
        command += ["--logger", name]
    print(f"trained by {number} processes: {shlex.join(command)}", flush=True)
    os.execv(sys.executable, command)
