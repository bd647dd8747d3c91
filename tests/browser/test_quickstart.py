"""The quickstart as a newcomer meets it: watched, steered and reloaded in JupyterLab while it trains."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from jepa.files import read_lines

if TYPE_CHECKING:
    from tests.browser.conftest import Lab

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

LONG = 100_000  # epochs: more than any test lives
CURVES = {"loss", "learning_rate", "ema_momentum", "embedding_std", "effective_rank", "grad_norm"}
WIDGET = "application/vnd.jupyter.widget-view+json"
PLOTLY = "application/vnd.plotly.v1+json"
HEIGHT_OF_PICTURE = """() => {
    const cells = window.jupyterapp.shell.currentWidget?.content?.widgets ?? [];
    const cell = cells.find(cell => cell.model.sharedModel.getSource().includes("create_trainer("));
    const picture = cell?.node.querySelector(".jp-OutputArea-output img, .jp-OutputArea-output .js-plotly-plot");
    return picture?.getBoundingClientRect().height ?? 0;
}"""


def start(lab: Lab) -> Path:
    """Run the long quickstart until its curves are drawn; returns the run's folder."""
    lab.open(num_epochs=LONG)
    lab.run_all()
    lab.wait_for_curves()
    lab.wait_until(lambda: lab.curves.keys() >= CURVES and len(lab.curves["loss"]) > 3, "all curves with some points")
    (run,) = lab.runs()
    return run


def reload_keeps_everything(lab: Lab) -> None:
    """Save, reload, and find the panel, and the curves from their first point to where they were."""
    before = lab.curves
    lab.save()
    lab.reload()
    lab.wait_for_curves()
    after = lab.wait_until(lambda: lab.curves if lab.curves.keys() >= before.keys() else None, "all curves again")
    for name, steps in before.items():
        assert after[name][0] == steps[0], f"{name} lost its beginning"
        assert after[name][-1] >= steps[-1], f"{name} lost its end"


