"""Reloads, several pages and none at all: whatever shows a run shows all of it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from jepa.files import read_lines
from tests.browser.conftest import TRAINER

if TYPE_CHECKING:
    from tests.browser.conftest import Lab

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

WAIT = "history = await run"
SHOW = "run.show()"
POINTS = """() => {
    const chart = [...document.querySelectorAll(".jepa-live-plot .js-plotly-plot")].at(-1);
    const loss = chart?.data?.find((trace) => trace.name === "loss");
    return loss ? Array.from(loss.x, (step, i) => [step, loss.y[i]]) : [];
}"""


def recorded(run: Path) -> list[tuple[int, Any]]:
    lines = read_lines(run / "metrics" / "train.jsonl")
    return [(line["step"], pytest.approx(line["loss"], rel=1e-6)) for line in lines if "loss" in line]


def shows_all(lab: Lab, run: Path, state: str) -> None:
    """The newest chart of the page holds every record that the file had when it was asked, the panel the state."""
    lab.wait_for_state(state)
    known = recorded(run)
    points = lab.wait_until(
        lambda: shown if len(shown := lab.page.evaluate(POINTS)) >= len(known) else None, f"{len(known)} points"
    )
    assert len(points) < 140, "more points than a chart of these curves holds prove nothing here"
    assert [tuple(point) for point in points[: len(known)]] == known
    assert lab.page.errors == []


def test_every_page_shows_all_of_a_run_however_often_it_is_loaded(lab: Lab) -> None:
    lab.open_cells(TRAINER, WAIT)
    lab.run_all()
    lab.wait_for_curves()
    run = lab.folder / "runs" / "shown"
    lab.wait_until(lambda: lab.step > 60, "some steps")
    lab.save()

    lab.reload()
    lab.wait_for_curves()
    shows_all(lab, run, "running")
    lab.click("pause")
    lab.wait_for_state("paused")
    lab.reload()
    lab.wait_for_curves()
    shows_all(lab, run, "paused")

    with ExitStack() as stack:
        tabs = [lab, *(stack.enter_context(lab.another_page(name)) for name in ("second", "third"))]
        for tab in tabs:
            tab.wait_for_curves()
            shows_all(tab, run, "paused")
        for clicked, (button, state) in zip(tabs[::-1], [("resume", "running"), ("pause", "paused")] * 2, strict=False):
            clicked.click(button)
            for tab in tabs:
                shows_all(tab, run, state)
        assert len({tab.step for tab in tabs}) == 1
        lab.page.goto("about:blank")  # the notebook's page is closed

    with lab.another_page("later") as later:
        later.wait_for_curves()
        shows_all(later, run, "running")
        later.screenshot("opened-later")
        later.click("stop")
        later.wait_for_state("stopped")
        later.reload()
        later.wait_for_curves()
        shows_all(later, run, "stopped")
        assert later.said == f"stopped at step {later.step}"


@pytest.mark.full  # a page that loads slowly may show nothing: the front end does not know the widgets yet
def test_show_brings_panel_and_chart_back_after_an_unsaved_notebook_was_reloaded(lab: Lab) -> None:
    lab.open_cells(TRAINER, SHOW)
    lab.run_cell("create_trainer(")
    lab.wait_for_curves()
    lab.reload()
    assert lab.page.locator(".jepa-control-panel").count() == 0
    lab.run_cell(SHOW)
    lab.wait_for_curves()
    shows_all(lab, lab.folder / "runs" / "shown", "running")
    lab.click("stop")
    lab.wait_for_state("stopped")
    assert lab.page.errors == []
