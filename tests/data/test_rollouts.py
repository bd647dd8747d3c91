"""Pendulum rollouts: gymnasium's own steps, kept in a file that is trusted only where it fits."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from jepa.data import pendulum_pairs, rollouts


def pairs(dataset: TensorDataset) -> Tensor:
    return torch.stack(dataset.tensors)


def test_pairs_equal_stepping_the_environment_by_hand() -> None:
    environment = gymnasium.make("Pendulum-v1")
    environment.action_space.seed(3)
    state, _ = environment.reset(seed=3)
    expected = []
    for _ in range(450):
        after, _, _, truncated, _ = environment.step(environment.action_space.sample())
        expected.append([state, after])
        state = environment.reset()[0] if truncated else after
    environment.close()
    found = pairs(pendulum_pairs(450, seed=3))
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.from_numpy(np.array(expected)).transpose(0, 1))


def test_no_pair_crosses_the_border_of_an_episode() -> None:
    before, after = pendulum_pairs(450).tensors
    joined = (before[1:] == after[:-1]).all(dim=1)
    assert (~joined).nonzero().flatten().tolist() == [199, 399]
    # cos and sin of one angle, and what a single step of 0.05 s can change at most
    torch.testing.assert_close((before[:, :2] ** 2).sum(1), torch.ones(450))
    assert (after[:, 2] - before[:, 2]).abs().max() <= 0.05 * (15 + 3 * 2) + 1e-4


def test_seeds_give_runs_of_their_own() -> None:
    assert torch.equal(pairs(pendulum_pairs(20, seed=1)), pairs(pendulum_pairs(20, seed=1)))
    assert not torch.equal(pairs(pendulum_pairs(20, seed=1)), pairs(pendulum_pairs(20, seed=2)))


def test_a_cache_is_written_once_and_then_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "new" / "pendulum.npz"
    first = pairs(pendulum_pairs(20, seed=1, cache=cache))
    written = cache.read_bytes()
    monkeypatch.setattr(rollouts, "_simulate", lambda *_: pytest.fail("simulated although there is a cache"))
    assert torch.equal(pairs(pendulum_pairs(20, seed=1, cache=cache)), first)
    assert cache.read_bytes() == written
    assert list(cache.parent.iterdir()) == [cache]


@pytest.mark.parametrize(("num_steps", "seed"), [(21, 1), (20, 2)])
def test_a_cache_of_other_arguments_is_replaced_with_a_warning(tmp_path: Path, num_steps: int, seed: int) -> None:
    cache = tmp_path / "pendulum.npz"
    pendulum_pairs(20, seed=1, cache=cache)
    message = r"pendulum.npz was made with num_steps=20, seed=1; simulating again and replacing it"
    with pytest.warns(UserWarning, match=message):
        found = pairs(pendulum_pairs(num_steps, seed=seed, cache=cache))
    assert torch.equal(found, pairs(pendulum_pairs(num_steps, seed=seed)))
    assert torch.equal(found, pairs(pendulum_pairs(num_steps, seed=seed, cache=cache))), "the cache was not replaced"


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "text", "array", "other keys", "pickle"])
def test_a_damaged_cache_is_replaced_with_a_warning(tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "pendulum.npz"
    expected = pairs(pendulum_pairs(50, cache=cache))
    whole = cache.read_bytes()
    middle = len(whole) // 3
    with cache.open("wb") as file:
        if damage == "truncated":
            file.write(whole[:-40])
        elif damage == "flipped":
            file.write(whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :])
        elif damage == "text":
            file.write(b"not an archive")
        elif damage == "array":
            np.save(file, np.zeros(3))
        elif damage == "other keys":
            np.savez(file, states=np.zeros(3))
        elif damage == "pickle":
            np.savez(file, arguments=np.array([object()]))
    with pytest.warns(UserWarning, match=r"pendulum.npz cannot be read .*; simulating again and replacing it"):
        found = pairs(pendulum_pairs(50, cache=cache))
    assert torch.equal(found, expected)
    assert torch.equal(pairs(pendulum_pairs(50, cache=cache)), expected)


def test_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        pendulum_pairs(0)
