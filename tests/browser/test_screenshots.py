"""The pictures of the documentation: one run of the quickstart, steered in JupyterLab and taken part by part.

`JEPA_WRITE_TABLES=1 python -m pytest tests/browser/test_screenshots.py` writes them to `docs/images/screens`.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.browser.lab import execute

if TYPE_CHECKING:
    from tests.browser.conftest import Lab

pytestmark = [pytest.mark.browser, pytest.mark.full, pytest.mark.timeout(400)]

SCREENS = Path(__file__).parents[2] / "docs" / "images" / "screens"
LARGEST = 150_000  # bytes of a picture in the repository
COLOURS = 256  # what is on a screen is drawn, not photographed
VIEW, PANEL, CHART, INSPECTOR = (f".jepa-{part}" for part in ("run-view", "control-panel", "live-plot", "inspector"))
KEEP = "import functools, jepa; jepa.create_trainer = functools.partial(jepa.create_trainer, keep_checkpoints=50)"
ANOTHER_RUN = """
model = JEPA(Encoder(hidden_dim, depth=2, tokenizer=tokenizer), MaskedPredictor(hidden_dim, tokenizer.grid, depth=1))
objective = IJEPA(model, num_targets=2, target_scale=(0.2, 0.35), variance_weight=0.0)
other = create_trainer(objective, live_plot=False, control_panel=False, progress=False)
other.train(loader, max_steps=trainer.step)
trainer.view.plot.add_run("without variance", other.history)
"""
CUT_OFF = """part => [...part.querySelectorAll("*")]
    .filter(e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX === "hidden")
    .map(e => e.className)"""
TO_THE_TOP = "document.querySelectorAll('.jepa-checkpoint-list *').forEach(e => { e.scrollTop = 0; })"
DRAWN = {"batch": "image", "model": "path", "embeddings": "path", "history": "path"}  # what a tab's figure is made of
TALL = {"width": 1280, "height": 2400}  # nothing has to be scrolled into a picture


def keep(name: str, screenshot: bytes) -> None:
    """Write a picture if pictures are to be written; it shows something, and takes at most `LARGEST`."""
    image = Image.open(io.BytesIO(screenshot)).convert("RGB")
    assert min(image.size) > 100, f"{name} has {image.size} pixels"
    small = io.BytesIO()
    image.quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
        small, format="png", optimize=True
    )
    assert small.tell() <= LARGEST, f"{name} takes {small.tell()} bytes"
    if os.environ.get("JEPA_WRITE_TABLES"):
        SCREENS.mkdir(parents=True, exist_ok=True)
        (SCREENS / f"{name}.png").write_bytes(small.getvalue())


def picture(lab: Lab, name: str, selector: str) -> None:
    """Take one part of the page, of which nothing is cut off."""
    part = lab.page.locator(selector).last
    part.scroll_into_view_if_needed()
    lab.page.mouse.move(0, 0)  # nothing is pointed at
    lab.pass_time(700)  # what moves or fades comes to rest
    assert part.evaluate(CUT_OFF) == [], f"{name} is cut off"
    keep(name, part.screenshot())


def whole_page(lab: Lab, name: str) -> None:
    """Take the page, from the cell of the run on."""
    lab.page.locator(VIEW).last.evaluate("view => view.closest('.jp-Cell').scrollIntoView()")
    lab.page.mouse.move(0, 0)
    lab.pass_time(700)
    keep(name, lab.page.screenshot())


def pause(lab: Lab) -> int:
    """Pause and return the step."""
    lab.click("pause")
    lab.wait_for_state("paused")
    return lab.step


def edit_rate(lab: Lab, rate: str) -> None:
    """Set the learning rate and wait for the answer."""
    lab.apply_rate(rate)
    lab.wait_until(lambda: f"{float(rate):.4g} from step" in lab.said, f"the learning rate {rate}")


def turn_checkpoints(lab: Lab) -> None:
    """Open or close the list of checkpoints."""
    lab.page.locator(".jepa-checkpoint-list summary").click()


def turn_theme(lab: Lab, name: str) -> None:
    """Change the theme of the page, `Light` or `Dark`."""
    command = "name => { window.jupyterapp.commands.execute('apputils:change-theme', { theme: name }); }"
    lab.page.evaluate(command, f"JupyterLab {name}")
    lab.page.wait_for_selector(f"body[data-jp-theme-name='JupyterLab {name}']", state="attached")


def test_the_pictures_of_the_documentation(lab: Lab) -> None:
    lab.open(num_epochs=100)
    execute(lab.page, "application:toggle-left-area")
    lab.kernel(KEEP)
    lab.run_all()
    lab.wait_for_curves()
    lab.wait_until(lambda: lab.step > 300, "some curves")
    edit_rate(lab, "3e-3")
    edited = lab.step
    lab.wait_until(lambda: lab.step > edited + 150, "what the edit does")
    whole_page(lab, "lab")
    held = pause(lab)

    lab.page.set_viewport_size(TALL)
    lab.click("inspect")
    for tab, mark in DRAWN.items():
        lab.click(f"tab-{tab}")
        lab.page.wait_for_selector(f"{INSPECTOR} .js-plotly-plot {mark} >> visible=true")
        picture(lab, f"inspector-{tab}", INSPECTOR)
    lab.click("hide")

    turn_checkpoints(lab)
    earlier = f"step {21 * (edited // 21)}"  # the end of an epoch
    lab.page.locator("tr", has_text=earlier).first.locator(".jepa-rewind").click()
    lab.wait_until(lambda: lab.step <= edited, "an earlier step")
    lab.page.evaluate(TO_THE_TOP)
    picture(lab, "panel", PANEL)
    turn_checkpoints(lab)
    edit_rate(lab, "2e-3")
    lab.click("resume")
    lab.wait_until(lambda: lab.step > held - 50, "the other branch")
    pause(lab)
    lab.page.locator(".jepa-plot-group[data-group='terms']").click()
    lab.page.locator(".jepa-smoothing").fill("0.05")
    lab.wait_until(lambda: {"prediction", "loss, smoothed"} <= lab.curves.keys(), "terms and smooth curves")
    picture(lab, "chart", CHART)

    lab.page.set_viewport_size({**TALL, "width": 800})
    picture(lab, "narrow", VIEW)
    lab.page.set_viewport_size(TALL)
    turn_theme(lab, "Dark")
    picture(lab, "dark", VIEW)
    turn_theme(lab, "Light")

    lab.click("stop")
    lab.wait_for_state("stopped")
    assert lab.kernel(ANOTHER_RUN) == ""
    lab.wait_until(lambda: "loss, without variance" in lab.curves, "the other run")
    picture(lab, "runs", CHART)
    assert lab.page.errors == []
