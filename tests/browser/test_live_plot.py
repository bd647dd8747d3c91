"""The live chart in a real page: a million points, zoom, settings, groups, a reload, both themes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.lab import browser_page, execute, jupyterlab, open_notebook

if TYPE_CHECKING:
    from tests.browser.conftest import Lab

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

MANY = 1_000_000
FEED = f"""
import math, time
import numpy as np
import torch
from jepa.trainer import events
from jepa.trainer.history import History
from jepa_widgets import LivePlot

MANY = {MANY}
steps = torch.arange(MANY)
noise = torch.randn(MANY, generator=torch.Generator().manual_seed(0)).double()
columns = {{
    "loss": 2 * torch.exp(-steps / 2e5) + 0.3 + 0.1 * noise.abs(),
    "invariance": torch.exp(-steps / 3e5) + 0.05 * noise.abs(),
    "regularizer": 0.4 + 0.1 * noise.abs(),
    "grad_norm": 1 + 0.3 * noise.abs(),
    "learning_rate": 1e-3 * torch.cos(steps / MANY * 1.5),
    "ema_momentum": 0.996 + 0.004 * steps / MANY,
    "embedding_std": 1 - torch.exp(-steps / 1e5),
    "effective_rank": 20 + noise,
    "steps_per_second": 500 + 10 * noise,
}}
columns["loss"][700_003] = 9.0
def history_of(columns, steps=steps):
    history = History()
    history.load_state_dict({{name: {{"steps": steps, "values": column}} for name, column in columns.items()}})
    return history
