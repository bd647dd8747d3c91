"""`generate-config`: a commented configuration to start from."""

from __future__ import annotations

import argparse
from pathlib import Path

from jepa.config import generate_config
from jepa.config.presets import PRESETS, SHORT_NAMES
from jepa.files import write_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--kind", default="state_pair", help=f"a preset: {', '.join([*SHORT_NAMES, *PRESETS])}")
    parser.add_argument("--output", default="config/train.yaml", help="file to write")
    parser.add_argument("--force", action="store_true", help="replace a file that exists")


def run(options: argparse.Namespace) -> int:
    """Write the file."""
    if Path(options.output).exists() and not options.force:
        raise FileExistsError(f"{options.output} exists; pass --force to replace it, or another --output")
    write_text(options.output, generate_config(options.kind))
    print(f"wrote {options.output}; train with: python -m jepa.cli train --config {options.output}")
    return 0
