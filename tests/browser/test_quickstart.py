"""The quickstart as a newcomer meets it: watched, steered and reloaded in JupyterLab while it trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from nbconvert import HTMLExporter

from jepa.files import read_lines

if TYPE_CHECKING:
    from tests.browser.conftest import Lab

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

LONG = 100_000  # epochs: more than any test lives
CURVES = {"loss", "learning_rate", "ema_momentum", "embedding_std", "effective_rank", "grad_norm"}
WIDGET = "application/vnd.jupyter.widget-view+json"
PLOTLY = "application/vnd.plotly.v1+json"
# Of the outputs of the trainer's cell that are to be seen: what they are, and their heights.
SHOWN_OF_THE_RUN = """() => {
    const cells = window.jupyterapp.shell.currentWidget?.content?.widgets ?? [];
    const cell = cells.find(cell => cell.model.sharedModel.getSource().includes("create_trainer("));
    const kind = output => output.querySelector(".jepa-run-view") ? "live"
        : output.querySelector("img, .js-plotly-plot") ? "figure" : "other";
    return [...cell?.node.querySelectorAll(".jp-OutputArea-child") ?? []]
        .map(output => [kind(output), output.getBoundingClientRect().height])
        .filter(([kind, height]) => height > 0 && !(kind === "other" && height < 40));
}"""
FIGURE_IN_THE_PAGE = """() => {
    const cell = window.jupyterapp.shell.currentWidget.content.widgets.find(
        cell => cell.model.sharedModel.getSource().includes("create_trainer("));
    return cell.model.sharedModel.getOutputs().map(output => output.data ?? {}).find(data => data["image/png"]) ?? {};
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


def figure_in_the_page(lab: Lab) -> dict[str, Any]:
    """The figure beside the live view, as the notebook would be saved with it."""
    return lab.page.evaluate(FIGURE_IN_THE_PAGE)


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
    lab.wait_until(lambda: lab.curves.get("commands") == [held + 1], "the edits in the chart")

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

    lab.click("stop")
    lab.wait_for_state("stopped")
    assert (
        lab.kernel("print(sorted(scores), run.state)")
        == "['raw pixels', 'trained encoder', 'untrained encoder'] stopped"
    )
    assert "'trained encoder'" in lab.kernel("print(list(Out.values())[-1])"), "the cell with the assertions"
    assert json.loads((run / "status.json").read_text())["state"] == "stopped"
    assert lab.page.errors == []


def outputs_of_the_run(lab: Lab) -> list[dict[str, Any]]:
    """What the saved notebook holds of the run: the live view, the figure, and what tells which of them to show."""
    notebook = json.loads((lab.folder / "00_quickstart.ipynb").read_text(encoding="utf-8"))
    assert "widgets" not in notebook["metadata"]
    (cell,) = [cell for cell in notebook["cells"] if "create_trainer(" in "".join(cell["source"])]
    return [output["data"] for output in cell["outputs"] if "data" in output]


def figure_is_shown_without_a_kernel(lab: Lab, figure: str) -> None:
    """Reopen the notebook without a kernel, and find the figure alone; and in its HTML; `figure` is its PNG."""
    lab.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    lab.reload()
    heights = lab.wait_until(lambda: lab.page.evaluate(SHOWN_OF_THE_RUN), "the curves in the reopened notebook")
    assert [kind for kind, _ in heights] == ["figure"]
    assert heights[0][1] > 200
    lab.page.errors.clear()  # the panel has no kernel to talk to now, and says so

    html, _ = HTMLExporter().from_filename(str(lab.folder / "00_quickstart.ipynb"))
    with lab.page.context.browser.new_page() as page:
        page.set_content(html, wait_until="domcontentloaded")
        assert page.locator(f"img[src^='data:image/png;base64,{figure[:60]}']").bounding_box()["height"] > 200


def test_the_notebook_saved_while_the_run_trains_shows_curves_without_a_kernel(lab: Lab) -> None:
    start(lab)
    lab.wait_until(lambda: "image/png" in figure_in_the_page(lab), "the figure")
    assert [kind for kind, _ in lab.page.evaluate(SHOWN_OF_THE_RUN)] == ["live"]
    lab.click("pause")
    lab.wait_for_state("paused")
    step = 10 * (lab.step // 10)  # of the last record
    lab.wait_until(lambda: figure_in_the_page(lab)[PLOTLY]["data"][0]["x"][-1] == step, "the figure of the pause")
    lab.save()
    assert (lab.folder / "00_quickstart.ipynb").stat().st_size < 1_000_000
    live, figure, _ = outputs_of_the_run(lab)
    assert WIDGET in live
    assert len(json.dumps(figure)) <= 100_000
    assert figure[PLOTLY]["data"][0]["x"][-1] == step
    assert lab.page.errors == []
    figure_is_shown_without_a_kernel(lab, figure["image/png"])


def test_the_saved_notebook_shows_the_final_curves_without_a_kernel(lab: Lab) -> None:
    lab.open(num_epochs=2)
    lab.run_all()
    last = "no step was trained"
    lab.wait_until(lambda: lab.executed(last), "the last cell", 90)
    lab.wait_until(lambda: lab.state == "finished", "the end in the panel")
    assert [kind for kind, _ in lab.page.evaluate(SHOWN_OF_THE_RUN)] == ["live"]
    lab.screenshot("finished")
    lab.save()
    assert lab.page.errors == []

    assert (lab.folder / "00_quickstart.ipynb").stat().st_size < 1_000_000
    live, figure, _ = outputs_of_the_run(lab)
    assert WIDGET in live
    assert {trace["name"] for trace in figure[PLOTLY]["data"]} == {"training"}
    assert max(figure[PLOTLY]["data"][0]["x"]) == 2 * 21
    assert len(json.dumps(figure)) <= 100_000
    figure_is_shown_without_a_kernel(lab, figure["image/png"])


def test_the_parts_of_the_panel_answer(lab: Lab) -> None:
    run = start(lab)
    lab.click("pause")
    lab.wait_for_state("paused")
    held = lab.step
    lab.page.locator(".jepa-step-number").fill("3")
    lab.click("step")
    lab.wait_until(lambda: lab.step == held + 3 and lab.state == "paused", "three steps")
    lab.page.locator(".jepa-step-number").fill("none")
    lab.click("step")
    lab.wait_until(lambda: "must be a whole number from 1 on, got 'none'" in lab.text(".jepa-run-buttons"), "an error")

    lab.page.locator(".jepa-parameter-ema_momentum .jepa-mode").select_option("hold")
    lab.page.locator(".jepa-ema-momentum").fill("0.9")
    lab.page.locator(".jepa-ema-momentum").press("Enter")
    lab.wait_until(lambda: lab.said.startswith("ema momentum 0.99"), "the edit")
    lab.wait_until(lambda: lab.text(".jepa-parameter-ema_momentum .jepa-present") == "0.9", "the present value")
    (edit,) = journal(run, "Set")
    assert edit["result"]["mode"] == "hold"

    lab.page.locator(".jepa-checkpoint-list summary").click()
    lab.page.locator("tr", has_text="the beginning").locator(".jepa-rewind").click()
    lab.wait_until(lambda: lab.step == 0, "the beginning")
    lab.page.locator(".jepa-fork-name").fill("branch")
    lab.page.locator("tr", has_text="the beginning").locator(".jepa-fork").click()
    lab.wait_until(lambda: any(folder.name == "branch" for folder in lab.runs()), "the fork")
    lab.screenshot("checkpoints")
    lab.page.set_viewport_size({"width": 800, "height": 1000})
    lab.screenshot("narrow")
    wide = "() => { const e = document.querySelector('.jepa-control-panel'); return e.scrollWidth - e.clientWidth; }"
    assert lab.page.evaluate(wide) <= 1
    assert lab.page.errors == []


def test_running_the_trainer_cell_again_stops_the_old_run_with_a_checkpoint(lab: Lab) -> None:
    first = start(lab)
    lab.interrupt()
    lab.wait_until(lambda: lab.executed("await run"), "the end of the wait")
    step = lab.step
    lab.wait_until(lambda: lab.step > step + 20, "training goes on although the wait was interrupted")

    # an interrupted cell makes the kernel turn down, for a moment, whatever else it is asked
    lab.wait_until(lambda: lab.kernel("print('ready')") == "ready", "a kernel that takes requests again")
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
