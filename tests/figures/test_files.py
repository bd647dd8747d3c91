"""Figures as files: every figure of the package becomes a real picture, without a browser."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from PIL import Image

from jepa.figures import (
    coverage_figure,
    embedding_map,
    history_figure,
    image_row,
    mask_figure,
    probe_figure,
    save_figure,
    to_png,
)

RECORDS = [{"step": step, "loss": 1 / step, "val_loss": 2 / step, "effective_rank": step} for step in range(1, 9)]
FIGURES: dict[str, Any] = {
    "history": lambda: history_figure(RECORDS, title="a run"),
    "runs": lambda: history_figure({"a": RECORDS, "b": RECORDS[:2]}),
    "empty history": lambda: history_figure([]),
    "map": lambda: embedding_map(torch.randn(40, 5), torch.arange(40) % 10),
    "probe": lambda: probe_figure({"trained": [90.0, 91.0], "raw": 70.0}),
    "coverage": lambda: coverage_figure({"ours": tuple(torch.rand(2, 4, 4))}),
    "row": lambda: image_row(torch.rand(3, 1, 8, 8), ["a", "b", "c"]),
    "masks": lambda: mask_figure(torch.rand(4, 1, 8, 8), torch.tensor([[0]] * 4), torch.tensor([[1]] * 4), (2, 2)),
}


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def near(picture: np.ndarray, colour: str, tolerance: int = 40) -> int:
    """Pixels of about that colour."""
    wanted = np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)])
    return int((np.abs(picture - wanted).max(axis=2) < tolerance).sum())


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_becomes_a_picture_of_its_own_size(name: str) -> None:
    figure = FIGURES[name]()
    picture = pixels(to_png(figure))
    height, width = figure.layout.height, figure.layout.width or 800
    assert picture.shape == (height, width, 3)
    if name != "empty history":
        assert picture.std() > 5, "blank"


def test_the_size_can_be_chosen() -> None:
    assert pixels(to_png(FIGURES["history"](), width=500, height=300)).shape == (300, 500, 3)


def test_the_picture_shows_the_curves_in_the_colours_of_the_figure() -> None:
    figure = FIGURES["history"]()
    training, validation = (next(t for t in figure.data if t.name == n).line.color for n in ("training", "validation"))
    picture = pixels(to_png(figure))
    assert near(picture, training) > 100
    assert near(picture, validation) > 100
    assert near(pixels(to_png(history_figure([{"step": s, "loss": s} for s in range(9)]))), validation) == 0


def test_the_picture_shows_images_the_right_way_up() -> None:
    image = torch.zeros(1, 1, 8, 8)
    image[:, :, :4] = 1

    def height_of_dark(image: torch.Tensor) -> float:
        picture = pixels(to_png(image_row(image)))
        return float(np.flatnonzero(picture[:, picture.shape[1] // 2].mean(axis=1) < 40).mean())

    assert height_of_dark(image) > height_of_dark(image.flip(2)) + 20, "row 0 is at the top"


def test_a_trace_that_cannot_be_drawn_is_named() -> None:
    with pytest.raises(ValueError, match="cannot draw a 'pie' trace as PNG; known: scatter, bar, heatmap, image"):
        to_png(go.Figure(go.Pie(values=[1, 2])))


@pytest.mark.slow
def test_drawing_leaves_no_global_figure_behind() -> None:
    code = (
        "import sys; from jepa.figures import history_figure, to_png; "
        "to_png(history_figure([{'step': 1, 'loss': 1.0}])); "
        "print([name for name in ('matplotlib.pyplot', 'kaleido', 'IPython', 'tkinter') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_figure_is_written_by_suffix_into_folders_that_it_creates(tmp_path: Path) -> None:
    figure = FIGURES["history"]()
    folder = tmp_path / "new" / "folder"
    for suffix in (".html", ".png", ".json"):
        assert save_figure(figure, str(folder / f"curves{suffix}")) == folder / f"curves{suffix}"
    page = (folder / "curves.html").read_text(encoding="utf-8")
    assert "<script src=" not in page, "opens offline"
    assert len(page) > 10**6, "plotly itself is inside"
    assert pixels((folder / "curves.png").read_bytes()).std() > 5
    assert len(json.loads((folder / "curves.json").read_text())["data"]) == len(figure.data)
    assert sorted(path.name for path in folder.iterdir()) == ["curves.html", "curves.json", "curves.png"]


def test_another_suffix_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    for name in ("curves.pdf", "curves", "curves.PNG.txt"):
        with pytest.raises(ValueError, match=rf"written as .html, .png or .json, got '{name}'"):
            save_figure(FIGURES["probe"](), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_an_old_picture_survives_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save_figure(FIGURES["probe"](), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="cannot draw"):
        save_figure(go.Figure(go.Pie(values=[1])), path)
    assert path.read_bytes() == before
