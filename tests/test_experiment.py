"""From a configuration to a trainer, and from a trained model to its worth beside what needs no training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from jepa.config import DataConfig, load_experiment, preset
from jepa.data import digits, pendulum_pixels
from jepa.diagnostics import effective_rank, linear_probe, regression_probe
from jepa.experiment import make_data, make_loaders, make_objective, make_trainer, probe_data, probe_scores, score
from jepa.experiment import principal_components as components
from jepa.objectives import IJEPA, VICReg
from jepa.trainer import Callback


def test_a_name_is_enough_for_a_trainer_and_its_data() -> None:
    trainer, loader = make_trainer("digits-ijepa", run=False, device="cpu")
    assert isinstance(trainer.objective, IJEPA)
    assert trainer.config == preset("digits-ijepa").trainer
    assert trainer.val_loader is None
    images, labels = next(iter(loader))
    assert (images.shape, labels.shape) == ((64, 1, 8, 8), (64,))
    trainer.train(loader, max_steps=2)
    assert trainer.step == 2


def test_options_reach_the_trainer_and_win_over_the_configuration(tmp_path: Path) -> None:
    config = replace(preset("digits-vicreg"), run="named")
    assert make_trainer(config, device="cpu", runs_dir=tmp_path)[0].run.path == tmp_path / "named"  # type: ignore[union-attr]
    trainer, _ = make_trainer(config, run="other", device="cpu", runs_dir=tmp_path, learning_rate=0.5)
    assert isinstance(trainer.objective, VICReg)
    assert trainer.run is not None
    assert trainer.run.path.name == "other"
    assert trainer.config.learning_rate == 0.5


def test_a_run_folder_keeps_the_configuration_that_makes_the_trainer_again(tmp_path: Path) -> None:
    trainer, loader = make_trainer(
        "digits-vicreg", run=tmp_path / "a", device="cpu", seed=3, log_every=7, progress=False
    )
    trainer.train(loader, max_steps=1)
    experiment = load_experiment(tmp_path / "a")
    wanted = preset("digits-vicreg")
    assert experiment.config == replace(
        wanted, run="a", trainer=wanted.trainer.updated({"seed": 3, "log_every": 7, "progress": False})
    )
    again, _ = make_trainer(experiment.config, run=False, device="cpu")
    assert again.describe() == trainer.describe() | {"data": None}
    first, _ = make_trainer("digits-vicreg", run=False, device="cpu", seed=3)
    for name, value in first.objective.state_dict().items():
        assert torch.equal(value, again.objective.state_dict()[name]), "the seed has not reached the weights"


@pytest.mark.parametrize("option", [{"callbacks": [Callback()]}, {"val_loader": [torch.zeros(2, 1, 8, 8)]}])
def test_a_trainer_that_no_configuration_can_make_again_keeps_none(tmp_path: Path, option: dict[str, Any]) -> None:
    trainer, loader = make_trainer("digits-vicreg", run=tmp_path / "a", device="cpu", progress=False, **option)
    trainer.train(loader, max_steps=1)
    assert not (tmp_path / "a" / "experiment.yaml").exists()


def test_values_that_no_file_can_hold_keep_no_configuration_and_hinder_nothing(tmp_path: Path) -> None:
    config = preset("digits-vicreg")
    config = replace(config, objective_options={**config.objective_options, "variance_weight": np.float64(25.0)})
    trainer, loader = make_trainer(config, run=tmp_path / "a", device="cpu", progress=False)
    trainer.train(loader, max_steps=1)
    assert not (tmp_path / "a" / "experiment.yaml").exists()


def test_a_share_of_the_data_is_kept_for_validation() -> None:
    config = preset("digits-ijepa")
    config = replace(config, data=replace(config.data, val_fraction=0.25))
    trainer, loader = make_trainer(config, run=False, device="cpu")
    assert (len(loader), len(trainer.val_loader)) == (15, 6)  # 1,010 and 337 images in batches of 64


def test_the_seed_decides_the_weights_and_presets_of_one_data_set_share_them() -> None:
    encoders = [
        make_objective(preset(name, seed=seed)).model.encoder.state_dict()
        for name, seed in (("digits-ijepa", 0), ("digits-vicreg", 0), ("digits-lejepa", 0), ("digits-ijepa", 1))
    ]
    weight = [encoder["embed.weight"] for encoder in encoders]
    assert torch.equal(weight[0], weight[1])
    assert torch.equal(weight[0], weight[2])
    assert not torch.equal(weight[0], weight[3])


# Probes


def test_principal_components_are_those_of_the_training_part() -> None:
    rows = torch.randn(60, 5, dtype=torch.float64) @ torch.randn(5, 5, dtype=torch.float64) + 3
    train, test = components(rows[:40], rows[40:], 3)
    reference = PCA(3).fit(rows[:40].numpy())
    for found, part in ((train, rows[:40]), (test, rows[40:])):
        np.testing.assert_allclose(found.abs().numpy(), np.abs(reference.transform(part.numpy())), atol=1e-9)
    assert components(rows[:40], rows[40:], 99)[0].shape == (40, 5)


def test_fewer_samples_than_features_give_no_component_that_is_only_rounding() -> None:
    rows = torch.randn(40, 30, dtype=torch.float64)
    train, test = components(rows[:8], rows[8:], 20)
    assert train.shape == (8, 7)
    assert test.shape == (32, 7)


@pytest.mark.parametrize("name", ["pendulum", "gymnasium:Pendulum-v1"])
def test_unseen_data_is_simulated_with_another_seed_than_the_one_given(name: str) -> None:
    length = {} if name == "pendulum" else {"length": 5}
    config = DataConfig(name=name, num_steps=50, options={"seed": 3, **length})
    seen, unseen = make_data(config)[0][0], make_data(config, unseen=True)[0][0]
    assert not torch.equal(torch.as_tensor(seen), torch.as_tensor(unseen))


def test_labels_are_scored_by_accuracy_and_states_by_explained_variance() -> None:
    x = torch.randn(90, 4)
    y = (x[:, 0] > 0).long()
    found = score(x[:60], x[60:], y[:60], y[60:])
    assert found["accuracy"] == 100 * linear_probe(x[:60], y[:60], x[60:], y[60:])
    assert found["effective rank"] == float(effective_rank(x[60:]))
    states = torch.stack([x[:, 0], torch.randn(90)], dim=1)
    found = score(x[:60], x[60:], states[:60], states[60:], ("place", "noise"))
    assert list(found) == ["place", "noise", "effective rank"]
    assert found["place"] == pytest.approx(1.0)
    assert found["noise"] == pytest.approx(float(regression_probe(x[:60], states[:60], x[60:], states[60:])[1]))


def test_probe_scores_compare_with_pixels_components_and_the_same_encoder_before() -> None:
    config = preset("digits-vicreg", seed=5)
    objective = make_objective(config)
    torch.nn.init.zeros_(objective.model.encoder.get_parameter("embed.weight"))
    scores = probe_scores(config, objective.model)
    assert list(scores) == ["raw input", "PCA", "untrained encoder", "trained encoder"]
    (x, y), (test_x, test_y) = (digits(part).tensors for part in ("train", "test"))  # type: ignore[arg-type]
    pixels = 100 * linear_probe(x.flatten(1).float(), y, test_x.flatten(1).float(), test_y)
    assert scores["raw input"]["accuracy"] == pytest.approx(pixels, abs=0.3)
    assert scores["PCA"]["effective rank"] == pytest.approx(scores["raw input"]["effective rank"], rel=0.01)
    assert scores["untrained encoder"]["accuracy"] > 60
    assert scores["trained encoder"]["accuracy"] < 20, "an encoder that looks at nothing was read"
    again = make_objective(config).model
    assert scores["untrained encoder"] == probe_scores(config, again)["trained encoder"]


def test_the_target_encoder_is_what_is_probed() -> None:
    config = preset("digits-ijepa")
    model = make_objective(config).model
    before = probe_scores(config, model)["trained encoder"]
    torch.nn.init.zeros_(model.encoder.get_parameter("embed.weight"))
    assert probe_scores(config, model)["trained encoder"] == before
    torch.nn.init.zeros_(model.target.encoder.get_parameter("embed.weight"))
    assert probe_scores(config, model)["trained encoder"] != before


def test_data_without_labels_or_states_cannot_be_probed() -> None:
    with pytest.raises(ValueError, match=r"a probe needs samples with labels, .* got the data 'pendulum'"):
        probe_data(DataConfig(name="pendulum", num_steps=10))


# Pictures of a pendulum


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """A short simulation, rendered once."""
    cache = tmp_path_factory.mktemp("pendulum") / "pictures.npz"
    return DataConfig(name="pendulum_pixels", num_steps=200, cache=str(cache), options={"size": 8}, val_fraction=0.0)


@pytest.mark.parametrize("layout", ["pairs", "trajectories"])
def test_states_are_probed_from_single_observations_whatever_is_trained_on(pixels: DataConfig, layout: str) -> None:
    train, test = probe_data(replace(pixels, options={"size": 8, "layout": layout, "length": 3}))
    assert (train.inputs.shape, train.answers.shape) == ((200, 2, 8, 8), (200, 3))
    wanted = pendulum_pixels(1, size=8, cache=pixels.cache).tensors
    assert torch.equal(train.inputs, wanted[0])
    assert torch.equal(train.answers, wanted[1])
    assert not torch.equal(test.answers[:10], train.answers[:10])


def test_clips_are_probed_as_clips(pixels: DataConfig) -> None:
    train, test = probe_data(replace(pixels, options={"size": 8, "layout": "video", "length": 4}))
    assert train.inputs.shape == (198, 1, 4, 8, 8)
    assert train.answers.shape == test.answers.shape == (198, 3)


def test_both_parts_are_rendered_once_and_kept(pixels: DataConfig) -> None:
    parts = [make_data(pixels, unseen=unseen).tensors[0] for unseen in (False, True)]
    assert pixels.cache is not None
    kept = sorted(path.name for path in Path(pixels.cache).parent.iterdir())
    assert kept == ["pictures.npz", "pictures.unseen.npz"]
    assert not torch.equal(*parts)
    loader, _ = make_loaders(replace(pixels, options={"size": 8, "layout": "pairs"}), seed=0)
    assert next(iter(loader))[0].shape == (64, 2, 8, 8)
