"""A swinging pendulum seen as pictures, with its true state to probe for.

Axes: N samples, E episodes, F pictures of an episode, T time steps of a sample, H height, W width.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from jepa.data.environments import trajectories

EPISODE = 200  # steps of Pendulum-v1

Layout = Literal["states", "pairs", "trajectories", "video"]


def pendulum_pixels(
    num_steps: int = 6_000,
    *,
    layout: Layout = "states",
    length: int = 6,
    size: int = 32,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> TensorDataset:
    """Pictures of gymnasium's Pendulum-v1 under random torques, grey and cut to the part in which it swings.

    One picture does not show how fast it swings, so an observation is two successive ones (2, H, W), from which the
    state can be told: (cos, sin, angular velocity in rad/s), at the later one. The same arguments give the same
    episodes in every layout, and can share a cache.

    Args:
        num_steps: Steps to simulate, rounded up to whole episodes of 200.
        layout: What a sample is.
            `"states"`: an observation and its state (3,).
            `"pairs"`: an observation and the next one, for the state-pair objective.
            `"trajectories"`: observations (T, 2, H, W) and the torques between them (T - 1, 1).
            `"video"`: pictures (1, T, H, W) and the state at the last one.
        length: T.
        size: H and W in pixels.
        seed: Of starts and torques.
        cache: An `.npz` file that keeps the pictures; rendering them takes some 8 ms each.

    Returns:
        Two tensors of N samples; pictures are uint8, 0 where nothing is.

    Raises:
        ValueError: The layout is unknown, or a number is out of range.
        ImportError: gymnasium or pygame-ce is not installed.
    """
    if layout not in get_args(Layout):
        raise ValueError(f"layout must be one of {', '.join(map(repr, get_args(Layout)))}, got {layout!r}")
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    if not 2 <= length <= EPISODE:
        raise ValueError(f"length must lie in [2, {EPISODE}], got {length}")
    simulate = partial(trajectories, num_episodes=-(-num_steps // EPISODE), length=EPISODE + 1, seed=seed)
    shown, torques = simulate(render=2 * size, cache=cache).tensors
    pictures = _grey(shown[..., size // 2 : size // 2 + size, size // 2 : size // 2 + size])
    states = simulate().tensors[0]  # the same episodes: pictures draw nothing at random
    observations = torch.stack([pictures[:, :-1], pictures[:, 1:]], dim=2)  # (E, F - 1, 2, H, W)
    if layout == "states":
        return TensorDataset(observations.flatten(0, 1), states[:, 1:].flatten(0, 1))
    if layout == "pairs":
        return TensorDataset(observations[:, :-1].flatten(0, 1), observations[:, 1:].flatten(0, 1))
    if layout == "trajectories":
        between = _windows(torques[:, 1:], length - 1)
        return TensorDataset(_windows(observations, length).flatten(0, 1), between.flatten(0, 1))
    clips = _windows(pictures, length)  # (E, F - T + 1, T, H, W)
    return TensorDataset(clips.flatten(0, 1).unsqueeze(1), states[:, length - 1 :].flatten(0, 1))


def _grey(pictures: Tensor) -> Tensor:
    """(..., 3, H, W) of a dark pendulum on white, as (..., H, W) of a bright one on black."""
    return (255 - pictures.float().mean(dim=-3)).round().byte()


def _windows(x: Tensor, size: int) -> Tensor:
    """All runs of `size` neighbours along the second axis: (E, F, ...) to (E, F - size + 1, size, ...)."""
    return x.unfold(1, size, 1).movedim(-1, 2)
