"""State pairs from a simulated pendulum, cached in a file."""

from __future__ import annotations

import os

import numpy as np
import torch
from torch.utils.data import TensorDataset

from jepa.data.cache import Arrays, cached
from jepa.data.optional import optional


def pendulum_pairs(
    num_steps: int = 10_000, *, seed: int = 0, cache: str | os.PathLike[str] | None = None
) -> TensorDataset:
    """Pairs (state_t, state_t1) of gymnasium's Pendulum-v1 under random torques.

    A state is (cos, sin, angular velocity in rad/s); episodes are 200 steps long and no pair crosses their border.

    Args:
        num_steps: Number of pairs.
        seed: Of starts and torques.
        cache: An `.npz` file to read them from, or to write them to; one made with other arguments, or damaged, is
            replaced with a warning.

    Returns:
        Two float32 tensors (num_steps, 3).

    Raises:
        ImportError: gymnasium is needed and not installed.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    arguments = {"num_steps": num_steps, "seed": seed}
    pairs = cached(cache, arguments, lambda: _simulate(num_steps, seed), "simulating")
    return TensorDataset(torch.from_numpy(pairs["before"]), torch.from_numpy(pairs["after"]))


def _simulate(num_steps: int, seed: int) -> Arrays:
    gymnasium = optional("gymnasium", "rollouts", "world")
    environment = gymnasium.make("Pendulum-v1")
    environment.action_space.seed(seed)
    before = np.empty((num_steps, 3), np.float32)
    after = np.empty_like(before)
    state, _ = environment.reset(seed=seed)
    for row in range(num_steps):
        before[row] = state
        state, _, terminated, truncated, _ = environment.step(environment.action_space.sample())
        after[row] = state
        if terminated or truncated:
            state, _ = environment.reset()
    environment.close()
    return {"before": before, "after": after}
