"""The inspector: its tabs, what they draw and when, and where it says what it cannot draw."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from jepa_widgets import BatchTab, Choice, HistoryTab, Inspector, ModelTab

from jepa.data.memory import MemoryLoader
from jepa.models import JEPA, Encoder, ImageTokenizer, MaskedPredictor, Predictor
from jepa.trainer import Inspection, create_trainer
from jepa.trainer.inspection import inspect


def look(objective: str, folder: Path | None = None, **options: Any) -> Inspection:
    if objective == "ijepa":
        tokenizer = ImageTokenizer(8, 2)
        model = JEPA(Encoder(8, depth=2, tokenizer=tokenizer), MaskedPredictor(8, tokenizer.grid, depth=1))
        loader = MemoryLoader(torch.randint(0, 256, (16, 1, 8, 8), dtype=torch.uint8), batch_size=8)
    else:
        model = JEPA(Encoder(8, 4, depth=1), Predictor(8, depth=1))
        loader = MemoryLoader(torch.randn(16, 4), torch.randn(16, 4), batch_size=8)
    trainer = create_trainer(model, objective, run=folder or False)
    trainer.train(loader, max_steps=2)
    return inspect(trainer, **options)


def kinds(tab: Any, name: str) -> set[str]:
    text = tab.figures[name].figure
    return {trace["type"] for trace in json.loads(text)["data"]} if text else set()


def choose(choice: Choice, value: str) -> None:
    choice._handle_custom_msg({"event": "choose", "value": value}, [])


def test_it_takes_no_room_before_something_is_shown() -> None:
    assert Inspector().layout.display == "none"


@pytest.mark.parametrize("objective", ["state_pair", "ijepa"])
def test_it_shows_statistics_and_a_picture_of_real_batches_until_it_is_hidden(objective: str) -> None:
    inspection = look(objective)
    inspector = Inspector()
    inspector.show(inspection)
    line = inspector.children[0].children[0]
    assert "last batch at step 2" in line.value
    for name in ("loss", "embedding_std", "effective_rank"):
        assert f"{name.replace('_', ' ')} <b>{inspection.stats[name]:.4g}</b>" in line.value
    batch = inspector.tabs["Batch"]
    assert kinds(batch, "views") == ({"image"} if objective == "ijepa" else {"heatmap"})
    assert kinds(batch, "losses") == {"bar", "image" if objective == "ijepa" else "scatter"}
    assert kinds(batch, "tensors") == {"table"}
    assert batch.error.value == ""
    assert inspector.layout.display == ""

    inspector.children[0].children[1].click()
    assert inspector.layout.display == "none"


def test_a_tab_is_drawn_when_it_is_opened_and_then_once_an_inspection(tmp_path: Path) -> None:
    inspector = Inspector()
    inspector.show(look("ijepa", tmp_path / "run"))
    model = inspector.tabs["Model"]
    assert (model.layout.display, kinds(model, "modules")) == ("none", set())
    inspector.buttons["Model"].click()
    assert (model.layout.display, inspector.tabs["Batch"].layout.display) == ("", "none")
    assert [kinds(model, name) for name in model.figures] == [{"table"}, {"bar"}, {"heatmap"}]
    for name, first in (("Embeddings", "map"), ("History", "journal")):
        inspector.buttons[name].click()
        assert kinds(inspector.tabs[name], first)
        assert inspector.tabs[name].error.value == ""
    shown = inspector.tabs["History"].inspection
    inspector.show(look("state_pair"))
    assert inspector.tabs["History"].inspection is not shown
    assert model.inspection is shown
    with pytest.raises(ValueError, match="there is no tab 'Weights'; there are Batch, Model, Embeddings, History"):
        inspector.turn_to("Weights")


def test_block_and_sample_are_chosen_by_message_and_stay_with_the_next_inspection() -> None:
    tab = ModelTab()
    inspection = look("ijepa")
    tab.show(inspection)
    assert tab.block.options == list(inspection.attention)
    choose(tab.block, "predictor.blocks.0")
    choose(tab.sample, "1")
    assert json.loads(tab.figures["attention"].figure)["layout"]["title"]["text"] == "predictor.blocks.0, sample 1"
    choose(tab.block, "no such block")
    assert tab.block.value == "predictor.blocks.0"
    tab.show(look("ijepa"))
    assert tab.block.value == "predictor.blocks.0"


def test_what_cannot_be_drawn_is_said_in_the_tab_and_leaves_the_other_figures() -> None:
    tab = BatchTab()
    tab.show(look("state_pair", parts=()))
    assert "losses: there are no losses of single samples: ask for them" in tab.error.value
    assert (kinds(tab, "views"), kinds(tab, "losses"), kinds(tab, "tensors")) == ({"heatmap"}, set(), {"table"})
    tab.show(look("state_pair"))
    assert tab.error.value == ""
    assert kinds(tab, "losses")


def test_the_history_is_filtered_by_event_and_a_missing_one_is_said(tmp_path: Path) -> None:
    inspection = look("state_pair", tmp_path / "run")
    tab = HistoryTab()
    tab.show(inspection)
    choose(tab.event, "RunEnded")
    (trace,) = json.loads(tab.figures["journal"].figure)["data"]
    assert set(trace["cells"]["values"][2]) == {"RunEnded"}
    tab.show(dataclasses.replace(inspection, folder=None))
    assert "this run writes no folder" in tab.error.value
    tab.show(dataclasses.replace(inspection, folder=tmp_path))
    assert "is not the folder of a run" in tab.error.value
