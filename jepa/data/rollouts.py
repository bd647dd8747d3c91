"""State pairs from a simulated pendulum, cached in a file."""

from __future__ import annotations

import os
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import TensorDataset

from jepa.files import atomic_path


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
    path = Path(cache) if cache is not None else None
    pairs = _read(path, num_steps, seed) if path is not None and path.exists() else None
    if pairs is None:
        pairs = _simulate(num_steps, seed)
        if path is not None:
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.savez(file, before=pairs[0], after=pairs[1], arguments=np.array([num_steps, seed]))
    return TensorDataset(torch.from_numpy(pairs[0]), torch.from_numpy(pairs[1]))


def _read(path: Path, num_steps: int, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            arguments = tuple(kept["arguments"].tolist())
            if arguments == (num_steps, seed):
                return kept["before"], kept["after"]
        reason = f"was made with (num_steps, seed) = {arguments}"
    except (ValueError, TypeError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        reason = f"cannot be read ({error})"
    warnings.warn(f"{path} {reason}; simulating again and replacing it", stacklevel=3)
    return None


def _simulate(num_steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        import gymnasium
    except ImportError as error:
        raise ImportError("rollouts need gymnasium: pip install 'jepa-lab[world]'") from error
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
    return before, after
