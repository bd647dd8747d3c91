"""`evaluate`: the objective's loss and the state of the embeddings of a checkpoint, on some data."""

from __future__ import annotations

import argparse
import json
from typing import Any

from jepa.config import DataConfig
from jepa.data import make_loader
from jepa.experiment import make_data
from jepa.trainer import JEPAEvaluator


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--checkpoint", required=True, help="file that a trainer wrote")
    parser.add_argument(
        "--data",
        required=True,
        help="a data set by name (its test part, or a simulation with another seed than in training), a file, or a "
        "folder of images or videos",
    )
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default=None, help="cpu, cuda, mps; the best by default")


def run(options: argparse.Namespace) -> int:
    """Evaluate and print the metrics as JSON."""
    evaluator = JEPAEvaluator.from_checkpoint(options.checkpoint, device=options.device)
    # In one and the same order each time, but shuffled: a batch of neighbours varies less than the data does.
    loader = make_loader(unseen_data(options.data), batch_size=options.batch_size, shuffle=True)
    print(json.dumps(evaluator.evaluate(loader), indent=2))
    return 0


def unseen_data(name: str) -> Any:
    """What training did not see of the named data, or all of the user's own."""
    return make_data(DataConfig(name=name), unseen=True)
