"""`batch`: a notebook as a batch run."""

from __future__ import annotations

import argparse

from jepa.batch import read_parameters, run_notebook, summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("notebook", help="a notebook with a cell tagged 'parameters'")
    parser.add_argument(
        "-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="may be repeated"
    )
    parser.add_argument("--name", help="of the run folder; the same name again continues it")
    parser.add_argument("--runs-dir", default="runs", help="folder of the runs")
    parser.add_argument("--nproc-per-node", type=int, default=1, help="processes that train together")
    parser.add_argument("--force", action="store_true", help="run again what has finished")
    parser.add_argument("--list", action="store_true", help="list the notebook's parameters and do nothing else")


def run(options: argparse.Namespace) -> int:
    """Run the notebook and say where everything is."""
    if options.list:
        for parameter in read_parameters(options.notebook).values():
            print(f"{parameter.name} = {parameter.default!r}" + (f"  # {parameter.help}" if parameter.help else ""))
        return 0
    result = run_notebook(
        options.notebook,
        [tuple(pair) for pair in options.parameter],
        name=options.name,
        runs_dir=options.runs_dir,
        nproc_per_node=options.nproc_per_node,
        force=options.force,
        say=lambda line: print(line, flush=True),
    )
    print("\n".join(summary(result)))
    return result.exit_code
