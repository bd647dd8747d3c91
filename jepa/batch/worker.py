"""One rank of a batch run: executes the notebook in a kernel of its own. `python -m jepa.batch.worker RUN_FOLDER`.

Rank 0 keeps the executed notebook, written atomically after each cell; every rank writes what its cells print to
`logs/rank-<r>.log` and the true cause of a failure to `logs/rank-<r>.error.json`. The worker dies with its parent, the
kernel with the worker. SIGTERM is passed on to the kernel as an interrupt, so training ends with a checkpoint; whatever
else goes wrong on the way there is a failure like any other.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from jepa.batch.parameters import check_parameters, read_parameters
from jepa.batch.processes import die_with_parent
from jepa.files import write_text

ATOMIC = "atomic://"
EXIT_STOPPED = 143
# What an interrupt raises: in a cell, in a cell that trains, in a cell that awaits.
INTERRUPTS = ("KeyboardInterrupt", "TrainingInterrupted", "CancelledError")
# A kernel that has been asked to end may first have to stop a run and write its checkpoint.
KERNEL_SHUTDOWN_SECONDS = 65.0


def main(folder: str) -> int:
    """Execute the notebook of the run folder `folder`; returns the exit code."""
    die_with_parent(signal.SIGKILL)
    run = Path(folder)
    rank = int(os.environ.get("RANK", "0"))
    request = json.loads((run / "batch.json").read_text(encoding="utf-8"))
    error_file = run / "logs" / f"rank-{rank}.error.json"
    stopped: list[int] = []
    begun: list[int] = []
    try:
        with (run / "logs" / f"rank-{rank}.log").open("a", encoding="utf-8", buffering=1) as log:
            _execute(request, run, rank, log, stopped, begun)
    except BaseException as error:
        if stopped and _is_interrupt(error):
            return EXIT_STOPPED
        write_text(error_file, json.dumps(describe_error(error, rank, len(begun))))
        return 1
    return 0


def _is_interrupt(error: BaseException) -> bool:
    """Whether the notebook ended because it was asked to, and by nothing else."""
    from papermill.exceptions import PapermillExecutionError

    if not isinstance(error, PapermillExecutionError):
        return isinstance(error, KeyboardInterrupt)
    return error.ename in INTERRUPTS or (error.ename, error.evalue) == ("SystemExit", str(EXIT_STOPPED))


def describe_error(error: BaseException, rank: int, cell: int) -> dict[str, Any]:
    """What went wrong, in plain values: rank, cell (counted from 1, `None` before the first), error, traceback."""
    from papermill.exceptions import PapermillExecutionError

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


def _execute(request: dict[str, Any], run: Path, rank: int, log: Any, stopped: list[int], begun: list[int]) -> None:
    """Execute the notebook; signals go into `stopped`, the numbers of the cells into `begun`."""
    import papermill
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine, papermill_engines
    from papermill.iorw import papermill_io
    from papermill.translators import PythonTranslator, papermill_translators

    class Client(PapermillNotebookClient):
        """A notebook client that passes a termination on to its kernel as an interrupt."""

        def papermill_execute_cells(self) -> None:
            def interrupt(number: int, frame: Any) -> None:
                stopped.append(number)
                if len(stopped) > 1:
                    return  # a second interrupt would break off the checkpoint that the first one asked for
                pid = getattr(getattr(self.km, "provisioner", None), "pid", None)
                if pid is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGINT)

            signal.signal(signal.SIGTERM, interrupt)
            signal.signal(signal.SIGINT, interrupt)
            assert self.km is not None
            self.km.shutdown_wait_time = 2 * KERNEL_SHUTDOWN_SECONDS  # after half of it the kernel gets a SIGTERM
            super().papermill_execute_cells()

        def execute_cell(self, cell: Any, index: int, *args: Any, **kwargs: Any) -> Any:
            begun.append(index)
            if rank == 0:
                progress = {"cell": index + 1, "cells": len(self.nb.cells)}
                write_text(run / "logs" / "progress.json", json.dumps(progress), durable=False)
            try:
                if stopped:
                    raise KeyboardInterrupt  # it came between two cells, where the kernel has nothing to interrupt
                return super().execute_cell(cell, index, *args, **kwargs)
            except BaseException:
                # Where the kernel has died, papermill would mark this cell and all that follow as completed.
                self.nb_man.cell_exception(self.nb.cells[index], index)
                raise

    class Engine(NBClientEngine):
        """Papermill's own engine with that client."""

        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, *args: Any, **kwargs: Any) -> Any:
            names = ("store_widget_state", "record_timing")
            options = {name: kwargs[name] for name in names if name in kwargs}
            client = Client(
                nb_man,
                log_output=True,
                stdout_file=log,
                stderr_file=log,
                kernel_name=kernel_name,
                timeout=None,
                **options,
            )
            return client.execute()

    class Translator(PythonTranslator):
        """Papermill's own, which turns a tuple into text."""

        @classmethod
        def translate(cls, val: Any) -> str:
            if isinstance(val, tuple):
                return f"({''.join(f'{cls.translate(part)}, ' for part in val)})"
            return super().translate(val)

    papermill_translators.register("python", Translator)
    papermill_engines.register("jepa", Engine)
    papermill_io.register(ATOMIC, AtomicWriter())
    papermill.execute_notebook(
        request["notebook"],
        f"{ATOMIC}{run / 'notebook.ipynb'}" if rank == 0 else None,
        parameters=check_parameters(request["parameters"], read_parameters(request["notebook"])),
        engine_name="jepa",
        kernel_name=_kernel_name(request["notebook"]),
        progress_bar=False,
        store_widget_state=False,
    )


def _kernel_name(notebook: str) -> str:
    """The kernel that the notebook names, or Python where it names none."""
    import nbformat

    return nbformat.read(notebook, as_version=4).metadata.get("kernelspec", {}).get("name", "python3")


class AtomicWriter:
    """Lets papermill write a notebook so that a reader never sees a part of it."""

    def write(self, content: str, path: str) -> None:
        """Replace the file."""
        write_text(path.removeprefix(ATOMIC), content, durable=False)

    def pretty_path(self, path: str) -> str:
        """The path without our prefix."""
        return path.removeprefix(ATOMIC)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