plot = LivePlot()
plot.load(history_of(columns))
for step in range(0, MANY, 5000):
    plot._runs["this run"].clock.add(step, step // 50_000, 1.7e9 + step / 100)
def edit(step, old, new):
    result = {{"name": "learning_rate", "old": old, "new": new, "mode": "scale"}}
    return events.CommandApplied(step, 0, {{"type": "Set", "name": "learning_rate", "value": new}}, "panel", result)
plot(edit(400_000, 1e-3, 5e-4))
plot(edit(400_000, 5e-4, 4e-4))
plot.flush()
plot
"""
NOTEBOOK = {
    "cells": [
        {"cell_type": "code", "id": "feed", "metadata": {}, "outputs": [], "execution_count": None, "source": FEED}
    ],
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}
CHART = "document.querySelector('.jepa-live-plot .js-plotly-plot')"
LAG = f"""async () => {{
    const chart = {CHART};
    const taken = [];
    for (let i = 0; i < 10; i++) {{
        const begin = performance.now();
        const drawn = new Promise((resolve) => chart.once("plotly_afterplot", resolve));
        document.querySelector(".jepa-live-plot").dispatchEvent(new Event("jepa-redraw"));
        await drawn;
        taken.push(performance.now() - begin);
    }}
    return Math.min(...taken); // other work on the machine only ever adds to it
}}"""
OVERLAPS = """() => {
    const boxes = [...document.querySelectorAll(".jepa-live-plot .annotation-text, .jepa-live-plot .xtick text, "
        + ".jepa-live-plot .ytick text, .jepa-live-plot .xtitle, .jepa-plot-controls > *")]
        .map((node) => [node.textContent, node.getBoundingClientRect()]).filter(([, box]) => box.width > 0);
    const room = document.querySelector(".jepa-live-plot").getBoundingClientRect();
    const bad = boxes.filter(([, b]) => b.left < room.left - 1 || b.right > room.right + 1).map(([t]) => "cut: " + t);
    boxes.forEach(([text, a], i) => boxes.slice(i + 1).forEach(([other, b]) => {
        const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (wide > 1 && high > 3) bad.push(`${text} on ${other}`);
    }));
    return bad;
}"""


def trace(page: Any, name: str, key: str) -> Any:
    return page.evaluate(f"([name, key]) => {CHART}?.data?.find((t) => t.name === name)?.[key] ?? null", [name, key])


def show(page: Any, address: str, folder: Path) -> None:
    (folder / "chart.ipynb").write_text(json.dumps(NOTEBOOK), encoding="utf-8")
    open_notebook(page, address, "chart.ipynb")
    execute(page, "notebook:run-all-cells")
    page.wait_for_selector(".jepa-live-plot .js-plotly-plot .trace path.js-line", timeout=90_000)


def click(page: Any, selector: str) -> None:
    page.locator(f".jepa-live-plot {selector}").click()


@pytest.mark.benchmark
def test_a_million_points_are_watched_zoomed_smoothed_folded_and_survive_a_reload(lab: Lab) -> None:
    page = lab.page
    show(page, lab.address, lab.folder)
    assert trace(page, "loss", "x")[-1] == MANY - 1
    assert 9 in trace(page, "loss", "y"), "the peak is lost"
    assert len(trace(page, "loss", "x")) <= 280
    assert trace(page, "commands", "x") == [400_000]
    (text,) = trace(page, "commands", "text")
    assert text.startswith("learning_rate: 0.001 to 0.0005<br>learning_rate: 0.0005 to 0.0004<br>epoch 8")
    assert trace(page, "invariance", "x") is None, "a folded group is not sent"

    lag = page.evaluate(LAG)
    print(f"drawing an update takes {lag:.0f} ms in the page")
    assert lag < 100

    page.locator(".jepa-live-plot .nsewdrag").first.scroll_into_view_if_needed()
    box = page.locator(".jepa-live-plot .nsewdrag").first.bounding_box()
    left, top, width, height = box["x"], box["y"], box["width"], box["height"]
    page.mouse.move(left + 0.65 * width, top + 0.5 * height)
    page.mouse.down()
    page.mouse.move(left + 0.77 * width, top + 0.5 * height, steps=5)
    page.mouse.up()
    lab.wait_until(lambda: len(trace(page, "loss", "x")) > 1000, "the answer to the zoom")
    first, last = page.evaluate(f"{CHART}._fullLayout.xaxis.range")
    inside = [step for step in trace(page, "loss", "x") if first <= step <= last]
    assert len(inside) > 1000
    assert page.evaluate(f"{CHART}._fullLayout.xaxis2.range") == [first, last], "x axes are linked"
    lab.kernel("plot(events.MetricsLogged(MANY, 20, {'loss': 0.5}, time.time(), 0)); plot.flush()")
    lab.wait_until(lambda: trace(page, "loss", "x")[-1] == MANY, "a new point")
    assert page.evaluate(f"{CHART}._fullLayout.xaxis.range") == [first, last], "the zoom survives an update"

    page.evaluate(
        f"(range) => {CHART}.emit('plotly_relayout', range)", {"xaxis.range[0]": 5000, "xaxis.range[1]": 5400}
    )
    lab.wait_until(
        lambda: sum(5000 <= step <= 5400 for step in trace(page, "loss", "x")) == 401, "every point of a short range"
    )
    click(page, ".jepa-reset-zoom")
    lab.wait_until(lambda: len(trace(page, "loss", "x")) <= 281, "the whole curve")

    click(page, ".jepa-log-axis")
    lab.wait_until(lambda: page.evaluate(f"{CHART}._fullLayout.yaxis.type") == "log", "a log axis")
    page.locator(".jepa-smoothing").focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    lab.wait_until(lambda: trace(page, "loss, smoothed", "x"), "a smoothed curve")
    assert max(trace(page, "loss, smoothed", "y")) < 3
    assert trace(page, "loss", "opacity") < 1
    click(page, "[data-group=terms]")
    lab.wait_until(lambda: trace(page, "invariance", "x"), "the terms of the loss")
    click(page, "[data-group=overview]")
    lab.wait_until(lambda: trace(page, "loss", "x") is None, "the overview is gone")
    click(page, "[data-group=overview]")
    lab.wait_until(lambda: trace(page, "loss", "x"), "the overview again")
    wanted = "0.05 True ['diagnostics', 'optimisation', 'other']"
    lab.wait_until(lambda: lab.kernel("print(plot.smoothing, plot.log_axis, plot.folded)") == wanted, "settings")

    lab.save()
    lab.reload()
    lab.wait_until(lambda: trace(page, "invariance, smoothed", "x"), "curves and settings after a reload", 90)
    assert page.evaluate(f"{CHART}._fullLayout.yaxis.type") == "log"
    assert page.locator(".jepa-smoothing").input_value() == "0.05"
    assert trace(page, "loss", "x")[-1] == MANY
    assert page.evaluate(OVERLAPS) == []
    assert page.errors == []


def test_settings_take_effect_while_a_cell_blocks_the_kernel(lab: Lab) -> None:
    page = lab.page
    show(page, lab.address, lab.folder)
    page.evaluate("""() => {
        const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
        window.blocked = kernel.requestExecute({
            code: "import pathlib; go = pathlib.Path('go')\\nwhile not go.exists(): time.sleep(0.02)" });
        window.blocked.done.then(() => { window.blockedDone = true; });
    }""")
    click(page, ".jepa-log-axis")
    lab.wait_until(lambda: page.evaluate(f"{CHART}._fullLayout.yaxis.type") == "log", "a log axis", 10)
    click(page, "[data-group=overview]")
    lab.wait_until(lambda: trace(page, "loss", "x") is None, "the overview is gone", 10)
    assert page.evaluate("window.blockedDone") is None
    (lab.folder / "go").touch()
    lab.wait_until(lambda: lab.kernel("print(plot.log_axis, 'overview' in plot.folded)") == "True True", "the settings")


def test_what_the_kernel_refuses_is_said_in_the_chart(lab: Lab) -> None:
    show(lab.page, lab.address, lab.folder)
    lab.kernel("plot._receive(None, {'event': 'set', 'name': 'smoothing', 'value': 7}, None)")
    lab.wait_until(lambda: "smoothing" in lab.text(".jepa-live-plot .jepa-widget-error:not([hidden])"), "the error")


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_cut_or_overlaps_in_either_theme_and_width(dark: bool, tmp_path: Path) -> None:
    more = """
calm = {name: column[::1000] * 1.3 + 0.05 for name, column in columns.items()}
for number in range(3):
    columns_of_run = {name: column * (1 + 0.2 * number) for name, column in calm.items()}
    plot.add_run(f"monday-{number}", history_of(columns_of_run, steps[::1000]))
plot.folded, plot.smoothing = ["other"], 0.03
plot._runs["this run"].add(MANY // 2, {"loss": 1.0})
plot.flush()
"""
    with jupyterlab(tmp_path, dark=dark) as address:
        for width in (1280, 800):
            with browser_page(width=width) as page:
                cell = {**NOTEBOOK["cells"][0], "source": FEED.replace("plot.flush()\nplot\n", more + "plot\n")}  # type: ignore[dict-item]
                (tmp_path / f"chart-{width}.ipynb").write_text(
                    json.dumps({**NOTEBOOK, "cells": [cell]}), encoding="utf-8"
                )
                own = address.replace("/lab/", f"/lab/workspaces/{width}/")  # else the other notebook opens, too
                open_notebook(page, own, f"chart-{width}.ipynb")
                execute(page, "notebook:run-all-cells")
                page.wait_for_selector(".jepa-live-plot .js-plotly-plot .trace path.js-line", timeout=90_000)
                page.wait_for_function(f"() => {CHART}.data.some((t) => t.name === 'loss, given up')")
                assert page.evaluate(OVERLAPS) == []
                screenshot(page, f"chart-{'dark' if dark else 'light'}-{width}")
                page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")


def screenshot(page: Any, name: str) -> None:
    """Keep a picture in the folder that `JEPA_SCREENSHOTS` names."""
    if target := os.environ.get("JEPA_SCREENSHOTS"):
        page.locator(".jepa-live-plot").scroll_into_view_if_needed()
        page.screenshot(path=Path(target) / f"{name}.png")
