"""`python -m jepa.cli COMMAND`: one module a command, imported when it is asked for."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "train": "train a model as a configuration file says",
    "evaluate": "evaluate a checkpoint",
    "batch": "run a notebook with parameters, on one or several processes",
    "runs": "list runs, what became of them, and which can be resumed",
    "attach": "watch or steer a run that trains in another process",
    "resume": "go on with a run that was interrupted or stopped",
    "generate-config": "write a commented configuration that trains as it is",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m jepa.cli", description="Train, evaluate and batch JEPA models.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=text, description=text)
        if name in arguments[:1]:
            module = importlib.import_module(f"jepa.cli.{name.replace('-', '_')}")
            module.add_arguments(subparser)
            subparser.set_defaults(execute=module.run)
    options = parser.parse_args(arguments)
    try:
        return options.execute(options)
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(str(error) or "interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
