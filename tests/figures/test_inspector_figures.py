"""Figures of batch, model, embeddings and journal: what they show, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from jepa.diagnostics import module_summary, record_attention
from jepa.figures import (
    attention_figure,
    batch_figure,
    dead_units_figure,
    journal_figure,
    journal_lines,
    losses_figure,
    module_figure,
    neighbours_figure,
    sample_inputs,
    spectrum_figure,
    tensors_figure,
    to_png,
    worst_samples_figure,
)
from jepa.models.layers import Block
from jepa.objectives import OBJECTIVES, Draw

PNG = b"\x89PNG"


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_samples_of_every_objective_can_be_drawn(name: str) -> None:
    torch.manual_seed(0)
    objective, data = OBJECTIVES[name].example()
    batch = torch.utils.data.default_collate([data[index] for index in range(8)])
    views = objective.views(batch, Draw(0, 0))
    losses = torch.rand(8)
    grid = getattr(getattr(objective.model.encoder, "tokenizer", None), "grid", None)
    seen = SimpleNamespace(
        step=3,
        batch=batch,
        views=views,
        embedding=torch.randn(8, 4),
        grid=grid,
        device="cpu",
        sample_losses=losses,
        sample_term=objective.sample_term,
        missing={},
    )
    assert len(sample_inputs(views)) == 8
    figure = losses_figure(seen, count=3)
    worst = losses.argsort(descending=True)[:3].tolist()
    assert [note.text for note in figure.layout.annotations] == [f"{row}: {float(losses[row]):.3g}" for row in worst]
    assert list(figure.data[-1].y) == pytest.approx(sorted(losses.tolist(), reverse=True))
    assert to_png(figure).startswith(PNG)
    pictures = {trace.type for trace in batch_figure(seen).data}
    assert pictures == ({"image"} if name in ("ijepa", "vjepa", "lejepa") else {"heatmap"})
    assert to_png(tensors_figure(seen)).startswith(PNG)


def test_a_loss_that_is_nan_is_the_worst_and_one_loss_a_sample_is_needed() -> None:
    figure = worst_samples_figure(torch.tensor([1.0, float("nan"), 2.0]), torch.rand(3, 1, 4, 4), count=1)
    assert figure.layout.annotations[0].text == "1: nan"
    with pytest.raises(ValueError, match=r"expected one loss a sample, \(B,\), got \(3,\) for 2 samples"):
        worst_samples_figure(torch.zeros(3), torch.rand(2, 1, 4, 4))
    with pytest.raises(ValueError, match="nothing to draw among the views tokens"):
        sample_inputs({"tokens": torch.zeros(1)})


def test_tensors_tell_their_range_and_what_is_missing() -> None:
    batch = (torch.tensor([[0.0, float("nan")], [3.0, 1.0]]),)
    seen = SimpleNamespace(
        step=1, batch=batch, views={"context": batch[0]}, embedding=torch.ones(2, 3), device="cuda:0"
    )
    columns = tensors_figure(seen).data[0].cells["values"]
    assert list(columns[0]) == ["batch.0", "views.context", "embedding"]
    assert [column[1] for column in columns][1:] == [
        "2×2",
        "float32",
        "cuda:0",
        "0",
        "3",
        "1.333",
        "1.247",
        "25 %",
        "25 %",
    ]


def test_modules_are_a_tree_with_empty_cells_where_nothing_is_known() -> None:
    figure = module_figure(module_summary(nn.Sequential(nn.Linear(3, 2))))
    name, kind, shapes, count, *_, grad, update = (list(column) for column in figure.data[0].cells["values"])
    assert (name, kind, shapes) == (["all", "0"], ["Sequential", "Linear"], ["", "weight 2×3, bias 2"])
    assert (count, grad, update) == (["8", "8"], ["", ""], ["", ""])
    with pytest.raises(ValueError, match=r"no modules to show; ask for them: run.inspect\(parts=\('model',\)\)"):
        module_figure([])


def test_dead_units_are_percentages() -> None:
    figure = dead_units_figure({"model.encoder.mlp": 0.25})
    assert (list(figure.data[0].x), list(figure.data[0].y)) == (["encoder.mlp"], [25.0])
    with pytest.raises(ValueError, match="no MLPs"):
        dead_units_figure({})


def test_each_head_of_the_chosen_block_is_a_picture() -> None:
    model = nn.ModuleDict({"one": Block(8, 2), "two": Block(8, 4)})
    with torch.no_grad(), record_attention(model) as seen:
        for block in model.values():
            block(torch.randn(3, 5, 8))
    figure = attention_figure(seen, "two", sample=1)
    assert len(figure.data) == 4
    torch.testing.assert_close(torch.tensor(figure.data[3].z), seen["two"].weights()[1, 3], atol=1e-4, rtol=0)
    assert len(attention_figure(seen).data) == 2
    assert to_png(figure).startswith(PNG)
    with pytest.raises(ValueError, match="no attention block 'three'; there are one, two"):
        attention_figure(seen, "three")
    with pytest.raises(ValueError, match=r"sample must be in \[0, 2\), those whose attention was noted, got 2"):
        attention_figure(seen, sample=2)


def test_the_spectrum_is_logarithmic_and_leaves_rounding_out() -> None:
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    figure = spectrum_figure(torch.cat([x, x], dim=1))
    assert len(figure.data[0].y) == 3
    assert figure.layout.yaxis.type == "log"
    assert figure.layout.title.text.endswith("of at most 6")
    assert to_png(figure).startswith(PNG)


def test_neighbours_are_drawn_beside_the_sample() -> None:
    x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.3]])
    figure = neighbours_figure(x, torch.rand(3, 1, 4, 4), 0, count=2)
    assert [note.text.split(":")[0] for note in figure.layout.annotations] == ["sample 0", "1", "2"]
    with pytest.raises(ValueError, match="one input an embedding, got 2 for 3"):
        neighbours_figure(x, torch.rand(2, 1, 4, 4))


@pytest.fixture
def lines() -> list[dict[str, Any]]:
    set_rate = {"type": "Set", "name": "learning_rate", "value": 0.003}
    return [
        {"tick": 0, "step": 0, "time": 0.0, "event": "RunStarted", "total_steps": 9},
        {"tick": 1, "step": 4, "time": 1.0, "event": "CommandApplied", "source": "panel", "command": set_rate},
        {"tick": 2, "step": 6, "time": 2.0, "event": "CommandRefused", "source": "handle", "command": {"type": "Fork"},
         "error": "<no> name"},
        {"tick": 3, "step": 9, "time": 3.0, "event": "CheckpointSaved", "path": "/far/away/step-9.pt"},
    ]  # fmt: skip


def test_the_journal_is_filtered_by_event_source_and_steps(lines: list[dict[str, Any]], tmp_path: Path) -> None:
    assert journal_lines(lines) == lines
    assert journal_lines(lines, events=("CommandApplied", "CommandRefused"), source="panel") == lines[1:2]
    assert journal_lines(lines, steps=(4, 6)) == lines[1:3]
    (tmp_path / "journal.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"torn')
    assert journal_lines(tmp_path) == lines
    what = list(journal_figure(tmp_path).data[0].cells["values"][4])
    assert what == ["path step-9.pt", "Fork: &lt;no&gt; name", "Set learning_rate 0.003", "total steps 9"]
    assert to_png(journal_figure(lines, steps=(100, 200))).startswith(PNG)


def test_a_filter_that_finds_nothing_by_a_wrong_name_says_what_there_is(
    lines: list[dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="has the event 'Set'; there are CheckpointSaved, CommandApplied, CommandRef"):
        journal_lines(lines, events=("Set",))
    with pytest.raises(ValueError, match="has the source 'me'; there are handle, panel"):
        journal_lines(lines, source="me")
    with pytest.raises(ValueError, match=r"events must be several names, such as \('RunStarted',\)"):
        journal_lines(lines, events="RunStarted")
    with pytest.raises(ValueError, match=r"first <= last, got \(5, 2\)"):
        journal_lines(lines, steps=(5, 2))
    with pytest.raises(FileNotFoundError, match=r"it has no journal.jsonl"):
        journal_lines(tmp_path)
