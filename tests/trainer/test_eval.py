"""The evaluator: the objective's loss over a data set, against a computation by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from jepa.data import MemoryLoader
from jepa.diagnostics import effective_rank, embedding_std
from jepa.models import JEPA
from jepa.objectives import StatePair
from jepa.trainer import CheckpointError, JEPAEvaluator, JEPATrainer
from jepa.trainer.utils import default_device

MakeTrainer = Callable[..., JEPATrainer]
MakeModel = Callable[..., JEPA]


def by_hand(model: JEPA, batches: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Sample means of the state-pair loss and its terms, batch by batch, in float64."""
    sums, samples, embeddings = {"loss": 0.0, "prediction": 0.0, "variance": 0.0, "covariance": 0.0}, 0, []
    with torch.no_grad():
        for now, following in batches:
            context = model.encoder(now)
            wanted = F.layer_norm(model.target.encoder(following), (context.shape[1],)).double()
            difference = (model.predictor(context).double() - wanted).abs()
            prediction = torch.where(difference < 1, 0.5 * difference**2, difference - 0.5).mean()
            matrix = torch.cov(context.double().T)
            variance = (1 - (matrix.diagonal() + 1e-4).sqrt()).clamp(min=0).mean()
            off = matrix - torch.diag(matrix.diagonal())
            covariance = off.square().sum() / (off.numel() - len(off))
            loss = prediction + variance + 2.5 * covariance
            for name, value in zip(sums, (loss, prediction, variance, covariance), strict=True):
                sums[name] += value.item() * len(now)
            samples += len(now)
            embeddings.append(context)
    embedding = torch.cat(embeddings)
    means = {name: value / samples for name, value in sums.items()}
    return {
        **means,
        "embedding_std": float(embedding_std(embedding)),
        "effective_rank": float(effective_rank(embedding)),
    }


def test_metrics_equal_a_computation_by_hand(make_model: MakeModel, pairs: Any) -> None:
    model = make_model()
    loader = DataLoader(TensorDataset(*pairs), batch_size=18)
    metrics = JEPAEvaluator(model).evaluate(loader)
    batches = list(zip(*(part.split(18) for part in pairs), strict=True))
    assert [len(now) for now, _ in batches] == [18, 18, 12]
    assert metrics == pytest.approx(by_hand(model, batches), rel=1e-5)


def test_the_device_is_the_best_one_unless_told(make_model: MakeModel) -> None:
    assert JEPAEvaluator(make_model()).device == default_device()
    assert JEPAEvaluator(make_model(), device="cpu").device == torch.device("cpu")


def test_evaluation_repeats_itself_and_leaves_the_model_alone(make_model: MakeModel, images: Tensor) -> None:
    torch.manual_seed(3)
    model = make_model("ijepa")
    model.eval()
    evaluator = JEPAEvaluator(model, "ijepa", seed=4)
    loader = MemoryLoader(images, batch_size=16, shuffle=False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = evaluator.evaluate(loader)
    torch.rand(5)
    assert evaluator.evaluate(loader) == first
    assert JEPAEvaluator(model, "ijepa", seed=5).evaluate(loader) != first
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_evaluation_uses_evaluation_mode_and_restores_each_mode(pairs: Any) -> None:
    encoder = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5))
    model = JEPA(encoder, nn.Linear(8, 8))
    evaluator = JEPAEvaluator(model)
    loader = [pairs]
    assert evaluator.evaluate(loader) == evaluator.evaluate(loader)
    assert evaluator.objective.training
    evaluator.objective.eval()
    evaluator.evaluate(loader)
    assert not evaluator.objective.training


@pytest.mark.parametrize("objective", ["state_pair", "ijepa"])
def test_a_checkpoint_alone_rebuilds_built_in_architectures(
    objective: str, make_trainer: MakeTrainer, pairs: Any, images: Tensor, tmp_path: Path
) -> None:
    arrays = pairs if objective == "state_pair" else (images,)
    loader = MemoryLoader(*arrays, batch_size=16, shuffle=False)
    trainer = make_trainer(objective=objective, val_loader=loader, seed=11)
    history = trainer.train(loader, num_epochs=2)
    evaluator = JEPAEvaluator.from_checkpoint(trainer.save_checkpoint(tmp_path / "model.pt"))
    assert evaluator.model is not trainer.model
    assert evaluator.objective.config() == trainer.objective.config()
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, evaluator.model.state_dict()[name]), name
    metrics = evaluator.evaluate(loader)
    assert metrics["loss"] == pytest.approx(history["val_loss"][-1], rel=1e-6)
    assert {"prediction", "variance", "covariance", "embedding_std", "effective_rank", "loss"} == set(metrics)


def test_objective_weights_come_with_the_checkpoint(
    make_trainer: MakeTrainer, make_model: MakeModel, loader: MemoryLoader, tmp_path: Path
) -> None:
    trainer = make_trainer(StatePair(make_model(target="shared"), variance_weight=3.0))
    trainer.train(loader, num_epochs=1)
    evaluator = JEPAEvaluator.from_checkpoint(trainer.save_checkpoint(tmp_path / "model.pt"))
    assert evaluator.objective.config() == {
        "normalization": "mean",
        "variance_weight": 3.0,
        "covariance_weight": 2.5,
    }
    assert evaluator.model.target.kind == "shared"
    metrics = evaluator.evaluate(loader)
    expected = metrics["prediction"] + 3 * metrics["variance"] + 2.5 * metrics["covariance"]
    assert metrics["loss"] == pytest.approx(expected)


