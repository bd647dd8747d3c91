"""A notebook executed by the worker itself, without a kernel: a run begins sooner, and its signals reach it directly.

What cells print and show is kept in the notebook as a kernel would keep it. Not kept: what compiled code prints, which
goes to the launcher's log.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

import nbformat
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from nbformat.v4 import new_output
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from papermill.translators import papermill_translators
from traitlets import Type

from jepa.batch.engine import Execution, Translator
from jepa.batch.launch import SOURCE
from jepa.batch.parameters import check_parameters, read_parameters
from jepa.files import write_text
from jepa.trainer import TrainingInterrupted

# What plotting libraries choose in a kernel, where they look for one.
SHOWING = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "PLOTLY_RENDERER": "plotly_mimetype"}


def execute(request: Mapping[str, Any], execution: Execution) -> None:
    """Execute the run folder's copy of the notebook with the parameters asked for, in this process."""
    papermill_translators.register("python", Translator)
    source = execution.folder / SOURCE
    parameters = check_parameters(request["parameters"], read_parameters(source))
    notebook = load_notebook_node(str(source))
    language = notebook.metadata.get("kernelspec", {}).get("language", "python")
    notebook = parameterize_notebook(notebook, parameters, kernel_name="python3", language=language)
    InProcess(notebook, execution).run()


class InProcess:
    """Cells, one after the other.

    Args:
        notebook: With its parameters; gets the outputs.
        execution: Whose it is.
    """

    def __init__(self, notebook: Any, execution: Execution) -> None:
        self.notebook = notebook
        self.execution = execution

    def run(self) -> None:
        """Execute all code cells, and keep the notebook after each."""
        signal.signal(signal.SIGTERM, self._interrupt)
        signal.signal(signal.SIGINT, self._interrupt)
        for name, value in SHOWING.items():
            os.environ.setdefault(name, value)
        shell = Shell.instance()
        for index, cell in enumerate(self.notebook.cells):
            if cell.cell_type != "code":
                continue
            self.execution.begin(index, len(self.notebook.cells))
            if self.execution.signals:
                raise KeyboardInterrupt  # it came between two cells
            try:
                self._run_cell(shell, cell, index)
            finally:
                self._keep()

    def _run_cell(self, shell: Shell, cell: Any, index: int) -> None:
        cell.outputs = shell.outputs.cells = []
        with shell.outputs.printed(self.execution.log):
            done = shell.run_cell(cell.source, store_history=True)
        cell.execution_count = done.execution_count
        error = done.error_before_exec or done.error_in_exec
        if error is None:
            return
        if isinstance(error, TrainingInterrupted | SystemExit):
            self.execution.signals.append(signal.SIGTERM)  # which came to the training itself
        name, value = type(error).__name__, str(error)
        lines = shell.InteractiveTB.structured_traceback(type(error), error, error.__traceback__)
        cell.outputs.append(new_output("error", ename=name, evalue=value, traceback=lines))
        if "raises-exception" not in cell.metadata.get("tags", []):
            raise PapermillExecutionError(index, done.execution_count, cell.source, name, value, lines) from error

    def _keep(self) -> None:
        if self.execution.rank == 0:
            write_text(self.execution.folder / "notebook.ipynb", nbformat.writes(self.notebook), durable=False)

    def _interrupt(self, number: int, frame: Any) -> None:
        """Break off what does not train; training has a handler of its own, which ends it with a checkpoint."""
        self.execution.signals.append(number)
        raise KeyboardInterrupt


class Outputs:
    """What cells show, in the form of a notebook.

    Attributes:
        cells: Outputs of the present cell.
    """

    def __init__(self) -> None:
        self.cells: list[Any] = []
        self._shown: dict[str, list[Any]] = {}  # by display id, to be renewed wherever they are

    def stream(self, name: str, text: str) -> None:
        """Text of `stdout` or `stderr`; goes on with what was printed before it."""
        last = self.cells[-1] if self.cells else None
        if last is not None and last.output_type == "stream" and last.name == name:
            last.text += text
        else:
            self.cells.append(new_output("stream", name=name, text=text))

    def show(self, data: Mapping[str, Any], metadata: Mapping[str, Any], name: str | None, *, renews: bool) -> None:
        """A display; one that renews replaces all of that name, and shows nothing new."""
        if renews:
            for output in self._shown.get(name or "", []):
                output.update(data=dict(data), metadata=dict(metadata))
            return
        output = new_output("display_data", data=dict(data), metadata=dict(metadata))
        if name is not None:
            self._shown.setdefault(name, []).append(output)
        self.cells.append(output)

    @contextmanager
    def printed(self, log: TextIO) -> Iterator[None]:
        """Keep what is printed, and write it to a log as well."""
        before = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = (Printed(self, name, log) for name in ("stdout", "stderr"))
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


class Printed(io.TextIOBase):
    """Standard output or error of cells."""

    encoding = "utf-8"

    def __init__(self, outputs: Outputs, name: str, log: TextIO) -> None:
        self._outputs, self._name, self._log = outputs, name, log

    def writable(self) -> bool:
        """Yes."""
        return True

    def write(self, text: str) -> int:
        """Keep and log."""
        if text:
            self._outputs.stream(self._name, text)
            self._log.write(text)
        return len(text)


def outputs_of(part: Publisher | Hook) -> Outputs:
    """Where a part of the shell keeps what it gets."""
    assert isinstance(part.shell, Shell)
    return part.shell.outputs


class Publisher(DisplayPublisher):
    """Keeps what `display` shows."""

    def publish(
        self,
        data: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
        source: Any = None,
        *,
        transient: Mapping[str, Any] | None = None,
        update: bool = False,
        **rest: Any,
    ) -> None:
        """Keep one display, or renew one."""
        outputs_of(self).show(data, metadata or {}, (transient or {}).get("display_id"), renews=update)

    def clear_output(self, wait: bool = False) -> None:
        """Forget what the cell has shown."""
        outputs_of(self).cells.clear()


class Hook(DisplayHook):
    """Keeps the value of a cell's last line."""

    def write_output_prompt(self) -> None:
        """There is none in a notebook."""

    def write_format_data(self, format_dict: Mapping[str, Any], md_dict: Mapping[str, Any] | None = None) -> None:
        """Keep it."""
        count = self.prompt_count
        outputs_of(self).cells.append(
            new_output("execute_result", data=dict(format_dict), metadata=dict(md_dict or {}), execution_count=count)
        )


class Shell(InteractiveShell):
    """IPython without a terminal and without a kernel."""

    displayhook_class = Type(Hook)
    display_pub_class = Type(Publisher)

    def init_instance_attrs(self) -> None:
        """Make place for the outputs first."""
        self.outputs = Outputs()
        super().init_instance_attrs()

    def _showtraceback(self, etype: type[BaseException], evalue: BaseException, stb: list[str]) -> None:
        """Show nothing: the error is an output of its own."""
