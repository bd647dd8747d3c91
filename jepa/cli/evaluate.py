"""`evaluate`: the objective's loss and the state of the embeddings of a checkpoint, on some data."""

from __future__ import annotations

import argparse
import json

from jepa.cli.data import make_data
from jepa.config import DataConfig
from jepa.data import digits, make_loader
from jepa.trainer import JEPAEvaluator


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--checkpoint", required=True, help="file that a trainer wrote")
    parser.add_argument(
        "--data", required=True, help="digits (its test part), pendulum, a .npy file or a folder of images"
    )
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default=None, help="cpu, cuda, mps; the best by default")


def run(options: argparse.Namespace) -> int:
    """Evaluate and print the metrics as JSON."""
    evaluator = JEPAEvaluator.from_checkpoint(options.checkpoint, device=options.device)
    data = digits("test") if options.data == "digits" else make_data(DataConfig(name=options.data))
    print(json.dumps(evaluator.evaluate(make_loader(data, batch_size=options.batch_size, shuffle=False)), indent=2))
    return 0
