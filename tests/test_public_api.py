"""Every call of the published interface, as it is written there."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from jepa.models import JEPA
from jepa.models.encoder import Encoder
from jepa.models.predictor import Predictor
from jepa.trainer import JEPATrainer, create_trainer
from jepa.trainer.eval import JEPAEvaluator
from jepa.trainer.utils import (
    count_parameters,
    create_data_splits,
    get_device_info,
    load_training_config,
    log_model_summary,
    plot_training_history,
    save_training_config,
    setup_reproducibility,
)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def train_dataset() -> TensorDataset:
    """(state_t, state_t1) pairs."""
    states = torch.randn(129, 256, generator=torch.Generator().manual_seed(0))
    return TensorDataset(states[:-1], states[1:])


def small() -> JEPA:
    """The same, quicker."""
    return JEPA(encoder=Encoder(hidden_dim=256, depth=1), predictor=Predictor(hidden_dim=256, depth=1))


def test_creating_a_trainer(train_dataset: TensorDataset) -> None:
    encoder = Encoder(hidden_dim=256)
    predictor = Predictor(hidden_dim=256)
    model = JEPA(encoder=encoder, predictor=predictor)
    train_loader = DataLoader(train_dataset, batch_size=64, shuffle=True)
    trainer = create_trainer(model, learning_rate=5e-4)
    history = trainer.train(train_loader, num_epochs=2)
    assert isinstance(trainer, JEPATrainer)
    assert trainer.step == 4
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    assert history["loss"][-1] > 0
    assert history["learning_rate"][-1] == pytest.approx(5e-6, rel=0.01)


def test_full_control(train_dataset: TensorDataset) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    logged: list[tuple[int, float]] = []

    class Logger:
        def log(self, metrics: dict[str, float], step: int) -> None:
            logged.append((step, metrics["loss"]))

    trainer = JEPATrainer(model, optimizer, scheduler, Logger())
    trainer.train(DataLoader(train_dataset, batch_size=64), num_epochs=2)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**4)
    assert [step for step, _ in logged] == [1, 4]


def test_distributed_training_on_one_process(train_dataset: TensorDataset) -> None:
    with pytest.raises(RuntimeError, match="type: torchrun"):
        create_trainer(
            small(),
            distributed=True,
            world_size=int(os.environ.get("WORLD_SIZE", 1)),
            local_rank=int(os.environ.get("LOCAL_RANK", 0)),
        )


def test_saving_and_loading_checkpoints(train_dataset: TensorDataset) -> None:
    train_loader = DataLoader(train_dataset, batch_size=64, shuffle=True)
    trainer = create_trainer(small())
    trainer.train(train_loader, num_epochs=1)
    trainer.save_checkpoint("checkpoint_epoch_10.pt")
    trainer.train(train_loader, num_epochs=2)
    trainer.load_checkpoint("checkpoint_epoch_10.pt")
    assert (trainer.epoch, trainer.step) == (1, 2)
    assert trainer.train(train_loader, num_epochs=2).last_step == 4


def test_pretrained_artifacts(train_dataset: TensorDataset) -> None:
    model = small()
    model.save_pretrained("artifacts/jepa-small")
    encoder, predictor = Encoder(hidden_dim=256, depth=1), Predictor(hidden_dim=256, depth=1)
    restored = JEPA.from_pretrained("artifacts/jepa-small", encoder=encoder, predictor=predictor)
    restored.eval()
    x = train_dataset.tensors[0]
    assert torch.equal(restored.embed(x), model.embed(x))
    assert sorted(path.name for path in Path("artifacts/jepa-small").iterdir()) == ["config.json", "model.safetensors"]


def test_the_evaluator(train_dataset: TensorDataset) -> None:
    test_loader = DataLoader(train_dataset, batch_size=64)
    trainer = create_trainer(small(), val_loader=test_loader)
    trainer.train(test_loader, num_epochs=1)
    Path("checkpoints").mkdir()
    trainer.save_checkpoint("checkpoints/best_model.pt")
    evaluator = JEPAEvaluator.from_checkpoint("checkpoints/best_model.pt")
    metrics = evaluator.evaluate(test_loader)
    assert metrics["loss"] == pytest.approx(trainer.history["val_loss"][-1], rel=1e-5)
    assert JEPAEvaluator(trainer.model).evaluate(test_loader) == pytest.approx(metrics, rel=1e-5)


def test_supporting_utilities(train_dataset: TensorDataset) -> None:
    setup_reproducibility(seed=1)
    model = small()
    assert count_parameters(model) > 0
    history: Any = create_trainer(model).train(DataLoader(train_dataset, batch_size=64), num_epochs=1)
    plot_training_history(history, save_path="history.html")
    assert Path("history.html").stat().st_size > 0
    save_training_config({"learning_rate": 1e-3}, "config.yaml")
    assert load_training_config("config.yaml") == {"learning_rate": 1e-3}
    assert [len(part) for part in create_data_splits(train_dataset, 0.5, 0.25)] == [64, 32, 32]
    assert get_device_info()["torch"] == torch.__version__
    assert "encoder" in log_model_summary(model, logging.getLogger(__name__))
