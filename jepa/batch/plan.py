"""A sweep of a notebook, checked to its end: what would be run, where, and by which commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jepa.batch.launch import was_finished
from jepa.batch.parameters import Parameter, as_text, read_parameters
from jepa.batch.sweep import Point, Sweep, read_sweep


@dataclass(frozen=True, slots=True)
class Plan:
    """What a sweep comes to.

    Attributes:
        notebook: What each run executes.
        schema: Its parameters.
        sweep: The runs.
        folder: That will hold their folders.
        nproc_per_node: Processes a run.
        finished: Names of the runs that have finished before.
    """

    notebook: Path
    schema: Mapping[str, Parameter]
    sweep: Sweep
    folder: Path
    nproc_per_node: int
    finished: frozenset[str]

    def command(self, point: Point) -> list[str]:
        """The command that executes one run, alone and anywhere that has the files."""
        command = [sys.executable, "-m", "jepa.cli", "batch", str(self.notebook)]
        for name, value in point.parameters.items():
            command += ["-p", name, as_text(value, self.schema[name].default)]
        command += ["--name", point.name, "--runs-dir", str(self.folder)]
        return command + (["--nproc-per-node", str(self.nproc_per_node)] if self.nproc_per_node > 1 else [])


def plan_sweep(
    notebook: str | os.PathLike[str],
    sweep: str | os.PathLike[str],
    parameters: Mapping[str, Any] | Sequence[tuple[str, str]] = (),
    *,
    name: str | None = None,
    runs_dir: str | os.PathLike[str] = "runs",
    nproc_per_node: int = 1,
) -> Plan:
    """Check a sweep, its every value, and the folders that its runs would have. Writes nothing.

    Args:
        notebook: A file with a cell tagged `parameters`.
        sweep: A YAML file, see `read_sweep`.
        parameters: Values for all runs, in place of those that the sweep fixes.
        name: Of the sweep's folder; what the sweep says, or is called, by default.
        runs_dir: Where that folder is.
        nproc_per_node: Processes a run.

    Raises:
        FileNotFoundError: There is no such notebook or sweep.
        ValueError: The sweep or one of its values is wrong, or a run's folder belongs to one with other parameters.
    """
    schema = read_parameters(notebook)
    described = read_sweep(sweep, schema, parameters)
    described = replace(described, name=name) if name else described
    path, folder = Path(notebook).absolute(), Path(runs_dir, described.name).absolute()
    finished = set()
    for point in described.points:  # a conflict must show before the first run begins, not in the middle of the night
        request = {"notebook": str(path), "parameters": point.parameters, "nproc_per_node": nproc_per_node}
        if was_finished(folder / point.name, request):
            finished.add(point.name)
    return Plan(path, schema, described, folder, nproc_per_node, frozenset(finished))
