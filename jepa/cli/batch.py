"""`batch`: a notebook as a batch run, or as the many runs of a sweep."""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from collections.abc import Sequence

from jepa.batch import ENGINES, KERNEL, BatchResult, Plan, plan_sweep, read_parameters, run_notebook, run_plan, summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("notebook", help="a notebook with a cell tagged 'parameters'")
    parser.add_argument("sweep", nargs="?", help="a YAML file that says which runs: grid, list, random or optuna")
    parser.add_argument(
        "-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="may be repeated"
    )
    parser.add_argument("--name", help="of the folder of the run, or of the sweep; the same name again continues it")
    parser.add_argument("--runs-dir", default="runs", help="folder of the runs")
    parser.add_argument("--nproc-per-node", type=int, default=1, help="processes that train together")
    parser.add_argument(
        "--engine", choices=ENGINES, default=KERNEL, help="a kernel a run, or none, which begins sooner"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs of a sweep at a time")
    parser.add_argument("--force", action="store_true", help="run again what has finished")
    parser.add_argument("--dry-run", action="store_true", help="check a sweep, print the command of each run, run none")
    parser.add_argument("--list", action="store_true", help="list the notebook's parameters and do nothing else")


def run(options: argparse.Namespace) -> int:
    """Run the notebook and say where everything is."""
    if options.list:
        for parameter in read_parameters(options.notebook).values():
            print(f"{parameter.name} = {parameter.default!r}" + (f"  # {parameter.help}" if parameter.help else ""))
        return 0
    if options.sweep is not None:
        return _run_sweep(options)
    if options.jobs != 1 or options.dry_run:
        raise ValueError("--jobs and --dry-run are for sweeps: python -m jepa.cli batch NOTEBOOK SWEEP.yaml ...")
    result = run_notebook(
        options.notebook,
        [tuple(pair) for pair in options.parameter],
        name=options.name,
        runs_dir=options.runs_dir,
        nproc_per_node=options.nproc_per_node,
        engine=options.engine,
        force=options.force,
        say=_say,
    )
    print("\n".join(summary(result)))
    return result.exit_code


def _run_sweep(options: argparse.Namespace) -> int:
    plan = plan_sweep(
        options.notebook,
        options.sweep,
        [tuple(pair) for pair in options.parameter],
        name=options.name,
        runs_dir=options.runs_dir,
        nproc_per_node=options.nproc_per_node,
    )
    if options.dry_run:
        print("\n".join(_commands(plan)))
        return 0
    results = run_plan(plan, jobs=options.jobs, engine=options.engine, force=options.force, say=_say)
    print("\n".join(_report(plan, results)))
    codes = {result.exit_code for result in results}
    return 1 if 1 in codes else 143 if len(results) < len(plan.sweep) else max(codes)


def _say(line: str) -> None:
    print(line, flush=True)


def _commands(plan: Plan) -> list[str]:
    """What would be run, a command a line."""
    if plan.sweep.search is not None:
        search = plan.sweep.search
        return [
            f"# {search.runs} runs, each chosen when those before it have ended, to {search.direction} {search.metric}",
            *(f"# {name}: {of}" for name, of in search.space.items()),
        ]
    return [
        ("# finished: " if point.name in plan.finished else "") + shlex.join(plan.command(point))
        for point in plan.sweep.points
    ]


def _report(plan: Plan, results: Sequence[BatchResult]) -> list[str]:
    """What came of a sweep, and what to do next."""
    states = Counter("finished before" if result.status == "skipped" else result.status for result in results)
    states["not begun"] = len(plan.sweep) - len(results)
    lines = [
        f"{len(plan.sweep)} runs in {plan.folder}: " + ", ".join(f"{n} {state}" for state, n in states.items() if n)
    ]
    lines += [f"{result.folder.name}: {result.error}" for result in results if result.status == "failed"]
    if any(result.exit_code for result in results) or states["not begun"]:
        lines.append("the same command goes on with what is not finished")
    return lines
