"""Every number of a run that is scheduled or may be edited: learning rate, decay, EMA momentum, clip, loss weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from jepa.config.schema import TrainerConfig, unknown_key_error
from jepa.objectives.base import HyperParameter, Objective
from jepa.trainer.schedules import Adjustable, constant, cosine, linear, warmup_cosine

LEARNING_RATE = HyperParameter(1e-3, 0.0, 1e3, "per step")
WEIGHT_DECAY = HyperParameter(0.05, 0.0, 1e3, "decoupled")
EMA_MOMENTUM = HyperParameter(0.99, 0.0, 1.0, "share of the old target kept")
CLIP = HyperParameter(1.0, 1e-8, 1e8, "largest gradient norm")


class Rates:
    """Schedules of one run, and the edits made to them.

    Args:
        objective: Declares the hyper-parameters of its loss.
        optimizer: Gets learning rate and weight decay; the ratios between its groups are kept.
        scheduler: A torch scheduler that owns the learning rate, `"warmup_cosine"`, or `None` for a constant rate.
        config: Where schedules start and end.
        device: Where the objective's hyper-parameters live.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler | Literal["warmup_cosine"] | None,
        config: TrainerConfig,
        device: torch.device,
    ) -> None:
        if isinstance(scheduler, str) and scheduler != "warmup_cosine":
            raise ValueError(f"scheduler must be a torch scheduler, 'warmup_cosine' or None, got {scheduler!r}")
        self.scheduler = None if isinstance(scheduler, str) else scheduler
        self._planned = scheduler == "warmup_cosine"
        self._config = config
        self._optimizer = optimizer
        groups = optimizer.param_groups
        self._rate_base = max(float(group["lr"]) for group in groups) or 1.0
        self._rate_shares = [float(group["lr"]) / self._rate_base for group in groups]
        decays = [float(group.get("weight_decay", 0.0)) for group in groups]
        self._decay_base = max(decays)
        self._decay_shares = [decay / self._decay_base if self._decay_base else 0.0 for decay in decays]
        self.applied_rate = self._rate_base  # of the last step
        self._applied_decay: float | None = None
        self._adjustable = self._declare(objective)
        self.hyper: dict[str, Tensor] = {
            name: torch.tensor(spec.default, device=device) for name, spec in objective.hyper_parameters.items()
        }

    def _declare(self, objective: Objective) -> dict[str, Adjustable]:
        table: dict[str, Adjustable] = {}
        if self.scheduler is None:
            table["learning_rate"] = Adjustable(LEARNING_RATE, constant(self._rate_base))
        if self._decay_base:
            table["weight_decay"] = Adjustable(WEIGHT_DECAY, constant(self._decay_base))
        if objective.model.target.kind == "ema":
            table["ema_momentum"] = Adjustable(EMA_MOMENTUM, constant(self._config.ema_momentum), anchor=1.0)
        if self._config.clip_grad_norm is not None:
            table["clip_grad_norm"] = Adjustable(CLIP, constant(self._config.clip_grad_norm))
        for name, spec in objective.hyper_parameters.items():
            table[name] = Adjustable(spec)
        return table

    def plan(self, total_steps: int) -> None:
        """Lay the schedules over the true number of steps; edits made by hand stay."""
        config, table = self._config, self._adjustable
        if self._planned:
            warmup = round(config.warmup_fraction * total_steps)
            end = self._rate_base * config.min_learning_rate
            table["learning_rate"].schedule = warmup_cosine(self._rate_base, end, warmup, total_steps)
        if self._decay_base and config.final_weight_decay is not None:
            table["weight_decay"].schedule = cosine(self._decay_base, config.final_weight_decay, total_steps)
        if "ema_momentum" in table:
            table["ema_momentum"].schedule = linear(config.ema_momentum, config.final_ema_momentum, total_steps)

    def apply(self, step: int) -> None:
        """Give the optimizer the values for the step that follows `step` completed ones."""
        groups = self._optimizer.param_groups
        if self.scheduler is None:
            rate = self._adjustable["learning_rate"](step)
            for group, share in zip(groups, self._rate_shares, strict=True):
                group["lr"] = rate * share
        else:
            rate = self.learning_rate(step)
        self.applied_rate = rate
        if self._decay_base:
            decay = self._adjustable["weight_decay"](step)
            if decay != self._applied_decay:
                self._applied_decay = decay
                for group, share in zip(groups, self._decay_shares, strict=True):
                    group["weight_decay"] = decay * share

    def after_step(self) -> None:
        """Step a scheduler of the user's that counts optimizer updates."""
        if self.scheduler is not None and self._config.scheduler_interval == "step":
            self.scheduler.step()

    def after_epoch(self) -> None:
        """Step a scheduler of the user's that counts epochs."""
        if self.scheduler is not None and self._config.scheduler_interval == "epoch":
            self.scheduler.step()

    def learning_rate(self, step: int) -> float:
        """Learning rate of the first parameter group at its full share."""
        if self.scheduler is None:
            return self._adjustable["learning_rate"](step)
        return max(float(group["lr"]) for group in self._optimizer.param_groups)

    def ema_momentum(self, step: int) -> float:
        """Momentum of the EMA target; 1 where there is none."""
        adjustable = self._adjustable.get("ema_momentum")
        return 1.0 if adjustable is None else adjustable(step)

    def clip(self, step: int) -> float | None:
        """Largest gradient norm, `None` for no limit."""
        adjustable = self._adjustable.get("clip_grad_norm")
        return None if adjustable is None else adjustable(step)

    def values(self, step: int) -> dict[str, tuple[HyperParameter, float]]:
        """Everything that can be edited: name to range and present value."""
        values = {"learning_rate": (LEARNING_RATE, self.learning_rate(step))}
        values.update({name: (adjustable.spec, adjustable(step)) for name, adjustable in self._adjustable.items()})
        return values

    def extra_metrics(self, step: int) -> dict[str, float]:
        """Scheduled numbers worth recording beside the learning rate."""
        return {"ema_momentum": self.ema_momentum(step)} if "ema_momentum" in self._adjustable else {}

    def check(self, step: int, name: str, value: float, mode: str) -> dict[str, Any]:
        """Say what an edit would change; `edit` makes it.

        Returns:
            `name`, `old`, `new` and `mode`.

        Raises:
            ValueError: The name is unknown, the value out of range, or there is nothing to rescale.
        """
        known = self.values(step)
        if name not in known:
            raise unknown_key_error(name, known, "hyper-parameter")
        if mode not in ("scale", "hold"):
            raise ValueError(f"mode must be 'scale' or 'hold', got {mode!r}")
        spec, old = known[name]
        new = spec.check(name, value)
        if name == "learning_rate" and self.scheduler is not None and old == 0.0:
            raise ValueError("the learning rate is 0 now and cannot be rescaled; wait until the scheduler raises it")
        scalable = name not in self._adjustable or self._adjustable[name].scalable(step)
        return {"name": name, "old": old, "new": new, "mode": mode if scalable else "hold"}

    def edit(self, step: int, name: str, value: float, mode: Literal["scale", "hold"]) -> None:
        """Make an edit that `check` accepted."""
        if name == "learning_rate" and self.scheduler is not None:
            self._rescale_scheduler(value / self.learning_rate(step))
            return
        self._adjustable[name].edit(step, value, mode)
        if name in self.hyper:
            self.hyper[name].fill_(value)

    def _rescale_scheduler(self, factor: float) -> None:
        """Multiply the present rates and the bases that torch schedulers compute from."""
        assert self.scheduler is not None
        for group in self._optimizer.param_groups:
            group["lr"] = float(group["lr"]) * factor
            if "initial_lr" in group:
                group["initial_lr"] = float(group["initial_lr"]) * factor
        self.scheduler.base_lrs = [float(base) * factor for base in self.scheduler.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """The edits, by name."""
        return {name: adjustable.state_dict() for name, adjustable in self._adjustable.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Apply the edits of a checkpoint."""
        self._applied_decay = None
        for name, kept in state.items():
            if name in self._adjustable:
                self._adjustable[name].load_state_dict(kept)
        for name, tensor in self.hyper.items():
            tensor.fill_(self._adjustable[name](0))