def journal(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = [line for line in read_lines(run / "journal.jsonl") if line["event"] == "CommandApplied"]
    return [line for line in lines if line["command"]["type"] == kind]


def test_a_run_is_watched_steered_and_survives_reloads(lab: Lab) -> None:
    run = start(lab)
    assert lab.executed("await run") is None  # the panel has to answer while this cell runs
    assert lab.executed("create_trainer(") is not None
    lab.wait_until(lambda: lab.step > 100, "some steps")
    lab.screenshot("running")

    lab.click("pause")
    lab.wait_for_state("paused")
    held = lab.step
    lab.pass_time(1000)
    assert lab.step == held
    assert lab.said == f"Pause took effect after step {held}"
    assert lab.executed("await run") is None

    lab.click("inspect")
    lab.page.wait_for_selector(".jepa-inspector .js-plotly-plot .imagelayer image, .jepa-inspector .heatmaplayer image")
    assert f"last batch at step {held}" in lab.text(".jepa-inspector")
    lab.screenshot("inspected")
    lab.click("hide")
    lab.page.wait_for_selector(".jepa-inspector", state="hidden")

    lab.click("step")
    lab.wait_until(lambda: lab.step == held + 1 and lab.state == "paused", "exactly one step")

    for rate in ("4e-4", "1e9", "1e-3"):
        lab.apply_rate(rate)
        wanted = f"{float(rate):.4g} from step {held + 2}" if rate != "1e9" else "learning_rate must lie in [0, 1000]"
        lab.wait_until(lambda wanted=wanted: wanted in lab.said, f"an answer to {rate}")
    first, second = journal(run, "Set")
    assert [edit["result"]["new"] for edit in (first, second)] == [4e-4, 1e-3]
    assert second["result"]["old"] == pytest.approx(4e-4)
    assert first["result"]["old"] < 4e-4
    assert {edit["source"] for edit in (first, second)} == {"panel"}
    lab.wait_until(lambda: lab.curves.get("commands") == [held + 1] * 2, "the edits in the chart")

    reload_keeps_everything(lab)
    assert lab.state == "paused"
    assert lab.step == held + 1

    lab.click("resume")
    lab.wait_until(lambda: lab.step > held + 60, "more steps")
    records = [line for line in read_lines(run / "metrics" / "train.jsonl") if "learning_rate" in line]
    after = next(record for record in records if record["step"] > held + 1)
    growth = after["step"] / (held + 1)  # the edit came in the warm-up, which goes on from the new rate
    assert 1e-3 <= after["learning_rate"] <= 1e-3 * growth * 1.01
    assert max(record["learning_rate"] for record in records if record["step"] <= held) < 4e-4

    lab.click("checkpoint")
    lab.wait_until(lambda: "written: " in lab.said, "a checkpoint")
    assert (lab.folder / lab.said.split("written: ")[1]).exists()
    lab.screenshot("edited")

    reload_keeps_everything(lab)
    assert lab.state == "running"
    step = lab.step
    lab.wait_until(lambda: lab.step > step, "steps after the reload")
    lab.click("pause")
    lab.wait_for_state("paused")
    lab.click("resume")
    lab.wait_for_state("running")

    lab.click("stop")
    lab.wait_for_state("stopped")
    assert (
        lab.kernel("print(sorted(scores), run.state)")
        == "['raw pixels', 'trained encoder', 'untrained encoder'] stopped"
    )
    assert "'trained encoder'" in lab.kernel("print(list(Out.values())[-1])"), "the cell with the assertions"
    assert json.loads((run / "status.json").read_text())["state"] == "stopped"
    assert lab.page.errors == []


def test_the_saved_notebook_shows_the_final_curves_without_a_kernel(lab: Lab) -> None:
    lab.open(num_epochs=2)
    lab.run_all()
    last = "no step was trained"
    lab.wait_until(lambda: lab.executed(last), "the last cell", 90)
    lab.wait_until(lambda: lab.state == "finished", "the end in the panel")
    lab.screenshot("finished")
    lab.save()
    assert lab.page.errors == []

    file = lab.folder / "00_quickstart.ipynb"
    notebook = json.loads(file.read_text(encoding="utf-8"))
    assert "widgets" not in notebook["metadata"]
    assert file.stat().st_size < 1_000_000
    (cell,) = [cell for cell in notebook["cells"] if "create_trainer(" in "".join(cell["source"])]
    panel, curves = [output["data"] for output in cell["outputs"]]
    assert WIDGET in panel
    assert WIDGET not in curves
    assert {trace["name"] for trace in curves[PLOTLY]["data"]} == {"training"}
    assert max(curves[PLOTLY]["data"][0]["x"]) == 2 * 21
    assert len(curves["image/png"]) > 10_000
    final = next(cell for cell in notebook["cells"] if last in "".join(cell["source"]))
    assert [output["output_type"] for output in final["outputs"]] == ["execute_result"]

    lab.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    lab.reload()
    shown = lab.wait_until(lambda: lab.page.evaluate(HEIGHT_OF_PICTURE), "the curves in the reopened notebook")
    assert shown > 200
    lab.page.errors.clear()  # the panel has no kernel to talk to now, and says so


def test_running_the_trainer_cell_again_stops_the_old_run_with_a_checkpoint(lab: Lab) -> None:
    first = start(lab)
    lab.interrupt()
    lab.wait_until(lambda: lab.executed("await run"), "the end of the wait")
    step = lab.step
    lab.wait_until(lambda: lab.step > step + 20, "training goes on although the wait was interrupted")

    lab.run_cell("create_trainer(")
    lab.wait_until(lambda: len(lab.runs()) == 2, "a second run")
    stderr = lab.page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']")
    block = stderr.filter(has_text="stopped the run that trained this model, at step")
    message = lab.wait_until(lambda: block.count() and block.first.inner_text(), "a word in the cell")
    (checkpoint,) = [word.strip("()") for word in message.split() if word.rstrip(")").endswith(".pt")]
    assert Path(checkpoint).exists()
    assert Path(checkpoint).is_relative_to(first)
    assert read_lines(first / "journal.jsonl")[-1]["state"] == "stopped"

    lab.wait_for_state("running")
    assert lab.page.locator(".jepa-control-panel").count() == 1
    lab.wait_until(lambda: lab.step > 0 and lab.curves.get("loss", [0])[0] == 1, "curves of the new run from its start")
    lab.click("stop")
    lab.wait_for_state("stopped")


def test_a_click_is_acknowledged_at_once(lab: Lab) -> None:
    start(lab)
    taken = []
    for number in range(10):
        for name, state in (("pause", "paused"), ("resume", "running")):
            lab.page.wait_for_selector(f".jepa-{name}:not([disabled])")
            taken.append(
                lab.page.evaluate(
                    """async ([name, state]) => {
                        const begin = performance.now();
                        document.querySelector(`.jepa-${name}`).click();
                        while (document.querySelector(".jepa-state").textContent !== state) {
                            if (performance.now() - begin > 20000) throw new Error(`no ${state} within 20 s`);
                            await new Promise(requestAnimationFrame);
                        }
                        return performance.now() - begin;
                    }""",
                    [name, state],
                )
            )
        assert len(taken) == 2 * number + 2
    print(
        f"click to acknowledged: median {statistics.median(taken):.0f} ms, slowest {max(taken):.0f} ms of {len(taken)}"
    )
    assert statistics.median(taken) < 1000
    lab.click("stop")
    lab.wait_for_state("stopped")
