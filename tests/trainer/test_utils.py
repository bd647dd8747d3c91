"""The small tools around training."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

from jepa.data import MemoryLoader
from jepa.trainer import JEPATrainer
from jepa.trainer.utils import (
    count_parameters,
    create_data_splits,
    default_device,
    get_device_info,
    load_training_config,
    log_model_summary,
    plot_training_history,
    save_training_config,
    setup_reproducibility,
)


def test_parameters_are_counted_with_and_without_the_target(make_model: Callable[..., Any]) -> None:
    model = make_model()
    encoder = sum(p.numel() for p in model.encoder.parameters())
    predictor = sum(p.numel() for p in model.predictor.parameters())
    assert count_parameters(model) == encoder + predictor
    assert count_parameters(model, trainable_only=False) == 2 * encoder + predictor
    assert count_parameters(nn.Linear(3, 2)) == 8


@pytest.mark.parametrize("suffix", [".html", ".png", ".json"])
def test_the_history_is_plotted_and_saved(
    suffix: str, make_trainer: Callable[..., JEPATrainer], loader: MemoryLoader, tmp_path: Path
) -> None:
    history = make_trainer(log_every=2).train(loader, num_epochs=1)
    figure = plot_training_history(history, tmp_path / f"curve{suffix}")
    curves = {tuple(trace.x): tuple(trace.y) for trace in figure.data}
    assert curves[tuple(history.steps("loss"))]
    assert any(list(trace.y) == history["loss"] for trace in figure.data)
    assert (tmp_path / f"curve{suffix}").stat().st_size > 1000


def test_plotting_needs_no_file(tmp_path: Path) -> None:
    figure = plot_training_history([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}])
    assert list(figure.data[0].y) == [2.0, 1.0]


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("abc é"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("xyz", min_size=1), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text("xyz", min_size=1), PLAIN, max_size=4))
def test_a_configuration_round_trips(tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "config" / "c.yaml"
    assert save_training_config(config, path) == path
    assert load_training_config(path) == config


def test_a_configuration_that_cannot_be_written_or_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"plain values only: .*Linear"):
        save_training_config({"model": nn.Linear(1, 1)}, tmp_path / "c.yaml")
    assert not (tmp_path / "c.yaml").exists()
    with pytest.raises(FileNotFoundError, match=r"no configuration at .*c.yaml \(looked from"):
        load_training_config(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("a: [1")
    with pytest.raises(ValueError, match=r"c.yaml is not valid YAML"):
        load_training_config(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match=r"c.yaml must hold a mapping, got list"):
        load_training_config(tmp_path / "c.yaml")


@given(st.integers(1, 200), st.floats(0, 1), st.floats(0, 1), st.integers(0, 5))
def test_splits_are_disjoint_have_their_sizes_and_repeat(length: int, first: float, second: float, seed: int) -> None:
    train, val = first, second * (1 - first)
    dataset = TensorDataset(torch.arange(length))
    parts = create_data_splits(dataset, train, val, seed=seed)
    indices = [list(part.indices) for part in parts]
    together = sorted(index for part in indices for index in part)
    assert together == list(range(length)), "what is not in the other two is in the third"
    assert abs(len(parts[0]) - train * length) <= 0.5 + 1e-9
    assert abs(len(parts[1]) - val * length) <= 1.0
    assert [list(part.indices) for part in create_data_splits(dataset, train, val, seed=seed)] == indices


def test_splits_may_leave_samples_out_and_depend_on_the_seed() -> None:
    dataset = TensorDataset(torch.arange(100))
    assert [len(part) for part in create_data_splits(dataset)] == [80, 10, 10]
    assert [len(part) for part in create_data_splits(dataset, 0.5, 0.2, 0.1)] == [50, 20, 10]
    assert create_data_splits(dataset)[0].indices != create_data_splits(dataset, seed=1)[0].indices


@pytest.mark.parametrize("shares", [(0.9, 0.2), (-0.1, 0.5), (0.5, 0.5, 0.1)])
def test_impossible_shares_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="shares must be at least 0 and add up to at most 1"):
        create_data_splits(TensorDataset(torch.arange(10)), *shares)


def test_seeding_makes_every_generator_repeat() -> None:
    draws = []
    for _ in range(2):
        setup_reproducibility(5)
        draws.append((torch.rand(2).tolist(), random.random(), np.random.rand()))
    setup_reproducibility(6)
    assert draws[0] == draws[1]
    assert torch.rand(2).tolist() != draws[0][0]


def test_deterministic_algorithms_can_be_asked_for() -> None:
    benchmark = torch.backends.cudnn.benchmark
    assert not torch.are_deterministic_algorithms_enabled()
    try:
        setup_reproducibility(0)
        assert not torch.are_deterministic_algorithms_enabled()
        setup_reproducibility(0, deterministic=True)
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
        setup_reproducibility(0)
        assert torch.are_deterministic_algorithms_enabled(), "what was not asked for stays as it is"
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = benchmark


def test_the_device_is_described() -> None:
    info = get_device_info()
    assert info["device"] == default_device().type
    assert info["torch"] == torch.__version__
    assert info["cpu_threads"] == torch.get_num_threads()
    assert len(info["cuda_devices"]) == torch.cuda.device_count()
    assert set(info) == {"device", "torch", "python", "cpu_threads", "cuda_devices", "mps"}


def test_the_summary_lists_the_parts_and_can_be_logged(
    make_model: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model()
    with caplog.at_level(logging.INFO, "summary"):
        table = log_model_summary(model, logging.getLogger("summary"))
    assert table in caplog.text
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines()}
    assert list(rows) == ["part", "encoder", "predictor", "target", "total"]
    encoder = count_parameters(model.encoder)
    assert rows["encoder"] == ["Encoder", f"{encoder:,}", f"{encoder:,}"]
    assert rows["target"] == ["EMATarget", f"{encoder:,}", "0"]
    assert rows["total"][1:] == [f"{count_parameters(model, trainable_only=False):,}", f"{count_parameters(model):,}"]
    assert log_model_summary(model) == table
