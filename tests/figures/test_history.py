"""The curves of runs: which appear, what they are called, and that their length is bounded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from jepa.figures import history_figure

RECORDS = [
    {"step": step, "loss": 1.0 / step, "learning_rate": 1e-3, "ema_momentum": 0.99, "embedding_std": 0.5}
    for step in range(1, 21)
]
PANELS = ["loss", "learning rate", "EMA momentum", "embedding std", "effective rank", "gradient norm"]


def curves(figure: Any) -> dict[tuple[str, str], Any]:
    """Traces by panel and name."""
    axes = {f"x{number if number > 1 else ''}": panel for number, panel in enumerate(PANELS, start=1)}
    return {(axes[trace.xaxis], trace.name): trace for trace in figure.data}


def test_every_metric_has_its_panel_and_only_what_was_measured_is_drawn() -> None:
    figure = history_figure(RECORDS, title="digits")
    assert [note.text for note in figure.layout.annotations] == PANELS
    drawn = curves(figure)
    assert set(drawn) == {(panel, "training") for panel in PANELS[:4]}
    loss = drawn["loss", "training"]
    assert list(loss.x) == list(range(1, 21))
    assert list(loss.y) == pytest.approx([1 / step for step in range(1, 21)])
    assert figure.layout.title.text == "digits"


def test_validation_is_a_curve_of_its_own_beside_the_training_loss() -> None:
    records = [*RECORDS, {"step": 10, "val_loss": 0.4}, {"step": 20, "val_loss": 0.3}]
    drawn = curves(history_figure(records))
    validation = drawn["loss", "validation"]
    assert (list(validation.x), list(validation.y)) == ([10, 20], [0.4, 0.3])
    assert validation.line.color != drawn["loss", "training"].line.color
    assert validation.mode == "lines+markers", "two points are seen"


def test_runs_are_told_apart_by_name_and_colour() -> None:
    figure = history_figure({"a": RECORDS, "b": SimpleNamespace(records=RECORDS[:5])})
    drawn = curves(figure)
    assert {name for _, name in drawn} == {"a", "b"}
    assert drawn["loss", "a"].line.color != drawn["loss", "b"].line.color
    assert len(drawn["loss", "b"].x) == 5
    legend = [trace.name for trace in figure.data if trace.showlegend]
    assert legend == ["a", "b"]


def test_long_histories_are_thinned_and_keep_their_peaks() -> None:
    records: list[dict[str, float]] = [{"step": step, "loss": 1.0} for step in range(20_000)]
    records[12_345]["loss"] = 50.0
    records[777]["loss"] = -3.0
    (trace,) = history_figure(records, points=100).data
    assert len(trace.x) <= 100
    kept = dict(zip(trace.x, trace.y, strict=True))
    assert (kept[12_345], kept[777]) == (50, -3)


def test_a_rewound_run_shows_the_steps_that_count() -> None:
    records = [{"step": step, "loss": 9.0} for step in range(10)] + [{"step": step, "loss": 1.0} for step in (5, 6)]
    (trace,) = history_figure(records).data
    assert list(trace.x) == list(range(7))
    assert list(trace.y) == [9] * 5 + [1, 1]


def test_an_empty_history_is_an_empty_figure() -> None:
    assert len(history_figure([]).data) == 0


def test_anything_else_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="expected a History, a list of records or a mapping of runs, got int"):
        history_figure(3)
