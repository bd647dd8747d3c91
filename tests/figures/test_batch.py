"""A look at a batch: pictures with masks, or rows of numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from jepa.figures import batch_figure, to_png
from jepa.models import JEPA, Encoder, ImageTokenizer, MaskedPredictor, SeriesTokenizer
from jepa.objectives import IJEPA, Draw


def inspection(views: dict[str, Tensor], grid: tuple[int, ...] | None = None) -> Any:
    return SimpleNamespace(step=12, views=views, embedding=torch.randn(8, 16), grid=grid)


def masked_views(tokenizer: Any, batch: Tensor) -> dict[str, Tensor]:
    model = JEPA(Encoder(8, depth=1, tokenizer=tokenizer), MaskedPredictor(8, tokenizer.grid, depth=1))
    return IJEPA(model).views(batch, Draw(0, 0))


def test_masked_images_are_shown_with_their_masks() -> None:
    tokenizer = ImageTokenizer(8, 2)
    figure = batch_figure(inspection(masked_views(tokenizer, torch.rand(8, 1, 8, 8)), tokenizer.grid), count=4)
    assert [trace.type for trace in figure.data] == ["image"] * 12
    assert figure.layout.title.text == "step 12"


def test_vectors_are_shown_as_rows_beside_their_embedding() -> None:
    views = {"context": torch.randn(8, 3), "target": torch.randn(8, 3)}
    figure = batch_figure(inspection(views), count=5)
    assert [note.text for note in figure.layout.annotations] == ["context", "target", "embedding"]
    context, _, embedding = figure.data
    torch.testing.assert_close(torch.tensor(context.z), views["context"][:5])
    assert torch.tensor(embedding.z).shape == (5, 16)


def test_token_sequences_images_without_masks_and_series_are_shown_too() -> None:
    tokenizer = SeriesTokenizer(24, 2)
    for case in (
        inspection({"context": torch.randn(8, 4, 3), "target": torch.randn(8, 4, 3)}),
        inspection({"context": torch.rand(8, 3, 6, 6), "target": torch.rand(8, 3, 6, 6)}),
        inspection(masked_views(tokenizer, torch.randn(8, 1, 24)), tokenizer.grid),
    ):
        figure = batch_figure(case)
        assert len(figure.data) == len(case.views) + 1
        assert to_png(figure).startswith(b"\x89PNG")
