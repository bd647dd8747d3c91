"""The quick picture of curves."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor

from jepa.figures import history_figure, to_png
from jepa.figures.sketch import sketch
from jepa.figures.style import COLOURS

METRICS = ("loss", "val_loss", "learning_rate", "ema_momentum", "embedding_std", "effective_rank", "grad_norm")
WIDTH, HEIGHT = 840, 480


def as_json(records: list[dict[str, float]], **options: Any) -> dict[str, Any]:
    return json.loads(history_figure(records, **options).to_json())


def drawn(figure: dict[str, Any]) -> np.ndarray:
    picture = Image.open(io.BytesIO(sketch(figure, WIDTH, HEIGHT)))
    assert picture.size == (WIDTH, HEIGHT)
    return np.asarray(picture.convert("RGB")).astype(int)


def rows_of(picture: np.ndarray, colour: str) -> tuple[np.ndarray, np.ndarray]:
    """Where pixels of about this colour are: rows and columns."""
    rows, columns = np.nonzero(np.abs(picture - ImageColor.getrgb(colour)).sum(-1) < 90)
    return rows, columns


def test_a_curve_runs_through_its_panel_from_corner_to_corner_on_white() -> None:
    picture = drawn(as_json([{"step": step, "loss": float(step)} for step in range(100)]))
    rows, columns = rows_of(picture, COLOURS[0])
    figure = as_json([{"step": 0, "loss": 0.0}])
    right = 60 + figure["layout"]["xaxis"]["domain"][1] * (WIDTH - 80)
    assert columns.min() == pytest.approx(60, abs=2)
    assert columns.max() == pytest.approx(right, abs=2)
    assert rows[columns.argmin()] > rows[columns.argmax()] + 100, "it rises"
    assert (picture == 255).all(-1).mean() > 0.8


def test_validation_has_a_colour_of_its_own_and_every_panel_its_curve() -> None:
    records = [{"step": step, **{name: float(step % 7) for name in METRICS}} for step in range(50)]
    records = [{**record, "val_loss": 3.0} for record in records]
    picture = drawn(as_json(records, title="a run"))
    assert len(rows_of(picture, COLOURS[1])[0]) > 100
    rows, columns = rows_of(picture, COLOURS[0])
    halves, thirds = rows > HEIGHT / 2, columns * 3 // WIDTH
    assert {(half, third) for half, third in zip(halves.tolist(), thirds.tolist(), strict=True)} == {
        (half, third) for half in (False, True) for third in range(3)
    }


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0, 2.0], [0.0, 0.0], [1e-12, 3e-12], [1e9, 4e12], [-5.0, 1e-30]])
def test_any_range_of_values_can_be_drawn(values: list[float]) -> None:
    picture = drawn(as_json([{"step": step, "loss": value} for step, value in enumerate(values)]))
    assert len(rows_of(picture, COLOURS[0])[0]) > 5


def test_it_takes_less_than_a_third_of_what_matplotlib_takes() -> None:
    records = [{"step": step, **dict.fromkeys(METRICS, float(step % 13))} for step in range(200)]
    figure = history_figure(records)
    content = json.loads(figure.to_json())
    taken: dict[str, list[float]] = {"sketch": [], "matplotlib": []}
    for _ in range(3):
        for name, draw in (("sketch", lambda: sketch(content, WIDTH, HEIGHT)), ("matplotlib", lambda: to_png(figure))):
            start = time.thread_time()
            draw()
            taken[name].append(time.thread_time() - start)
    assert min(taken["sketch"]) < min(taken["matplotlib"]) / 3
