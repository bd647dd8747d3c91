"""The last batch in words and as a picture."""

from __future__ import annotations

import json

import pytest
import torch
from jepa_widgets import Inspector

from jepa.data.memory import MemoryLoader
from jepa.models import JEPA, Encoder, ImageTokenizer, MaskedPredictor, Predictor
from jepa.trainer import create_trainer
from jepa.trainer.inspection import inspect


def test_it_takes_no_room_before_something_is_shown() -> None:
    assert Inspector().layout.display == "none"


@pytest.mark.parametrize("objective", ["state_pair", "ijepa"])
def test_it_shows_statistics_and_a_picture_of_real_batches_until_it_is_hidden(objective: str) -> None:
    if objective == "ijepa":
        tokenizer = ImageTokenizer(8, 2)
        model = JEPA(Encoder(8, depth=1, tokenizer=tokenizer), MaskedPredictor(8, tokenizer.grid, depth=1))
        loader = MemoryLoader(torch.randint(0, 256, (16, 1, 8, 8), dtype=torch.uint8), batch_size=8)
    else:
        model = JEPA(Encoder(8, 4, depth=1), Predictor(8, depth=1))
        loader = MemoryLoader(torch.randn(16, 4), torch.randn(16, 4), batch_size=8)
    trainer = create_trainer(model, objective, run=False)
    trainer.train(loader, max_steps=2)
    inspection = inspect(trainer)

    inspector = Inspector()
    inspector.show(inspection)
    line, picture = inspector.children[0].children[0], inspector.children[1]
    assert "last batch at step 2" in line.value
    for name in ("loss", "embedding_std", "effective_rank"):
        assert f"{name.replace('_', ' ')} <b>{inspection.stats[name]:.4g}</b>" in line.value
    assert len(json.loads(picture.figure)["data"]) >= 3
    assert inspector.layout.display == ""

    inspector.children[0].children[1].click()
    assert inspector.layout.display == "none"
