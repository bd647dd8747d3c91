"""Trajectories: gymnasium's own steps and Minari's own files, cut to one layout."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from jepa.data import minari_trajectories, trajectories
from jepa.data.environments import action_encoder


class Counter(gymnasium.Env):
    """Observes (episode, step) and ends after `limit` steps; its picture is as bright as the step."""

    metadata = {"render_modes": ["rgb_array"]}
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)

    def __init__(self, limit: int = 7, action_space: Any = None, render_mode: str | None = None) -> None:
        self.action_space = action_space or spaces.Discrete(3, start=1)
        self.render_mode = render_mode
        self.limit = limit
        self.episode = -1
        self.taken: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.episode, self.step_number = self.episode + 1, 0
        return np.array([self.episode, 0.0]), {}

    def step(self, action: Any) -> Any:
        self.taken.append(action)
        self.step_number += 1
        return np.array([self.episode, float(self.step_number)]), 0.0, self.step_number == self.limit, False, {}

    def render(self) -> Any:
        return np.full((12, 16, 3), 20 * self.step_number, np.uint8)


def test_episodes_are_cut_into_trajectories_that_share_their_ends() -> None:
    env = Counter(7)
    observations, actions = trajectories(env, num_episodes=2, length=4).tensors
    assert observations.dtype == actions.dtype == torch.float32
    assert observations.tolist() == [
        [[episode, start + step] for step in range(4)] for episode in range(2) for start in (0, 3)
    ]
    assert actions.shape == (4, 3, 3)
    taken = np.array(env.taken).reshape(2, 7)
    assert (actions.argmax(-1) + 1).tolist() == [taken[e, s : s + 3].tolist() for e in range(2) for s in (0, 3)]
    assert torch.equal(actions.sum(-1), torch.ones(4, 3))


def test_stride_places_the_trajectories() -> None:
    observations, _ = trajectories(Counter(7), num_episodes=1, length=4, stride=2).tensors
    assert observations[:, 0, 1].tolist() == [0, 2, 4]


def test_a_number_of_steps_ends_in_mid_episode() -> None:
    env = Counter(7)
    observations, _ = trajectories(env, num_steps=17, length=3).tensors
    assert len(env.taken) == 17
    assert observations[:, 0].tolist() == [[0, 0], [0, 2], [0, 4], [1, 0], [1, 2], [1, 4], [2, 0]]


def test_pendulum_equals_stepping_it_by_hand() -> None:
    env = gymnasium.make("Pendulum-v1")
    env.action_space.seed(3)
    states, torques = [env.reset(seed=3)[0]], []
    for _ in range(20):
        torques.append(env.action_space.sample())
        states.append(env.step(torques[-1])[0])
    env.close()
    observations, actions = trajectories("Pendulum-v1", num_steps=20, length=21, seed=3).tensors
    assert torch.equal(observations, torch.from_numpy(np.array(states))[None])
    assert torch.equal(actions, torch.from_numpy(np.array(torques))[None])


def test_a_policy_sees_the_observation_and_draws_from_a_seeded_generator() -> None:
    def policy(observation: Any, generator: np.random.Generator) -> Any:
        return np.array([observation[1] * 10 + generator.integers(10)])

    box = spaces.Box(-100, 100, (1,))
    first, second, other = (
        trajectories(Counter(5, box), num_episodes=1, length=6, policy=policy, seed=seed).tensors[1]
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert (first[0, :, 0] // 10).tolist() == [0, 1, 2, 3, 4]


def test_rendered_observations_are_resized_bytes() -> None:
    env = Counter(5, render_mode="rgb_array")
    observations, actions = trajectories(env, num_episodes=1, length=6, render=(6, 8)).tensors
    assert observations.dtype == torch.uint8
    assert observations.shape == (1, 6, 3, 6, 8)
    assert [int(frame.unique()) for frame in observations[0]] == [0, 20, 40, 60, 80, 100]
    assert actions.shape == (1, 5, 3)
    with pytest.raises(ValueError, match="needs an environment made with render_mode='rgb_array', got None"):
        trajectories(Counter(5), num_episodes=1, length=6, render=8)


def test_pendulum_from_pixels_shows_the_pendulum_and_is_kept_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "pixels.npz"
    options: dict[str, Any] = {"num_steps": 12, "length": 5, "render": 24, "seed": 2, "cache": cache}
    observations, actions = trajectories("Pendulum-v1", **options).tensors
    assert capfd.readouterr().out == ""
    assert observations.shape == (3, 5, 3, 24, 24)
    assert actions.shape == (3, 4, 1)
    assert (observations[0, 0] != observations[0, -1]).any(), "it moves"
    assert observations.float().std() > 10
    monkeypatch.setattr(gymnasium, "make", lambda *_, **__: pytest.fail("simulated although there is a cache"))
    kept = trajectories("Pendulum-v1", **options).tensors
    assert torch.equal(kept[0], observations)
    assert torch.equal(kept[1], actions)


def test_a_cache_of_other_trajectories_is_replaced_with_a_warning(tmp_path: Path) -> None:
    options: dict[str, Any] = {"num_steps": 12, "cache": tmp_path / "a.npz"}
    trajectories("Pendulum-v1", length=5, **options)
    with pytest.warns(UserWarning, match=r"a.npz was made with env='Pendulum-v1', .*length=5.*; simulating again"):
        observations, _ = trajectories("Pendulum-v1", length=4, **options).tensors
    assert observations.shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("space", "action", "expected"),
    [
        (spaces.Box(-1, 1, (2, 2)), [[1, 2], [3, 4]], [1, 2, 3, 4]),
        (spaces.Discrete(3, start=-1), 0, [0, 1, 0]),
        (spaces.MultiDiscrete([2, 3]), [1, 2], [0, 1, 0, 0, 1]),
        (spaces.MultiDiscrete([2, 3], start=[5, 5]), [5, 6], [1, 0, 0, 1, 0]),
        (spaces.MultiBinary(3), [1, 0, 1], [1, 0, 1]),
    ],
)
def test_actions_become_vectors(space: Any, action: Any, expected: list[int]) -> None:
    encoded = action_encoder(space)(np.array(action))
    assert encoded.dtype == np.float32
    assert encoded.tolist() == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "pass either num_episodes or num_steps, got None and None"),
        ({"num_episodes": 2, "num_steps": 3}, "pass either num_episodes or num_steps, got 2 and 3"),
        ({"num_steps": 0}, "num_episodes and num_steps must be at least 1, got 0"),
        ({"num_episodes": -1}, "num_episodes and num_steps must be at least 1, got -1"),
        ({"num_steps": 5, "length": 1}, "length must be at least 2 and stride at least 1, got 1 and 1"),
        ({"num_steps": 5, "stride": 0}, "length must be at least 2 and stride at least 1, got 16 and 0"),
        ({"num_steps": 5, "render": 0}, "size must be one positive number"),
        ({"num_steps": 5, "length": 9}, r"the longest of 1 episode\(s\) has 6 observations, and length=9"),
        ({"num_steps": 5, "cache": "a.npz", "policy": lambda *_: 0}, "a cache is recognised by its arguments"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trajectories("Pendulum-v1", **options)


def test_spaces_without_the_form_of_an_array_are_refused() -> None:
    with pytest.raises(ValueError, match="actions are a Text, and must be a Box, Discrete"):
        trajectories(Counter(5, spaces.Text(3)), num_episodes=1, length=3)
    env = Counter(5)
    env.observation_space = spaces.Dict({"x": spaces.Discrete(2)})  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"observations are a Dict, and must be arrays; .*FlattenObservation"):
        trajectories(env, num_episodes=1, length=3)


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two recorded episodes of the counter, of 7 and 7 steps."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    episodes = []
    for episode in range(2):
        steps = np.arange(8.0)
        buffer = EpisodeBuffer(
            id=episode,
            observations=np.stack([np.full(8, float(episode)), steps], axis=1),  # type: ignore[arg-type]
            actions=1 + (np.arange(7) + episode) % 3,  # type: ignore[arg-type]
            rewards=[0.0] * 7,
            terminations=[step == 6 for step in range(7)],
            truncations=[False] * 7,
            infos={},
        )
        episodes.append(buffer)
    spec = {"observation_space": Counter.observation_space, "action_space": spaces.Discrete(3, start=1)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no environment to evaluate in
        return minari.create_dataset_from_buffers("counter/test-v0", episodes, **spec, **ABOUT)


ABOUT: dict[str, Any] = {
    "algorithm_name": "counting",
    "author": "a test",
    "author_email": "none",
    "code_permalink": "none",
    "description": "counts",
}


def test_recorded_trajectories_have_the_same_layout(recorded: Any) -> None:
    for source in (recorded, "counter/test-v0"):
        observations, actions = minari_trajectories(source, length=4).tensors
        assert observations.dtype == actions.dtype == torch.float32
        assert observations[:, 0].tolist() == [[0, 0], [0, 3], [1, 0], [1, 3]]
        assert observations.shape == (4, 4, 2)
        assert actions.argmax(-1).tolist() == [[0, 1, 2], [0, 1, 2], [1, 2, 0], [1, 2, 0]]
    assert len(minari_trajectories(recorded, length=4, stride=1)) == 10


def test_a_recording_that_is_not_here_is_named(recorded: Any) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"counter/other-v0 not found locally .*minari download counter/other-v0"
    ):
        minari_trajectories("counter/other-v0")
    with pytest.raises(ValueError, match=r"the longest of 2 episode\(s\) has 8 observations, and length=9"):
        minari_trajectories(recorded, length=9)


def test_every_episode_has_a_start_of_its_own() -> None:
    observations, _ = trajectories("Pendulum-v1", num_steps=210, length=5, stride=200).tensors
    assert len(observations) == 2
    assert not torch.equal(observations[0, 0], observations[1, 0])
