"""What a long run leaves in the memory of its kernel and of the page that watches it, and in the notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import CELLS, TRAINER

if TYPE_CHECKING:
    from tests.browser.conftest import Lab

pytestmark = [pytest.mark.browser, pytest.mark.full, pytest.mark.timeout(900)]

WARM_UP, STEPS = 4000, 10_000
MOST = 10e6  # bytes
MOST_NODES = 5000  # an update that left what it drew would leave as many every few seconds
KERNEL = """
import gc, psutil
for _ in range(3):
    gc.collect()
print(psutil.Process().memory_info().rss)
"""
SMALL = """
trainer = create_trainer(JEPA(Encoder(8, 4, depth=1), Predictor(8, depth=1)), log_every=1)
run = trainer.start(loader, max_steps=30)
"""


def memory(lab: Lab) -> dict[str, float]:
    """Resident bytes of the kernel; bytes of the page's live objects and the number of its nodes."""
    session = lab.page.context.new_cdp_session(lab.page)
    session.send("HeapProfiler.collectGarbage")
    session.send("Performance.enable")
    told = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    session.detach()
    return {"kernel": float(lab.kernel(KERNEL)), "page": told["JSHeapUsedSize"], "nodes": told["Nodes"]}


def test_memory_stays_level_over_a_long_run_with_panel_and_chart(lab: Lab) -> None:
    lab.open_cells(TRAINER.replace("pace = 0.02", "pace = 0.005").replace("log_every=20", "log_every=5"))
    lab.run_all()
    lab.wait_for_curves()
    lab.wait_until(lambda: lab.step > WARM_UP, "the warm-up", 300)
    seen = [memory(lab)]
    for step in (WARM_UP + STEPS // 2, WARM_UP + STEPS):
        lab.wait_until(lambda step=step: lab.step > step, "a long run", 600)
        seen.append(memory(lab))
    for place in ("kernel", "page", "nodes"):
        print(f"{place}: " + ", ".join(f"{one[place]:,.0f}" for one in seen))
    grown = {place: seen[-1][place] - seen[0][place] for place in seen[0]}
    assert grown["kernel"] < MOST
    assert grown["page"] < MOST
    assert grown["nodes"] < MOST_NODES
    lab.click("stop")
    lab.wait_for_state("stopped")
    assert lab.page.errors == []


def test_a_notebook_of_five_live_views_is_saved_in_less_than_a_megabyte(lab: Lab) -> None:
    setup = TRAINER[: TRAINER.index("model =")]
    lab.open_cells(setup, *[SMALL] * 5, "history = await run")
    lab.run_all()
    lab.wait_until(lambda: lab.executed("await run"), "the last run", 180)
    lab.wait_until(lambda: lab.page.locator(".jepa-live-plot .js-plotly-plot").count() == 5, "five charts")
    lab.save()
    size = (lab.folder / CELLS).stat().st_size
    print(f"a notebook of five live views: {size:,} bytes")
    assert size < 1_000_000
    assert lab.page.errors == []
