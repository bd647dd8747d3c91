"""A look at the last batch through the model of this moment."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from jepa.data import MemoryLoader
from jepa.diagnostics import effective_rank, embedding_std
from jepa.trainer import Inspection, JEPATrainer
from jepa.trainer.inspection import inspect

MakeTrainer = Callable[..., JEPATrainer]


def test_before_the_first_step_there_is_nothing_to_see(make_trainer: MakeTrainer) -> None:
    with pytest.raises(
        ValueError, match=r"nothing to inspect before the first step; let the run do one: run.step\(1\)"
    ):
        inspect(make_trainer())


def test_state_pairs_show_batch_views_and_statistics(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    trainer = make_trainer()
    trainer.train(loader, max_steps=4)
    look = inspect(trainer)
    assert look.step == 4
    assert torch.equal(look.batch[0], trainer.last_batch[0])
    assert torch.equal(look.views["context"], trainer.last_batch[0])
    assert torch.equal(look.views["target"], trainer.last_batch[1])
    with torch.no_grad():
        expected = trainer.model.encoder(trainer.last_batch[0])
    assert torch.equal(look.embedding, expected)
    assert look.stats["embedding_std"] == pytest.approx(float(embedding_std(expected)))
    assert look.stats["effective_rank"] == pytest.approx(float(effective_rank(expected)))
    assert look.stats["embedding_norm"] == pytest.approx(expected.norm(dim=1).mean().item())
    parts = look.stats["prediction"] + look.stats["variance"] + 2.5 * look.stats["covariance"]
    assert look.stats["loss"] == pytest.approx(parts)
    assert look.grid is None


def test_masks_are_those_the_model_was_trained_with(make_trainer: MakeTrainer, images: Tensor) -> None:
    trainer = make_trainer(objective="ijepa")
    trainer.train(MemoryLoader(images, batch_size=8), max_steps=3)
    first, second = inspect(trainer), inspect(trainer)
    assert first.grid == (4, 4)
    assert torch.equal(first.views["target_mask"], second.views["target_mask"])
    assert first.stats == second.stats
    seen = trainer.objective.views(trainer.last_batch, trainer.last_draw)
    assert torch.equal(first.views["context_mask"], seen["context_mask"])


def test_what_is_returned_is_a_copy_that_training_does_not_touch(
    make_trainer: MakeTrainer, loader: MemoryLoader
) -> None:
    trainer = make_trainer()
    trainer.train(loader, max_steps=4)
    look = inspect(trainer)
    kept = look.embedding.clone()
    look.embedding.add_(1.0)
    look.views["context"].zero_()
    assert torch.equal(inspect(trainer).embedding, kept)
    assert not look.embedding.requires_grad
    assert isinstance(look, Inspection)


def test_looking_changes_nothing(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    plain, watched = make_trainer(), make_trainer()
    for trainer in (plain, watched):
        trainer.train(loader, num_epochs=1)
    inspect(watched)
    assert watched.objective.training
    for trainer in (plain, watched):
        trainer.train(loader, num_epochs=2)
    for name, weight in plain.objective.state_dict().items():
        assert torch.equal(weight, watched.objective.state_dict()[name]), name
