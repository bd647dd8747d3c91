"""A look at the last batch through the model of this moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from jepa.data import MemoryLoader
from jepa.diagnostics import effective_rank, embedding_std
from jepa.trainer import Inspection, JEPATrainer
from jepa.trainer.control import Inspect
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


def test_samples_model_and_attention_are_looked_at_unless_they_are_left_out(
    make_trainer: MakeTrainer, loader: MemoryLoader
) -> None:
    trainer = make_trainer()
    trainer.train(loader, max_steps=4)
    look, cheap = inspect(trainer), inspect(trainer, ())
    assert look.sample_losses is not None
    assert float(look.sample_losses.mean()) == pytest.approx(look.stats[look.sample_term], rel=1e-5)
    assert {"encoder.blocks.0", "predictor.blocks.0"} <= set(look.attention)
    assert set(look.dead_units) >= {"model.encoder.blocks.0.mlp"}
    assert look.seconds > 0
    assert not look.missing
    assert cheap.sample_losses is None
    assert not [*cheap.modules, *cheap.attention, *cheap.dead_units]
    assert cheap.stats == look.stats


def test_norms_are_those_of_the_gradient_and_of_the_last_update(
    make_trainer: MakeTrainer, loader: MemoryLoader
) -> None:
    trainer = make_trainer()
    trainer.train(loader, max_steps=3)
    before = {name: p.detach().clone() for name, p in trainer.model.encoder.named_parameters()}
    trainer.train(loader, max_steps=4)
    encoder = next(module for module in inspect(trainer).modules if module.name == "model.encoder")
    moved = torch.cat([(p.detach() - before[name]).flatten() for name, p in trainer.model.encoder.named_parameters()])
    assert encoder.update_norm == pytest.approx(float(moved.norm()), rel=1e-3)

    assert trainer.last_batch is not None
    assert trainer.last_draw is not None
    losses = trainer.objective(trainer.objective.views(trainer.last_batch, trainer.last_draw), trainer.rates.hyper)
    losses.loss.backward()
    grads = torch.cat([p.grad.flatten() for p in trainer.model.encoder.parameters() if p.grad is not None])
    assert encoder.grad_norm == pytest.approx(float(grads.norm()), rel=1e-5)


def test_what_cannot_be_told_is_said(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    trainer = make_trainer()
    trainer.train(loader, max_steps=2)
    trainer.optimizer = torch.optim.SGD(trainer.objective.parameters(), lr=0.1)
    trainer.objective.sample_losses = lambda views: None  # type: ignore[method-assign]
    look = inspect(trainer)
    assert look.missing["update_norm"].startswith("the state of SGD does not tell")
    assert look.missing["samples"].startswith("objective 'state_pair' does not tell the losses of its samples apart")
    assert look.modules[0].update_norm is None
    assert look.modules[0].grad_norm is not None


def test_parts_are_asked_for_by_command(make_trainer: MakeTrainer, loader: MemoryLoader, make_gate: Any) -> None:
    gate = make_gate(3)
    trainer = make_trainer(callbacks=[gate])
    run = trainer.start(loader, max_steps=5, wait=False)
    assert gate.reached.wait(30)
    asked = run.inspect(parts=["samples"])
    gate.opened.set()
    asked.result(30)
    assert asked.value.step == 3
    assert asked.value.sample_losses is not None
    assert not asked.value.modules
    assert asked.command.as_data()["parts"] == ("samples",)
    run.wait(30)
    with pytest.raises(ValueError, match=r"parts must be names of 'samples', 'model', 'attention'.*\('weights',\)"):
        Inspect(("weights",))
