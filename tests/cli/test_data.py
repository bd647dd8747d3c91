"""The data that a configuration names: every kind, its training and its unseen part, and names that are not known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from jepa.cli.__main__ import main
from jepa.config import DataConfig
from jepa.data import series
from jepa.experiment import make_data, make_loaders
from tests.data.videos import write_video

SERIES = """
run: motions
objective: ijepa
num_epochs: 1
data: {name: basic_motions, batch_size: 8, val_fraction: 0.2}
model:
  encoder:
    type: Encoder
    hidden_dim: 16
    depth: 1
    num_heads: 2
    tokenizer: {type: SeriesTokenizer, length: 100, patch_size: 10, channels: 6}
  predictor: {type: MaskedPredictor, hidden_dim: 16, grid: [10], depth: 1, num_heads: 2}
trainer: {progress: false}
"""


def data(name: str | Path, *, unseen: bool = False, **fields: Any) -> Any:
    return make_data(DataConfig(name=str(name), **fields), unseen=unseen)


def test_series_train_on_their_training_part_and_are_evaluated_on_the_other() -> None:
    for unseen, part in ((False, "train"), (True, "test")):
        assert torch.equal(data("basic_motions", unseen=unseen).tensors[0], series("basic_motions", part).tensors[0])  # type: ignore[arg-type]
    assert data("japanese_vowels", options={"length": 20}).tensors[0].shape == (270, 12, 20)


def test_an_environment_is_simulated_with_another_seed_for_evaluation(tmp_path: Path) -> None:
    options: dict[str, Any] = {"num_steps": 30, "cache": str(tmp_path / "a.npz"), "options": {"length": 4}}
    trained, unseen = (data("gymnasium:Pendulum-v1", unseen=unseen, **options).tensors for unseen in (False, True))
    assert trained[0].shape == unseen[0].shape == (10, 4, 3)
    assert trained[1].shape == (10, 3, 1)
    assert not torch.equal(trained[0], unseen[0])
    episodes = data("gymnasium:CartPole-v1", options={"num_episodes": 2, "length": 4}).tensors
    assert episodes[1].shape[1:] == (3, 2)


def test_files_and_folders_are_known_by_what_they_are(tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / "1.mp4", 8)
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 2), np.float32), y=np.arange(4))
    clips = data(tmp_path / "videos", options={"num_frames": 4, "size": [16, 24]})
    assert clips.tensors[0].shape == (2, 3, 4, 16, 24)
    assert data(tmp_path / "a.npz", options={"keys": ["y"]}).tensors[0].tolist() == [0, 1, 2, 3]


def test_windows_of_a_table_are_split_in_time_and_normalised_by_the_training_part(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(4, 2, 100)
    values[80:] += 100
    pandas.DataFrame({"a": values}).to_csv(tmp_path / "a.csv", index=False)
    config = DataConfig(
        name=str(tmp_path / "a.csv"), options={"length": 10, "stride": 5}, val_fraction=0.2, drop_last=False
    )
    train, val = (torch.cat(list(loader)) for loader in make_loaders(config, seed=0))
    assert train.shape == (15, 1, 10)
    expected = (values[80:90] - values[:80].mean()) / values[:80].std()
    np.testing.assert_allclose(val[0, 0], expected, rtol=1e-4)
    (whole, _) = make_loaders(
        DataConfig(name=config.name, options={"length": 10}, val_fraction=0, drop_last=False), seed=0
    )
    assert abs(torch.cat(list(whole)).mean()) < 0.2
    assert data(config.name, unseen=True, options={"length": 10}).mean is not None


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"name": "basic_motion"}, FileNotFoundError, r"no file or folder basic_motion .*data set 'basic_motions'\?"),
        ({"name": "diggits"}, FileNotFoundError, r"did you mean the data set 'digits'\?"),
        ({"name": "elsewhere/images"}, FileNotFoundError, r"no file or folder elsewhere/images \(looked from [^)]*\)$"),
        ({"options": {"sed": 1}}, TypeError, r"\(digits\) has no option 'sed'; did you mean 'seed'\?"),
        ({"name": "basic_motions", "options": {"split": "all"}}, TypeError, "has no option 'split'; it has length"),
        ({"name": "gymnasium:Pendulum-v1", "options": {"lenght": 4}}, TypeError, r"did you mean 'length'\?"),
    ],
)
def test_unknown_names_and_options_name_the_nearest(fields: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        data(**{"name": "digits", **fields})


def test_series_train_and_evaluate_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.yaml").write_text(SERIES)
    assert main(["train", "--config", "train.yaml", "--device", "cpu"]) == 0
    checkpoint = sorted(Path("runs/motions/checkpoints").glob("*.pt"))[-1]
    assert main(["evaluate", "--checkpoint", str(checkpoint), "--data", "basic_motions", "--device", "cpu"]) == 0
