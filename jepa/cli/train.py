"""`train`: the run that a configuration file describes, on one process or on those that torchrun started."""

from __future__ import annotations

import argparse
from typing import Any

from jepa import distributed
from jepa.config import load_config
from jepa.experiment import make_trainer
from jepa.objectives import get_objective


def flag(text: str) -> bool:
    """True or false, as in YAML."""
    if text.lower() in ("true", "yes", "1"):
        return True
    if text.lower() in ("false", "no", "0"):
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--config", required=True, help="YAML file; generate-config writes one")
    parser.add_argument("--distributed", type=flag, default=None, metavar="true|false", help="default: under torchrun")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--name", help="name or path of the run; wins over the file")
    parser.add_argument("--runs-dir", default="runs", help="folder of the runs")
    parser.add_argument("--logger", action="append", help="console, jsonl, tensorboard, wandb; may be repeated")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="e.g. trainer.learning_rate=1e-3")


def run(options: argparse.Namespace) -> int:
    """Train."""
    config = load_config(options.config, options.overrides, trainer_defaults=lambda name: get_objective(name).paper)
    wish: Any = "auto" if options.distributed is None else options.distributed
    if wish is True:
        if not distributed.under_torchrun():
            raise RuntimeError(
                "--distributed true needs processes that torchrun started; type: "
                f"torchrun --nproc-per-node 2 -m jepa.cli train --config {options.config} --distributed true"
            )
        distributed.init(backend="gloo" if options.device == "cpu" else None)
    trainer, train_loader = make_trainer(
        config,
        run=options.name or config.run,
        runs_dir=options.runs_dir,
        device=options.device,
        logger=options.logger or ["console"],
        live_plot=False,
        control_panel=False,
        distributed=wish,
    )
    trainer.train(train_loader, config.num_epochs, max_steps=config.max_steps)
    return 0
