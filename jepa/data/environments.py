"""Trajectories (observations, actions) of an environment: simulated with gymnasium, or recorded with Minari.

Axes: N trajectories, T observations of one, A features of an action, C channels, H height, W width.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

from jepa.data.cache import Arrays, cached
from jepa.data.lazy import Size, height_and_width
from jepa.data.optional import optional

Policy = Literal["random"] | Callable[[Any, np.random.Generator], Any]


class Episode(NamedTuple):
    """One episode.

    Attributes:
        observations: (L + 1, ...), from that of the reset to the last.
        actions: (L, A), of which number i leads from observation i to i + 1.
    """

    observations: np.ndarray
    actions: np.ndarray


def trajectories(
    env: Any = "Pendulum-v1",
    *,
    num_episodes: int | None = None,
    num_steps: int | None = None,
    length: int = 16,
    stride: int | None = None,
    policy: Policy = "random",
    render: Size | None = None,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> TensorDataset:
    """Trajectories of equal length from a simulated environment, as the action-conditioned objective takes them.

    Args:
        env: Name of a gymnasium environment, or one that was made (with `render_mode="rgb_array"` if `render`).
        num_episodes: Episodes to simulate; either this or `num_steps`.
        num_steps: Steps to simulate; the last episode ends with them.
        length: Observations of a trajectory, T. An episode is cut into as many as it has room for; what remains is
            left out.
        stride: Steps from the start of one to that of the next; `length - 1` by default, where each step belongs to
            one trajectory and its end is the start of the next.
        policy: `"random"`, or `policy(observation, generator)` that returns an action and draws from numpy's
            `generator` if from any.
        render: Observe pictures of this height and width, one number or (H, W), in place of what the environment
            gives.
        seed: Of starts and actions.
        cache: An `.npz` file to read them from, or to write them to; one made with other arguments, or damaged, is
            replaced with a warning. Needs an environment given by its name, and the random policy.

    Returns:
        Observations (N, T, ...), float32, or uint8 (N, T, 3, H, W) if rendered, and actions (N, T - 1, A) float32,
        one-hot where they are discrete.

    Raises:
        ValueError: Not exactly one of `num_episodes` and `num_steps` is given, no episode is long enough, or the
            spaces have no such form.
        ImportError: gymnasium is not installed.
    """
    if (num_episodes is None) == (num_steps is None):
        raise ValueError(f"pass either num_episodes or num_steps, got {num_episodes} and {num_steps}")
    if min(num_episodes or 1, num_steps or 1) < 1 or 0 in (num_episodes, num_steps):
        raise ValueError(f"num_episodes and num_steps must be at least 1, got {num_episodes or num_steps}")
    if cache is not None and (not isinstance(env, str) or policy != "random"):
        raise ValueError(
            "a cache is recognised by its arguments, so it needs the name of an environment and policy='random'; "
            "without them keep what you get: numpy.savez(file, *(x.numpy() for x in dataset.tensors))"
        )
    stride = _check(length, stride)
    size = height_and_width(render)
    limits = {"num_episodes": num_episodes, "num_steps": num_steps}
    arguments = {"env": env, **limits, "length": length, "stride": stride, "render": size, "seed": seed}

    def simulate() -> Arrays:
        with _environment(env, size is not None) as environment:
            episodes = _episodes(environment, num_episodes, num_steps, policy, size, seed)
            return _cut(episodes, length, stride)

    arrays = cached(cache, arguments, simulate, "simulating")
    return TensorDataset(torch.from_numpy(arrays["observations"]), torch.from_numpy(arrays["actions"]))


def minari_trajectories(dataset: Any, *, length: int = 16, stride: int | None = None) -> TensorDataset:
    """Trajectories of equal length from a Minari dataset, in the layout of `trajectories`.

    Args:
        dataset: A `MinariDataset`, or the name of one on this machine (in `MINARI_DATASETS_PATH`, by default
            `~/.minari/datasets`). Nothing is downloaded.
        length: See `trajectories`.
        stride: See `trajectories`.

    Raises:
        FileNotFoundError: There is no such dataset on this machine.
        ValueError: No episode is long enough, or the spaces have no such form.
        ImportError: Minari is not installed.
    """
    stride = _check(length, stride)
    minari = optional("minari", "recorded trajectories", "world")
    if isinstance(dataset, str):
        try:
            dataset = minari.load_dataset(dataset)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error} In a shell: minari download {dataset}") from error
    _refuse_structured(dataset.observation_space)
    encode = action_encoder(dataset.action_space)
    episodes = (
        Episode(_plain(np.asarray(each.observations)), np.stack([encode(action) for action in each.actions]))
        for each in dataset.iterate_episodes()
    )
    arrays = _cut(episodes, length, stride)
    return TensorDataset(torch.from_numpy(arrays["observations"]), torch.from_numpy(arrays["actions"]))


def _check(length: int, stride: int | None) -> int:
    stride = max(1, length - 1) if stride is None else stride
    if length < 2 or stride < 1:
        raise ValueError(f"length must be at least 2 and stride at least 1, got {length} and {stride}")
    return stride


def _cut(episodes: Iterable[Episode], length: int, stride: int) -> Arrays:
    observations, actions, longest, count = [], [], 0, 0
    for episode in episodes:
        count += 1
        longest = max(longest, len(episode.observations))
        for start in range(0, len(episode.observations) - length + 1, stride):
            observations.append(episode.observations[start : start + length])
            actions.append(episode.actions[start : start + length - 1])
    if not observations:
        raise ValueError(
            f"no trajectory: the longest of {count} episode(s) has {longest} observations, and length={length}; use a "
            "smaller length, or more steps"
        )
    return {"observations": np.stack(observations), "actions": np.stack(actions)}


# Simulation


@contextmanager
def _environment(env: Any, render: bool) -> Iterator[Any]:
    """An environment by its name, closed at the end, or the user's own, left open."""
    if not isinstance(env, str):
        if render and env.render_mode != "rgb_array":
            raise ValueError(f"render= needs an environment made with render_mode='rgb_array', got {env.render_mode!r}")
        yield env
        return
    gymnasium = optional("gymnasium", "trajectories", "world")
    if render:
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # or pygame greets on standard output
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pictures need no display
    with closing(gymnasium.make(env, render_mode="rgb_array" if render else None)) as environment:
        yield environment


