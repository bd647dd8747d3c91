"""The typed configuration of a training run; every field can be passed to `create_trainer` by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, Literal

ALIASES = {  # what other libraries call it
    "lr": "learning_rate",
    "wd": "weight_decay",
    "grad_clip": "clip_grad_norm",
    "gradient_clip_val": "clip_grad_norm",
    "max_grad_norm": "clip_grad_norm",
    "gradient_accumulation_steps": "accumulate",
    "accumulate_grad_batches": "accumulate",
    "amp": "precision",
    "patience": "early_stopping",
    "verbose": "progress",
}
ELSEWHERE = {  # what is said in another place
    **dict.fromkeys(("num_epochs", "epochs", "max_epochs"), "trainer.train(loader, num_epochs=...)"),
    **dict.fromkeys(("max_steps", "steps"), "trainer.train(loader, max_steps=...)"),
    **dict.fromkeys(("batch_size", "num_workers", "shuffle"), "the loader, such as make_loader(data, batch_size=...)"),
}


def unknown_key_error(key: str, known: Iterable[str], where: str) -> ValueError:
    """An error that names the unknown key and the nearest known ones."""
    known = sorted(known)
    alias = ALIASES.get(key)
    nearest = [alias] if alias in known else difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(known)}"
    return ValueError(f"unknown {where} {key!r}; {hint}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerConfig:
    """How to train. Steps are optimizer updates; an epoch is one pass over the data.

    Args:
        learning_rate: Peak learning rate, reached after the warm-up.
        final_learning_rate_fraction: Where the cosine ends, as a fraction of `learning_rate`: 0.01 ends at a
            hundredth of the peak, 1 stays at the peak.
        warmup_fraction: Share of all steps in which the learning rate rises linearly.
        start_learning_rate_fraction: Where the warm-up begins, as a fraction of `learning_rate`.
        weight_decay: AdamW weight decay; biases and norms get none.
        final_weight_decay: Weight decay at the end of a cosine from `weight_decay`; `None` keeps it constant.
        betas: AdamW betas.
        ema_momentum: Momentum of the EMA target at the first step.
        final_ema_momentum: Momentum of the EMA target at the last step; linear in between.
        clip_grad_norm: Largest norm of the gradient; `None` leaves it alone.
        accumulate: Batches per optimizer step.
        precision: `"fp32"`, or `"bf16"` for autocast (weights and optimizer stay in fp32).
        compile: Compile the objective with `torch.compile`. On CPU this takes minutes and gains little.
        log_every: Steps between two records of the metrics.
        eval_every: Epochs between two passes over the validation data.
        checkpoint_every: Epochs between two checkpoints; at least one is written every ten minutes.
        keep_checkpoints: Newest checkpoints kept besides the first and the best one.
        keep_checkpoint_every: The first checkpoint after each so many steps is kept, too; `None` keeps none for good.
        monitor: Metric that tells the best checkpoint (lower is better): `val_loss` or `loss`;
            `None` means `val_loss` where there is validation data and `loss` otherwise.
        early_stopping: Evaluations without a better `monitor` after which training stops; `None` never stops early.
        diagnostics_budget: Share of the training time that online diagnostics may take.
        on_callback_error: `"stop"` ends the run, with a checkpoint, when a callback raises; `"continue"` warns, once
            for each method, and goes on.
        scheduler_interval: Whether a scheduler that you pass steps once a `"step"` or once an `"epoch"`.
        progress: Progress bar: `"auto"` shows one in a terminal.
        seed: Seed of data order, masks and augmentations.
    """

    learning_rate: float = 1e-3
    final_learning_rate_fraction: float = 0.01
    warmup_fraction: float = 0.1
    start_learning_rate_fraction: float = 0.0
    weight_decay: float = 0.05
    final_weight_decay: float | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    ema_momentum: float = 0.99
    final_ema_momentum: float = 1.0
    clip_grad_norm: float | None = 1.0
    accumulate: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    log_every: int = 10
    eval_every: int = 1
    checkpoint_every: int = 1
    keep_checkpoints: int = 3
    keep_checkpoint_every: int | None = None
    monitor: Literal["val_loss", "loss"] | None = None
    early_stopping: int | None = None
    diagnostics_budget: float = 0.005
    on_callback_error: Literal["stop", "continue"] = "stop"
    scheduler_interval: Literal["step", "epoch"] = "step"
    progress: bool | Literal["auto"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "learning_rate": (0, 1e3),
            "final_learning_rate_fraction": (0, 1),
            "warmup_fraction": (0, 1),
            "start_learning_rate_fraction": (0, 1),
            "weight_decay": (0, 1e3),
            "ema_momentum": (0, 1),
            "final_ema_momentum": (0, 1),
            "accumulate": (1, 10**6),
            "log_every": (1, 10**9),
            "eval_every": (1, 10**9),
            "checkpoint_every": (1, 10**9),
            "keep_checkpoints": (1, 10**9),
            "diagnostics_budget": (0, 1),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not isinstance(value, Real) or not low <= float(value) <= high:
                raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {value!r}")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and not isinstance(value, Integral):
                raise ValueError(f"{field.name} must be a whole number, got {value!r}")
        choices: dict[str, tuple[Any, ...]] = {
            "precision": ("fp32", "bf16"),
            "monitor": ("val_loss", "loss", None),
            "on_callback_error": ("stop", "continue"),
            "scheduler_interval": ("step", "epoch"),
            "progress": (True, False, "auto"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        switches: dict[str, tuple[type, str]] = {
            "clip_grad_norm": (Real, "a positive number"),
            "early_stopping": (Integral, "a positive whole number"),
            "keep_checkpoint_every": (Integral, "a positive whole number"),
        }
        for name, (kind, wanted) in switches.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, kind) or isinstance(value, bool) or not value > 0):
                raise ValueError(f"{name} must be {wanted} or None, got {value!r}")

    def updated(self, changes: Mapping[str, Any]) -> TrainerConfig:
        """A copy with `changes`; an unknown name is an error that names the nearest known one."""
        known = {field.name for field in fields(self)}
        for key in changes:
            if key in ELSEWHERE:
                raise ValueError(f"{key!r} is no training option; it is said in {ELSEWHERE[key]}")
            if key not in known:
                raise unknown_key_error(key, known, "training option")
        return replace(self, **changes)
