"""One rank of a batch run: executes the notebook, in a kernel or itself. `python -m jepa.batch.worker RUN_FOLDER`.

Rank 0 keeps the executed notebook, written atomically after each cell; every rank writes what its cells print to
`logs/rank-<r>.log` and the true cause of a failure to `logs/rank-<r>.error.json`. The worker dies with its parent, the
kernel with the worker. SIGTERM is passed on to the kernel as an interrupt, so training ends with a checkpoint; whatever
else goes wrong on the way there is a failure like any other.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from papermill.exceptions import PapermillExecutionError

from jepa.batch.engine import Execution, execute
from jepa.batch.launch import KERNEL
from jepa.batch.processes import die_with_parent
from jepa.files import write_text

EXIT_STOPPED = 143
# What an interrupt raises: in a cell, in a cell that trains, in a cell that awaits.
INTERRUPTS = ("KeyboardInterrupt", "TrainingInterrupted", "CancelledError")


def main(folder: str) -> int:
    """Execute the notebook of the run folder `folder`; returns the exit code."""
    die_with_parent(signal.SIGKILL)
    run = Path(folder)
    rank = int(os.environ.get("RANK", "0"))
    request = json.loads((run / "batch.json").read_text(encoding="utf-8"))
    error_file = run / "logs" / f"rank-{rank}.error.json"
    with (run / "logs" / f"rank-{rank}.log").open("a", encoding="utf-8", buffering=1) as log:
        execution = Execution(run, rank, log)
        try:
            _execute(request, execution)
        except BaseException as error:
            if execution.signals and _is_interrupt(error):
                return EXIT_STOPPED
            write_text(error_file, json.dumps(describe_error(error, rank, len(execution.cells))))
            return 1
    return 0


def _execute(request: Mapping[str, Any], execution: Execution) -> None:
    if request["engine"] == KERNEL:
        execute(request, execution)
        return
    from jepa.batch import in_process

    in_process.execute(request, execution)


def _is_interrupt(error: BaseException) -> bool:
    """Whether the notebook ended because it was asked to, and by nothing else."""
    if not isinstance(error, PapermillExecutionError):
        return isinstance(error, KeyboardInterrupt)
    return error.ename in INTERRUPTS or (error.ename, error.evalue) == ("SystemExit", str(EXIT_STOPPED))


def describe_error(error: BaseException, rank: int, cell: int) -> dict[str, Any]:
    """What went wrong, in plain values: rank, cell (counted from 1, `None` before the first), error, traceback."""
    if isinstance(error, PapermillExecutionError):
        lines = [str(line) for line in error.traceback]
        return {"rank": rank, "cell": cell, "error": f"{error.ename}: {error.evalue}", "traceback": lines}
    name = type(error).__name__
    text = "the kernel died (killed, or out of memory)" if name == "DeadKernelError" else str(error)
    return {
        "rank": rank,
        "cell": cell or None,
        "error": f"{name}: {text}",
        "traceback": traceback.format_exception(error),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