def _episodes(
    environment: Any,
    num_episodes: int | None,
    num_steps: int | None,
    policy: Policy,
    size: tuple[int, int] | None,
    seed: int,
) -> Iterator[Episode]:
    _refuse_structured(environment.observation_space if size is None else None)
    encode = action_encoder(environment.action_space)
    environment.action_space.seed(seed)
    generator = np.random.default_rng(seed)

    def observe(observation: Any) -> np.ndarray:
        return _plain(np.asarray(observation)) if size is None else _picture(environment.render(), size)

    done, steps = 0, 0
    while done != num_episodes and steps != num_steps:
        observation, _ = environment.reset(seed=seed if done == 0 else None)
        observations, actions, ended = [observe(observation)], [], False
        while not ended and steps != num_steps:
            action = environment.action_space.sample() if policy == "random" else policy(observation, generator)  # type: ignore[operator]
            observation, _, terminated, truncated, _ = environment.step(action)
            observations.append(observe(observation))
            actions.append(encode(action))
            ended = terminated or truncated
            steps += 1
        done += 1
        yield Episode(np.stack(observations), np.stack(actions))


def _picture(frame: Any, size: tuple[int, int]) -> np.ndarray:
    """A rendered frame (H, W, 3) as uint8 (3, H, W) of another size."""
    pixels = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float()
    return F.interpolate(pixels, size, mode="bilinear", antialias=True)[0].round().clamp(0, 255).byte().numpy()


def _plain(observations: np.ndarray) -> np.ndarray:
    """Bytes and whole numbers as they are, floats as float32."""
    return observations.astype(np.float32) if observations.dtype.kind == "f" else observations


def _refuse_structured(space: Any) -> None:
    if space is not None and type(space).__name__ not in ("Box", "Discrete", "MultiDiscrete", "MultiBinary"):
        raise ValueError(
            f"observations are a {type(space).__name__}, and must be arrays; wrap the environment: "
            "gymnasium.wrappers.FlattenObservation(env)"
        )


def action_encoder(space: Any) -> Callable[[Any], np.ndarray]:
    """A function that turns an action of a gymnasium space into float32 (A,): one-hot where it is discrete.

    Raises:
        ValueError: Actions are neither an array nor discrete.
    """
    kind = type(space).__name__
    if kind in ("Box", "MultiBinary"):
        return lambda action: np.asarray(action, np.float32).reshape(-1)
    if kind == "Discrete":
        codes = np.eye(int(space.n), dtype=np.float32)
        return lambda action: codes[int(action) - int(space.start)]
    if kind == "MultiDiscrete":
        sizes, first = space.nvec.reshape(-1), np.asarray(space.start).reshape(-1)
        return lambda action: np.concatenate(
            [np.eye(n, dtype=np.float32)[i] for n, i in zip(sizes, np.asarray(action).reshape(-1) - first, strict=True)]
        )
    raise ValueError(
        f"actions are a {kind}, and must be a Box, Discrete, MultiDiscrete or MultiBinary; wrap the environment so "
        "that they are"
    )
