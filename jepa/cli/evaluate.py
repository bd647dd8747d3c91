"""`evaluate`: the objective's loss and the state of the embeddings of a checkpoint, on some data."""

from __future__ import annotations

import argparse
import json

from jepa.config import DataConfig, load_config
from jepa.data import make_loader
from jepa.experiment import make_data
from jepa.trainer import JEPAEvaluator


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--checkpoint", required=True, help="file that a trainer wrote")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--data",
        help="a data set by name (its test part, or a simulation with another seed than in training), a file, or a "
        "folder of images or videos",
    )
    source.add_argument("--config", help="the YAML file that it was trained with, for its data and their options")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default=None, help="cpu, cuda, mps; the best by default")


def run(options: argparse.Namespace) -> int:
    """Evaluate and print the metrics as JSON."""
    evaluator = JEPAEvaluator.from_checkpoint(options.checkpoint, device=options.device)
    # In one and the same order each time, but shuffled: a batch of neighbours varies less than the data does.
    data = DataConfig(name=options.data) if options.config is None else load_config(options.config).data
    loader = make_loader(make_data(data, unseen=True), batch_size=options.batch_size, shuffle=True)
    print(json.dumps(evaluator.evaluate(loader), indent=2))
    return 0
