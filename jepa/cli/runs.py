"""`runs`: the runs in a folder as a table."""

from __future__ import annotations

import argparse
import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jepa.trainer.listing import METRICS, RunSummary, in_words, list_runs

SHOWN = 20
COLUMNS = ("name", "state", "step", "age", *(name.replace("_", " ") for name in METRICS))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("folder", nargs="?", default="runs", help="folder of the runs, or of one run")
    parser.add_argument("--all", action="store_true", help=f"more than the newest {SHOWN}")
    parser.add_argument("--json", action="store_true", help="everything about all of them, for programs")


def run(options: argparse.Namespace) -> int:
    """Print the table, and what can be done next."""
    named = Path("runs") / options.folder
    folder = named if named.is_dir() and not Path(options.folder).exists() else options.folder
    runs = list_runs(folder)
    if options.json:
        print(json.dumps([as_data(one) for one in runs], indent=2, allow_nan=False))
        return 0
    if not runs:
        print(
            f"no runs in {options.folder} (looked from {Path.cwd()}); begin one: "
            "python -m jepa.cli generate-config, then python -m jepa.cli train --config config/train.yaml"
        )
        return 0
    shown = runs if options.all else runs[:SHOWN]
    print("\n".join(table([COLUMNS, *map(row, shown)])))
    print("".join(f"\n{printable(one.name)}: {printable(one.error)}" for one in shown if one.error))
    if len(shown) < len(runs):
        print(f"{len(runs) - len(shown)} older ones are not shown; see them with --all")
    print(advice(runs, options.folder))
    return 0


def as_data(run: RunSummary) -> dict[str, Any]:
    """A summary as JSON holds it: a number that is not finite is null."""
    metrics = {name: value if math.isfinite(value) else None for name, value in run.metrics.items()}
    return {**asdict(run), "path": str(run.path.absolute()), "metrics": metrics}


def row(run: RunSummary) -> tuple[str, ...]:
    """The cells of a run."""
    step = f"{run.step}/{run.total_steps or '?'}" if run.state != "unreadable" else ""
    metrics = (f"{run.metrics[name]:.4g}" if name in run.metrics else "" for name in METRICS)
    return (printable(run.name), run.state, step, in_words(run.age), *metrics)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned lines; what stands for a number is aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:<{w}}" if i < 2 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in rows
    ]


def printable(text: str, length: int = 200) -> str:
    """One line of text that does nothing to a terminal."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return line if len(line) <= length else f"{line[:length]} ..."


def advice(runs: Sequence[RunSummary], folder: str) -> str:
    """Which runs can be resumed, and how."""
    # By name where `resume` looks for names, by path elsewhere.
    names = [printable(run.name if folder == "runs" else str(run.path)) for run in runs if run.resumable]
    if names:
        also = f" (or {', '.join(names[1:4])}{', ...' if len(names) > 4 else ''})" if len(names) > 1 else ""
        return f"resume {len(names)} of them: python -m jepa.cli resume {shlex.quote(names[0])}{also}"
    by_hand = [
        run.name for run in runs if run.origin == "notebook" and run.state in ("interrupted", "stopped", "failed")
    ]
    return notebook_advice(printable(by_hand[0])) if by_hand else "nothing is waiting to be resumed"


def notebook_advice(name: str) -> str:
    """How to go on with a run that was made by code of the user's own."""
    return (
        f"run {name!r} was begun in a notebook or script: create_trainer(..., run={name!r}) with the same model, "
        "objective and options, then trainer.train(loader, num_epochs=...) with the same loader, goes on with it"
    )
