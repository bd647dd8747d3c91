"""The quickstart in a real JupyterLab, seen through a page that can be asked and waited for."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from nbformat.v4 import new_code_cell, new_notebook, writes

from tests.browser.lab import browser_page, collect_errors, execute, jupyterlab, open_notebook

ROOT = Path(__file__).parents[2]
NAME = "00_quickstart.ipynb"
CELLS = "cells.ipynb"
# A run that takes its time: `pace` seconds a step and more.
TRAINER = """
import time
import torch
from jepa import JEPA, Encoder, Predictor, create_trainer
from jepa.data import make_loader
from jepa.trainer import Callback

pace = 0.02

class Slow(Callback):
    def on_step_ended(self, trainer, event):
        time.sleep(pace)

states = torch.randn(256, 4)
loader = make_loader((states, states.roll(1, 1)), batch_size=16)
model = JEPA(Encoder(8, 4, depth=1), Predictor(8, depth=1))
trainer = create_trainer(model, run="shown", log_every=20, callbacks=[Slow()])
run = trainer.start(loader, max_steps=100_000)
"""
KERNEL_CODE = """async code => {
    const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
    const future = kernel.requestExecute({ code, store_history: false });
    let text = "";
    future.onIOPub = message => { text += message.content.text ?? message.content.evalue ?? ""; };
    await future.done;
    return text.trim();
}"""
CURVES = """() => {
    const charts = [...document.querySelectorAll(".jepa-live-plot .js-plotly-plot")];
    const data = charts.at(-1)?.data ?? [];
    return Object.fromEntries(data.map(trace => [trace.name, Array.from(trace.x)]));
}"""


class Lab:
    """A page that shows the quickstart, and the folder that it works in."""

    def __init__(self, page: Any, address: str, folder: Path) -> None:
        self.page = page
        self.address = address
        self.folder = folder

    def open(self, *, num_epochs: int) -> None:
        """Open a copy of the quickstart of another length."""
        notebook = json.loads((ROOT / "notebooks" / NAME).read_text(encoding="utf-8"))
        (parameters,) = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])]
        source = "".join(parameters["source"])
        assert "num_epochs = " in source
        parameters["source"] = re.sub(r"num_epochs = \d+", f"num_epochs = {num_epochs}", source)
        (self.folder / NAME).write_text(json.dumps(notebook), encoding="utf-8")
        open_notebook(self.page, self.address, NAME)

    def open_cells(self, *sources: str, kernel_name: str = "python3") -> None:
        """Open a notebook of these cells."""
        kernel = {"name": kernel_name, "display_name": "Python 3", "language": "python"}
        notebook = new_notebook(cells=[new_code_cell(one) for one in sources], metadata={"kernelspec": kernel})
        (self.folder / CELLS).write_text(writes(notebook), encoding="utf-8")
        open_notebook(self.page, self.address, CELLS)

    @contextmanager
    def another_page(self, name: str) -> Iterator[Lab]:
        """The notebook of `open_cells` in one more page, as another browser would show it."""
        address = self.address.replace("/workspaces/", f"/workspaces/{name}-")
        with self.page.context.browser.new_page(viewport=self.page.viewport_size) as page:
            collect_errors(page).goto(address.format(path=CELLS))
            yield Lab(page, address, self.folder)

    def run_all(self) -> None:
        execute(self.page, "notebook:run-all-cells")

    def wait_until(self, condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
        """Wait for a condition of ours, with the page going on meanwhile."""
        deadline = time.monotonic() + seconds
        while not (result := condition()):
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}; the page shows {self.status!r}"
            self.page.wait_for_timeout(20)
        return result

    def pass_time(self, milliseconds: float) -> None:
        """Wait until the clock of the page has gone on."""
        now = self.page.evaluate("performance.now()")
        self.page.wait_for_function("end => performance.now() > end", arg=now + milliseconds)

    def text(self, selector: str) -> str:
        """Text of the newest element of ours, empty while there is none."""
        return self.page.evaluate("s => [...document.querySelectorAll(s)].at(-1)?.textContent ?? ''", selector)

    @property
    def status(self) -> str:
        return self.page.evaluate(
            "() => [...document.querySelectorAll('.jepa-line')].map(e => e.innerText).join(' | ')"
        )

    @property
    def state(self) -> str:
        return self.text(".jepa-state")

    @property
    def step(self) -> int:
        return int(self.text(".jepa-step-count") or -1)

    @property
    def said(self) -> str:
        return self.text(".jepa-acknowledged")

    @property
    def curves(self) -> dict[str, list[int]]:
        """Steps of every curve that plotly has drawn, by name."""
        return self.page.evaluate(CURVES)

    def click(self, name: str) -> None:
        self.page.locator(f".jepa-{name}").last.click()

    def wait_for_state(self, state: str) -> None:
        self.wait_until(lambda: self.state == state, f"state {state}")

    def apply_rate(self, rate: str) -> None:
        self.page.locator(".jepa-learning-rate").last.fill(rate)
        self.click("apply-learning-rate")

    def wait_for_curves(self) -> None:
        self.page.wait_for_selector(".jepa-control-panel button", timeout=90_000)
        self.page.wait_for_selector(".jepa-live-plot .js-plotly-plot .trace path.js-line", timeout=90_000)

    def kernel(self, code: str) -> str:
        """Run code in the kernel, after the cells that wait there, and return what it prints."""
        return self.page.evaluate(KERNEL_CODE, code)

    def save(self) -> None:
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        self.page.wait_for_function("() => !window.jupyterapp.shell.currentWidget.context.model.dirty")

    def reload(self) -> None:
        self.page.reload()
        self.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=90_000)

    def executed(self, source: str) -> int | None:
        """Execution number of the cell that contains `source`, `None` while it waits or runs."""
        state, count = self.page.evaluate(
            """source => {
                const cells = window.jupyterapp.shell.currentWidget.content.widgets;
                const cell = cells.find(
                    cell => cell.model.type === "code" && cell.model.sharedModel.getSource().includes(source));
                return [cell.model.sharedModel.executionState, cell.model.executionCount];
            }""",
            source,
        )
        return None if state == "running" else count

    def run_cell(self, source: str) -> None:
        """Run the cell that contains `source`."""
        self.page.evaluate(
            """source => {
                const notebook = window.jupyterapp.shell.currentWidget.content;
                notebook.activeCellIndex = notebook.widgets.findIndex(
                    cell => cell.model.sharedModel.getSource().includes(source));
                window.jupyterapp.commands.execute("notebook:run-cell");
            }""",
            source,
        )

    def interrupt(self) -> None:
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.interrupt()")

    def runs(self) -> list[Path]:
        """Run folders, oldest first: their names begin with the time."""
        return sorted((self.folder / "runs").iterdir())

    def screenshot(self, name: str) -> None:
        """Keep a picture of the page in the folder that `JEPA_SCREENSHOTS` names."""
        if target := os.environ.get("JEPA_SCREENSHOTS"):
            self.page.locator(".jepa-control-panel").last.scroll_into_view_if_needed()
            self.pass_time(500)
            self.page.screenshot(path=Path(target) / f"{name}.png")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """One JupyterLab for all tests: its address and its folder."""
    folder = tmp_path_factory.mktemp("lab")
    with jupyterlab(folder) as address:
        yield address, folder


@pytest.fixture
def lab(server: tuple[str, Path], request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A fresh page and an empty folder of its own."""
    address, root = server
    folder = root / re.sub(r"\W+", "-", request.node.name)  # names of parameters do not belong in an address
    folder.mkdir()
    with browser_page() as page:
        page.on("dialog", lambda dialog: dialog.accept())
        # a workspace of its own, or the page opens the notebooks of earlier tests too
        own = address.replace("/lab/", f"/lab/workspaces/{folder.name}/").replace("{path}", f"{folder.name}/{{path}}")
        yield Lab(page, own, folder)
        page.evaluate("() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.shutdown()")
