"""The quickstart in Notebook 7, which shows one notebook a page and shares server and widgets with JupyterLab."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.browser.conftest import Lab

pytest.importorskip("notebook")
pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]


@pytest.fixture
def notebook(lab: Lab) -> Lab:
    """The page of another fixture, which opens notebooks in Notebook 7."""
    lab.address = re.sub(r"/lab/workspaces/[^/]+/tree/", "/notebooks/", lab.address)
    return lab


def test_the_quickstart_is_watched_steered_and_reloaded_in_notebook_7(notebook: Lab) -> None:
    page = notebook.page
    notebook.open(num_epochs=100_000)
    assert page.evaluate("window.jupyterapp.name") == "Jupyter Notebook"
    its_own = set(page.errors)  # some releases complain about settings of theirs when a page opens
    notebook.run_all()
    notebook.wait_for_curves()
    notebook.click("pause")
    notebook.wait_for_state("paused")
    held = notebook.step
    assert notebook.said == f"Pause took effect after step {held}"
    notebook.click("inspect")
    page.wait_for_selector(".jepa-inspector .js-plotly-plot .imagelayer image, .jepa-inspector .heatmaplayer image")
    notebook.screenshot("notebook-7")
    notebook.save()

    notebook.reload()
    notebook.wait_for_curves()
    assert (notebook.state, notebook.step) == ("paused", held)
    notebook.wait_until(lambda: notebook.curves["loss"][0] == 1, "the curve from its first point")
    notebook.click("resume")
    notebook.wait_until(lambda: notebook.step > held, "steps after the reload")
    notebook.click("stop")
    notebook.wait_for_state("stopped")
    (run,) = notebook.runs()
    assert json.loads((run / "status.json").read_text())["state"] == "stopped"
    assert set(page.errors) <= its_own
