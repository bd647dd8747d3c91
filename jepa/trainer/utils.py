"""Small tools around training."""

from __future__ import annotations

import os
import platform
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, Subset

from jepa.files import write_text


def count_parameters(model: nn.Module, *, trainable_only: bool = True) -> int:
    """Number of parameters; only those that receive gradients, unless told otherwise.

    Example:
        >>> count_parameters(torch.nn.Linear(3, 2))
        8
    """
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


def plot_training_history(history: Any, save_path: str | os.PathLike[str] | None = None) -> Any:
    """The curves of a run as one plotly figure.

    Args:
        history: What `train` returned.
        save_path: Also write it there: `.html` (interactive), `.png` or `.json`.

    Returns:
        A `plotly.graph_objects.Figure`.
    """
    from jepa.figures import history_figure, save_figure

    figure = history_figure(history)
    if save_path is not None:
        save_figure(figure, save_path)
    return figure


def save_training_config(config: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write a configuration of plain values as YAML, atomically.

    Raises:
        TypeError: A value is not plain (numbers, strings, lists, mappings); the message names it.
    """
    import yaml

    try:
        text = yaml.safe_dump(dict(config), sort_keys=False)
    except yaml.representer.RepresenterError as error:
        raise TypeError(f"a training configuration holds plain values only: {error}") from error
    write_text(path, text)
    return Path(path)


def load_training_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `save_training_config` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not YAML, or not a mapping.
    """
    import yaml

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no configuration at {path} (looked from {Path.cwd()})")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a mapping, got {type(config).__name__}")
    return config


def create_data_splits(
    dataset: Dataset[Any], train: float = 0.8, val: float = 0.1, test: float | None = None, *, seed: int = 0
) -> tuple[Subset[Any], Subset[Any], Subset[Any]]:
    """Split a data set at random into training, validation and test parts.

    Args:
        dataset: With a length.
        train: Share of the training part.
        val: Share of the validation part.
        test: Share of the test part; what is left by default.
        seed: Decides which samples go where.

    Raises:
        ValueError: The shares are negative or add up to more than 1.
    """
    rest = 1.0 - train - val if test is None else test
    if min(train, val, rest) < -1e-9 or train + val + rest > 1 + 1e-9:
        raise ValueError(f"shares must be at least 0 and add up to at most 1, got {(train, val, rest)}")
    length = len(dataset)  # type: ignore[arg-type]
    order = torch.randperm(length, generator=torch.Generator().manual_seed(seed)).tolist()
    first, second = round(train * length), round((train + val) * length)
    third = length if test is None else round((train + val + rest) * length)
    return Subset(dataset, order[:first]), Subset(dataset, order[first:second]), Subset(dataset, order[second:third])


def setup_reproducibility(seed: int = 0, *, deterministic: bool = False) -> None:
    """Seed the process-wide generators of torch, Python and numpy.

    Args:
        seed: For all of them.
        deterministic: Also ask torch for deterministic algorithms (slower; an operation that has none raises).
            `False` leaves torch's mode as it is.
    """
    import numpy

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


def get_device_info() -> dict[str, Any]:
    """What this machine offers: torch version, devices with their memory in bytes, threads."""
    devices = [
        {"name": torch.cuda.get_device_name(index), "memory": torch.cuda.get_device_properties(index).total_memory}
        for index in range(torch.cuda.device_count())
    ]
    return {
        "device": default_device().type,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu_threads": torch.get_num_threads(),
        "cuda_devices": devices,
        "mps": torch.backends.mps.is_available(),
    }


def default_device() -> torch.device:
    """The best device there is: CUDA, then Apple's MPS, then the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def log_model_summary(model: nn.Module, logger: Any = None) -> str:
    """A table of the direct parts of a model with their parameters.

    Args:
        model: Any module.
        logger: A `logging.Logger` that gets the table at INFO, if given.

    Returns:
        The table.
    """
    rows: list[tuple[str, str, int, int]] = [
        (name, type(part).__name__, count_parameters(part, trainable_only=False), count_parameters(part))
        for name, part in model.named_children()
    ]
    total = count_parameters(model, trainable_only=False), count_parameters(model)
    rows.append(("total", type(model).__name__, *total))
    lines = [f"{'part':<16} {'type':<20} {'parameters':>12} {'trainable':>12}"]
    lines += [f"{name:<16} {kind:<20} {count:>12,} {trainable:>12,}" for name, kind, count, trainable in rows]
    table = "\n".join(lines)
    if logger is not None:
        logger.info("%s", table)
    return table


__all__: Sequence[str] = [
    "count_parameters",
    "create_data_splits",
    "default_device",
    "get_device_info",
    "load_training_config",
    "log_model_summary",
    "plot_training_history",
    "save_training_config",
    "setup_reproducibility",
]
