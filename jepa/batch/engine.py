"""How papermill executes the notebook of a batch run. Papermill is imported with this module, so import it on use."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import nbformat
import papermill
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.iorw import papermill_io
from papermill.translators import PythonTranslator, papermill_translators

from jepa.batch.launch import SOURCE
from jepa.batch.parameters import check_parameters, read_parameters
from jepa.files import write_text

ATOMIC = "atomic://"
# A kernel that has been asked to end may first have to stop a run and write its checkpoint.
KERNEL_SHUTDOWN_SECONDS = 65.0


@dataclass(frozen=True, slots=True)
class Execution:
    """One rank's execution of a notebook, and what happened to it.

    Attributes:
        folder: The run folder.
        rank: Of this process; rank 0 keeps the executed notebook.
        log: Gets what the cells print.
        signals: Interrupts and terminations that came, in order.
        cells: Cells that have begun.
    """

    folder: Path
    rank: int
    log: TextIO
    signals: list[int] = field(default_factory=list)
    cells: list[int] = field(default_factory=list)

    def begin(self, index: int, count: int) -> None:
        """Say that a cell begins, of so many."""
        self.cells.append(index)
        if self.rank == 0:
            progress = {"cell": index + 1, "cells": count}
            write_text(self.folder / "logs" / "progress.json", json.dumps(progress), durable=False)


def execute(request: Mapping[str, Any], execution: Execution) -> None:
    """Execute the run folder's copy of the notebook with the parameters asked for, in a kernel of its own."""
    papermill_translators.register("python", Translator)
    papermill_engines.register("jepa", Engine)
    papermill_io.register(ATOMIC, AtomicWriter())
    notebook = execution.folder / SOURCE
    papermill.execute_notebook(
        str(notebook),
        f"{ATOMIC}{execution.folder / 'notebook.ipynb'}" if execution.rank == 0 else None,
        parameters=check_parameters(request["parameters"], read_parameters(notebook)),
        engine_name="jepa",
        kernel_name=nbformat.read(notebook, as_version=4).metadata.get("kernelspec", {}).get("name", "python3"),
        progress_bar=False,
        store_widget_state=False,
        execution=execution,
    )


class Engine(NBClientEngine):
    """Papermill's own engine with a client of ours."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, *args: Any, **kwargs: Any) -> Any:
        """Execute the cells."""
        names = ("store_widget_state", "record_timing")
        options = {name: kwargs[name] for name in names if name in kwargs}
        return Client(nb_man, kwargs["execution"], kernel_name=kernel_name, timeout=None, **options).execute()


class Client(PapermillNotebookClient):
    """A notebook client that passes a termination on to its kernel as an interrupt, and gives it time to end well."""

    def __init__(self, nb_man: Any, execution: Execution, **options: Any) -> None:
        log = execution.log
        super().__init__(nb_man, log_output=True, stdout_file=log, stderr_file=log, **options)
        self.execution = execution

    def papermill_execute_cells(self) -> None:
        """Execute the cells under our signal handlers."""
        signal.signal(signal.SIGTERM, self._interrupt)
        signal.signal(signal.SIGINT, self._interrupt)
        assert self.km is not None
        self.km.shutdown_wait_time = 2 * KERNEL_SHUTDOWN_SECONDS  # after half of it the kernel gets a SIGTERM
        super().papermill_execute_cells()

    def _interrupt(self, number: int, frame: Any) -> None:
        self.execution.signals.append(number)
        if len(self.execution.signals) > 1:
            return  # a second interrupt would break off the checkpoint that the first one asked for
        pid = getattr(getattr(self.km, "provisioner", None), "pid", None)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)

    def execute_cell(self, cell: Any, index: int, *args: Any, **kwargs: Any) -> Any:
        """Execute one cell, and say so."""
        self.execution.begin(index, len(self.nb.cells))
        try:
            if self.execution.signals:
                raise KeyboardInterrupt  # it came between two cells, where the kernel has nothing to interrupt
            return super().execute_cell(cell, index, *args, **kwargs)
        except BaseException:
            # Where the kernel has died, papermill would mark this cell and all that follow as completed.
            self.nb_man.cell_exception(self.nb.cells[index], index)
            raise


class Translator(PythonTranslator):
    """Papermill's own, which turns a tuple into text."""

    @classmethod
    def translate(cls, val: Any) -> str:
        """The Python source of a value."""
        if isinstance(val, tuple):
            return f"({''.join(f'{cls.translate(part)}, ' for part in val)})"
        return super().translate(val)


class AtomicWriter:
    """Lets papermill write a notebook so that a reader never sees a part of it."""

    def write(self, content: str, path: str) -> None:
        """Replace the file."""
        write_text(path.removeprefix(ATOMIC), content, durable=False)

    def pretty_path(self, path: str) -> str:
        """The path without our prefix."""
        return path.removeprefix(ATOMIC)