@pytest.mark.parametrize("mode", ["scale", "hold"])
def test_weights_edited_while_training_come_with_the_checkpoint(
    mode: Literal["scale", "hold"], make_trainer: MakeTrainer, loader: MemoryLoader, pairs: Any, tmp_path: Path
) -> None:
    data = MemoryLoader(*pairs, batch_size=16, shuffle=False)
    trainer = make_trainer(val_loader=data)
    trainer.train(loader, num_epochs=1)
    trainer.rates.edit(trainer.step, "variance_weight", 7.0, mode)
    evaluator = JEPAEvaluator.from_checkpoint(trainer.save_checkpoint(tmp_path / "model.pt"))
    assert evaluator.hyper == {"variance_weight": 7.0, "covariance_weight": 2.5}
    metrics = evaluator.evaluate(data)
    assert metrics["loss"] == pytest.approx(trainer.evaluate()["val_loss"], rel=1e-6)
    expected = metrics["prediction"] + 7 * metrics["variance"] + 2.5 * metrics["covariance"]
    assert metrics["loss"] == pytest.approx(expected)


def test_double_precision_comes_with_the_checkpoint(
    make_trainer: MakeTrainer, make_model: MakeModel, pairs: Any, tmp_path: Path
) -> None:
    data = MemoryLoader(*(part.double() for part in pairs), batch_size=16, shuffle=False)
    trainer = make_trainer(make_model().double(), val_loader=data)
    history = trainer.train(data, num_epochs=1)
    evaluator = JEPAEvaluator.from_checkpoint(trainer.save_checkpoint(tmp_path / "model.pt"), device="cpu")
    for name, tensor in trainer.objective.state_dict().items():
        assert torch.equal(tensor, evaluator.objective.state_dict()[name]), name
        assert tensor.dtype == evaluator.objective.state_dict()[name].dtype, name
    assert evaluator.evaluate(data)["loss"] == pytest.approx(history["val_loss"][-1], rel=1e-12)


def test_parts_of_ones_own_making_must_be_passed(
    make_trainer: MakeTrainer, loader: MemoryLoader, tmp_path: Path
) -> None:
    def model(width: int = 8) -> JEPA:
        return JEPA(nn.Linear(4, width), nn.Linear(width, width))

    trainer = make_trainer(model())
    trainer.train(loader, num_epochs=1)
    path = trainer.save_checkpoint(tmp_path / "own.pt")
    with pytest.raises(
        ValueError, match=r"own.pt holds encoder and predictor of your own making; build the model and pass"
    ):
        JEPAEvaluator.from_checkpoint(path)
    other = model(6)
    before = other.encoder.weight.clone()
    with pytest.raises(CheckpointError, match=r"own.pt does not fit this model: .*encoder.weight is"):
        JEPAEvaluator.from_checkpoint(path, model=other)
    assert torch.equal(other.encoder.weight, before)
    evaluator = JEPAEvaluator.from_checkpoint(path, model=model())
    assert torch.equal(evaluator.model.encoder.weight, trainer.model.encoder.weight)  # type: ignore[arg-type]


def test_a_missing_or_damaged_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        JEPAEvaluator.from_checkpoint(tmp_path / "none.pt")
    (tmp_path / "bad.pt").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        JEPAEvaluator.from_checkpoint(tmp_path / "bad.pt")


def test_bad_input_is_named(make_model: MakeModel, pairs: Any) -> None:
    with pytest.raises(TypeError, match="expected a JEPA, an encoder or an Objective, got dict"):
        JEPAEvaluator({})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown objective 'state_pare'; did you mean 'state_pair'"):
        JEPAEvaluator(make_model(), "state_pare")
    evaluator = JEPAEvaluator(make_model())
    with pytest.raises(ValueError, match="the loader is empty"):
        evaluator.evaluate([])
    with pytest.raises(TypeError, match=r"takes batches \(state_t, state_t1\)"):
        evaluator.evaluate([pairs[0]])
    assert evaluator.objective.training, "the mode is restored after an error too"


def test_an_encoder_of_ones_own_is_enough_where_the_usual_predictor_was_trained_with_it(
    make_trainer: MakeTrainer, pairs: Any, tmp_path: Path
) -> None:
    def own() -> nn.Module:
        encoder = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 8))
        encoder.hidden_dim = 8  # type: ignore[assignment]
        return encoder

    trainer = make_trainer(own())
    trainer.train(MemoryLoader(*pairs, batch_size=8), num_epochs=1)
    path = trainer.save_checkpoint(tmp_path / "own.pt")
    with pytest.raises(ValueError, match="or model=encoder if that is what was trained"):
        JEPAEvaluator.from_checkpoint(path)
    evaluator = JEPAEvaluator.from_checkpoint(path, model=own())
    assert torch.equal(evaluator.model.embed(pairs[0]).cpu(), trainer.model.embed(pairs[0]).cpu())
