"""Every number of a run that is scheduled or may be edited: learning rate, decay, EMA momentum, clip, loss weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from jepa.config.schema import TrainerConfig, unknown_key_error
from jepa.objectives.base import HyperParameter, Objective
from jepa.trainer.control import Mode
from jepa.trainer.numbers import Number
from jepa.trainer.schedules import UNEDITED, Adjustable, Schedule, constant, cosine, linear, warmup_cosine

LEARNING_RATE = HyperParameter(1e-3, 0.0, 1e3, "per step")
WEIGHT_DECAY = HyperParameter(0.05, 0.0, 1e3, "decoupled")
EMA_MOMENTUM = HyperParameter(0.99, 0.0, 1.0, "share of the old target kept")
CLIP = HyperParameter(1.0, 1e-8, 1e8, "largest gradient norm")
LOG_EVERY = HyperParameter(10, 1, 1e9, "steps between two records", whole=True)

NEEDED = {  # what some numbers need of the trainer to be there
    "clip_grad_norm": "it clips nothing; create the trainer with a limit, such as clip_grad_norm=1e8, to set it later",
    "weight_decay": "nothing decays, so nothing says which weights should; create the trainer with some weight_decay",
    "ema_momentum": "its target is no moving average",
}


class GroupRates:
    """The learning rates in an optimizer's groups, moved by a torch scheduler or by nobody, and the edit made to them.

    Many torch schedulers compute a rate from the one before it, others from a base or a peak of their own. So that an
    edit means the same with all of them, a scheduler only ever sees its own rates: they are put back before its step
    and replaced by the edited ones after it.

    Args:
        optimizer: Holds the rates.
        scheduler: Moves them; `None` leaves that to the user's own code.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, scheduler: LRScheduler | None) -> None:
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._shares = shares([float(group["lr"]) for group in self._groups])
        self._scheduled: list[float] | None = None  # rates as the scheduler set them, while an edit is in force
        self._scale = 1.0
        self._held: list[float] | None = None

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return self._optimizer.param_groups  # loading a state replaces them

    def __call__(self) -> float:
        """The largest rate of all groups."""
        return max(self._present())

    def step(self) -> None:
        """Step the scheduler, if there is one."""
        if self._scheduler is None:
            return
        if self._scheduled is None:
            self._scheduler.step()
            return
        self.write(self._scheduled)
        self._scheduler.step()
        self._scheduled = self._present()
        self._write_edited()

    def scalable(self) -> bool:
        """Whether the scheduled rate can be rescaled; a rate of 0 can only be held."""
        return max(self._scheduled or self._present()) > 0

    def edit(self, value: float, mode: Mode) -> None:
        """Make the largest rate `value`, and go on along the rescaled schedule or stay there."""
        scheduled = self._scheduled or self._present()
        peak = max(scheduled)
        ratios = [rate / peak for rate in scheduled] if peak else self._shares
        if self._scheduler is None:
            self.write([value * ratio for ratio in ratios])
            return
        self._scheduled = scheduled
        if mode == "scale":
            self._scale, self._held = value / peak, None
        else:
            self._held = [value * ratio for ratio in ratios]
        self._write_edited()

    @property
    def course(self) -> str:
        """How the rates go on, in words."""
        if self._scheduler is None:
            return "as your own code sets it"
        return "held" if self._held else self._words(self._scale)

    def course_after(self, value: float, mode: Mode) -> str:
        """How they would go on after an edit."""
        if self._scheduler is None:
            return self.course
        return "held" if mode == "hold" else self._words(value / max(self._scheduled or self._present()))

    @staticmethod
    def _words(scale: float) -> str:
        return "as planned" if scale == 1.0 else f"rescaled x {scale:.4g}"

    def write(self, rates: Iterable[float]) -> None:
        """Give each group its rate."""
        for group, rate in zip(self._groups, rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _write_edited(self) -> None:
        assert self._scheduled is not None
        self.write(self._held or [min(rate * self._scale, LEARNING_RATE.high) for rate in self._scheduled])

    def _present(self) -> list[float]:
        return [float(group["lr"]) for group in self._groups]

    def state_dict(self) -> dict[str, Any]:
        """The edit; the optimizer keeps the edited rates, the scheduler its own state."""
        return {"scheduled": self._scheduled, "scale": self._scale, "held": self._held}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Apply the edit of a checkpoint; optimizer and scheduler have loaded theirs before."""
        self._scheduled, self._scale, self._held = state["scheduled"], state["scale"], state["held"]


class Rates:
    """Schedules of one run, and the edits made to them.

    Args:
        objective: Declares the hyper-parameters of its loss.
        optimizer: Gets learning rate and weight decay; the ratios between its groups are kept.
        scheduler: A torch scheduler that owns the learning rate, `"warmup_cosine"`, or `None`, which leaves the rates
            in the optimizer's groups alone.
        config: Where schedules start and end.
        device: Where the objective's hyper-parameters live.

    Raises:
        ValueError: `scheduler` is something else, or needs a metric to step.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        scheduler: LRScheduler | Literal["warmup_cosine"] | None,
        config: TrainerConfig,
        device: torch.device,
    ) -> None:
        if isinstance(scheduler, str) and scheduler != "warmup_cosine":
            raise ValueError(f"scheduler must be a torch scheduler, 'warmup_cosine' or None, got {scheduler!r}")
        if isinstance(scheduler, ReduceLROnPlateau):
            raise ValueError(
                "ReduceLROnPlateau needs a metric to step, which the trainer does not choose: pass scheduler=None and "
                "call scheduler.step(metric) in an on_epoch_ended callback, or pass another scheduler"
            )
        self.scheduler = None if isinstance(scheduler, str) else scheduler
        self._planned = scheduler == "warmup_cosine"
        self._config = config
        self._optimizer = optimizer
        groups = optimizer.param_groups
        self._group_rates = GroupRates(optimizer, self.scheduler)
        self._plain = not any(isinstance(group["lr"], Tensor) for group in groups)
        self._rate_base = self._group_rates() or 1.0
        self._rate_shares = shares([float(group["lr"]) for group in groups])
        decays = [float(group.get("weight_decay", 0.0)) for group in groups]
        self._decay_base = max(decays)
        self._decay_shares = shares(decays)
        self.applied_rate = self._rate_base  # of the last step
        self._applied_decay: float | None = None
        self._total = 1
        self._objective = objective
        self._moving: list[str] = []  # of the numbers of the loss, those that follow a schedule laid by hand
        self._views_move = False  # whether a number of the views follows one
        self._adjustable = self._declare(objective)
        self.hyper: dict[str, Tensor] = {
            name: torch.tensor(spec.default, device=device) for name, spec in objective.hyper_parameters.items()
        }
        if objective.view_parameters:
            self._set_views(0)  # another trainer may have left edits of its own there

    def _declare(self, objective: Objective) -> dict[str, Adjustable]:
        table: dict[str, Adjustable] = {}
        if self._planned:
            table["learning_rate"] = Adjustable(LEARNING_RATE, constant(self._rate_base))
        if self._decay_base:
            table["weight_decay"] = Adjustable(WEIGHT_DECAY, constant(self._decay_base))
        if objective.model.target.kind == "ema":
            table["ema_momentum"] = Adjustable(
                EMA_MOMENTUM, constant(self._config.ema_momentum), anchor=1.0, shape=linear
            )
        if self._config.clip_grad_norm is not None:
            table["clip_grad_norm"] = Adjustable(CLIP, constant(self._config.clip_grad_norm))
        table["log_every"] = Adjustable(LOG_EVERY, constant(self._config.log_every))
        for name, spec in {**objective.hyper_parameters, **objective.view_parameters}.items():
            table[name] = Adjustable(spec)
        return table

    def plan(self, total_steps: int, step: int = 0, previous_total: int | None = None) -> None:
        """Lay the schedules over the true number of steps; edits made by hand stay.

        Args:
            total_steps: Of the whole run.
            step: Steps done.
            previous_total: Steps planned before, if the run goes on under another plan: a rescaled value is then
                the same at `step` under both, and the rest of the new schedule is rescaled through it.
        """
        planned = self._schedules(total_steps)
        before = self._schedules(previous_total) if previous_total and previous_total != total_steps else {}
        self._total = total_steps
        for name, schedule in planned.items():
            adjustable = self._adjustable[name]
            if name in before:
                adjustable.schedule = before[name]  # a run taken up from a checkpoint has not laid it yet
                adjustable.replan(schedule, step)
            else:
                adjustable.schedule = schedule
        for adjustable in self._adjustable.values():
            adjustable.stretch(step, total_steps)
        self._fill(step)

    def _schedules(self, total_steps: int) -> dict[str, Schedule]:
        config, schedules = self._config, {}
        if self._planned:
            warmup = round(config.warmup_fraction * total_steps)
            end = self._rate_base * config.final_learning_rate_fraction
            start = self._rate_base * config.start_learning_rate_fraction
            schedules["learning_rate"] = warmup_cosine(self._rate_base, end, warmup, total_steps, start)
        if self._decay_base and config.final_weight_decay is not None:
            schedules["weight_decay"] = cosine(self._decay_base, config.final_weight_decay, total_steps)
        if "ema_momentum" in self._adjustable:
            schedules["ema_momentum"] = linear(config.ema_momentum, config.final_ema_momentum, total_steps)
        return schedules

    def apply(self, step: int) -> None:
        """Give the optimizer the values for the step that follows `step` completed ones."""
        groups = self._optimizer.param_groups
        self.applied_rate = rate = self.learning_rate(step)
        if self._planned and self._plain:
            for group, share in zip(groups, self._rate_shares, strict=True):
                group["lr"] = rate * share
        elif self._planned:
            self._group_rates.write(rate * share for share in self._rate_shares)
        if self._decay_base:
            decay = self._adjustable["weight_decay"](step)
            if decay != self._applied_decay:
                self._applied_decay = decay
                for group, share in zip(groups, self._decay_shares, strict=True):
                    group["weight_decay"] = decay * share

        self._fill(step)

    def _fill(self, step: int) -> None:
        """Give the objective the present values of its numbers that move."""
        for name in self._moving:
            self.hyper[name].fill_(self._adjustable[name](step))
        if self._views_move:
            self._set_views(step)

    def _set_views(self, step: int) -> None:
        names = self._objective.view_parameters
        self._objective.set_view_parameters({name: self._adjustable[name](step) for name in names})

    def _find_moving(self) -> None:
        self._moving = [name for name in self.hyper if self._adjustable[name].moves_by_hand]
        self._views_move = any(self._adjustable[name].moves_by_hand for name in self._objective.view_parameters)

    def after_step(self) -> None:
        """Step a scheduler of the user's that counts optimizer updates."""
        if self._config.scheduler_interval == "step":
            self._group_rates.step()

    def after_epoch(self) -> None:
        """Step a scheduler of the user's that counts epochs."""
        if self._config.scheduler_interval == "epoch":
            self._group_rates.step()

    def learning_rate(self, step: int) -> float:
        """Learning rate of the first parameter group at its full share."""
        return self._adjustable["learning_rate"](step) if self._planned else self._group_rates()

    def ema_momentum(self, step: int) -> float:
        """Momentum of the EMA target; 1 where there is none."""
        adjustable = self._adjustable.get("ema_momentum")
        return 1.0 if adjustable is None else adjustable(step)

    def clip(self, step: int) -> float | None:
        """Largest gradient norm, `None` for no limit."""
        adjustable = self._adjustable.get("clip_grad_norm")
        return None if adjustable is None else adjustable(step)

    @property
    def log_every(self) -> int:
        """Steps between two records."""
        return int(self._adjustable["log_every"](0))

    def values(self, step: int) -> dict[str, tuple[HyperParameter, float]]:
        """Everything that can be edited: name to range and present value."""
        values = {"learning_rate": (LEARNING_RATE, self.learning_rate(step))}
        values.update({name: (adjustable.spec, adjustable(step)) for name, adjustable in self._adjustable.items()})
        return values

    def numbers(self, step: int) -> dict[str, Number]:
        """Everything that can be edited, with how it goes on and how it may go on."""
        courses = self.courses()
        return {
            name: Number(spec, value, courses[name], self._modes(name, spec), name in self._objective.view_parameters)
            for name, (spec, value) in self.values(step).items()
        }

    def _modes(self, name: str, spec: HyperParameter) -> tuple[Mode, ...]:
        if spec.whole:
            return ("hold",)
        if name in self._objective.view_parameters:
            return ("hold", "schedule")
        return ("scale", "hold", "schedule") if name in self._adjustable else ("scale", "hold")

    def extra_metrics(self, step: int) -> dict[str, float]:
        """Scheduled numbers worth recording beside the learning rate."""
        return {"ema_momentum": self.ema_momentum(step)} if "ema_momentum" in self._adjustable else {}

    def courses(self) -> dict[str, str]:
        """How everything that can be edited goes on at present, in words."""
        rate = {} if self._planned else {"learning_rate": self._group_rates.course}
        return {**rate, **{name: adjustable.course for name, adjustable in self._adjustable.items()}}

    def check(self, step: int, name: str, value: float, mode: str) -> dict[str, Any]:
        """Say what an edit would change; `edit` makes it.

        Returns:
            `name`, `old`, `new`, `mode`, and `course`: how it goes on then, in words.

        Raises:
            ValueError: The name is unknown, the value out of range, or nothing can be done in that mode.
        """
        known = self.values(step)
        if name in NEEDED and name not in known:
            raise ValueError(f"{name} cannot be set in this run: {NEEDED[name]}")
        if name not in known:
            raise unknown_key_error(name, known, "hyper-parameter")
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be 'scale', 'hold' or 'schedule', got {mode!r}")
        spec, old = known[name]
        new = spec.check(name, value)
        adjustable = self._adjustable.get(name)
        if adjustable is None and mode == "schedule":
            raise ValueError(
                f"{name} is moved by your own scheduler or code, beside which no schedule can be laid: use "
                "mode='scale' or 'hold'"
            )
        scalable = self._group_rates.scalable() if adjustable is None else adjustable.scalable(step)
        if spec.whole and mode == "schedule":
            raise ValueError(f"{name} is a whole number, which follows no schedule: use mode='hold'")
        scalable = scalable and "scale" in self._modes(name, spec)
        mode = "hold" if mode == "scale" and not scalable else mode
        if name in self._objective.view_parameters:
            self._check_views(step, name, new, cast(Mode, mode))
        return {
            "name": name,
            "old": old,
            "new": new,
            "mode": mode,
            "course": self._course_after(step, name, new, cast(Mode, mode)),
        }

    def _course_after(self, step: int, name: str, value: float, mode: Mode) -> str:
        if name not in self._adjustable:
            return self._group_rates.course_after(value, mode)
        return self._edited(step, name, value, mode).course

    def _edited(self, step: int, name: str, value: float, mode: Mode) -> Adjustable:
        edited = copy.copy(self._adjustable[name])
        edited.edit(step, value, mode, self._total)
        return edited

    def _check_views(self, step: int, name: str, value: float, mode: Mode) -> None:
        """Raise a ValueError where the views could not be drawn, now or on the way to the end, after an edit."""
        table = {**self._adjustable, name: self._edited(step, name, value, mode)}
        now, end = (
            {each: table[each](when) for each in self._objective.view_parameters} for when in (step, self._total)
        )
        self._objective.check_view_parameters(now, end)

    def edit(self, step: int, name: str, value: float, mode: Mode) -> None:
        """Make an edit that `check` accepted."""
        if name not in self._adjustable:
            self._group_rates.edit(value, mode)
            return
        adjustable = self._adjustable[name]
        adjustable.edit(step, value, mode, self._total)
        if name in self.hyper:
            self.hyper[name].fill_(adjustable(step))
        elif name in self._objective.view_parameters:
            self._set_views(step)
        self._find_moving()

    def state_dict(self) -> dict[str, Any]:
        """The edits, by name."""
        edits = {name: adjustable.state_dict() for name, adjustable in self._adjustable.items()}
        return edits if self._planned else {**edits, "group_rates": self._group_rates.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Apply the edits of a checkpoint."""
        self._applied_decay = None
        for name, adjustable in self._adjustable.items():
            adjustable.load_state_dict(state.get(name, UNEDITED))  # older checkpoints know fewer names
        for name, tensor in self.hyper.items():
            tensor.fill_(self._adjustable[name](0))
        if self._objective.view_parameters:
            self._set_views(0)
        self._find_moving()
        if not self._planned and "group_rates" in state:
            self._group_rates.load_state_dict(state["group_rates"])


def shares(values: Sequence[float]) -> list[float]:
    """Each value as a share of the largest; equal shares where all are 0."""
    largest = max(values)
    return [value / largest if largest else 1.0 for value in values]
