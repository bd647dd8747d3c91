"""What is measured while training, without waiting for the device more often than the logging interval."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jepa import distributed
from jepa.diagnostics import effective_rank, embedding_std
from jepa.trainer import events
from jepa.trainer.step import StepResult

if TYPE_CHECKING:
    from jepa.trainer.trainer import JEPATrainer

STATUS_SECONDS = 1.0


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the message names step, batch and the last good checkpoint."""


class Recorder:
    """Turns step results into records: means over the interval, speed, and diagnostics within their budget."""

    def __init__(self, trainer: JEPATrainer) -> None:
        self._trainer = trainer
        self._losses: list[Tensor] = []
        self._positions: list[tuple[int, int, int, int]] = []
        self._interval: list[float] = []
        self._epoch_sum, self._epoch_count = 0.0, 0
        self._last: StepResult | None = None
        self._logged_step = -1
        self._mark_time, self._mark_step = time.perf_counter(), 0
        self._paused_at: float | None = None
        self._status_at = 0.0
        self._diagnosed = 0.0
        self._trained = 0.0
        self._largest_batch = 0
        self.steps_per_second = 0.0

    def begin(self) -> None:
        """Training begins or goes on."""
        self._mark_time, self._mark_step = time.perf_counter(), self._trainer.step

    def pause(self) -> None:
        """Stop the clock."""
        self._paused_at = self._paused_at or time.perf_counter()

    def resume(self) -> None:
        """Let the clock go on."""
        if self._paused_at is not None:
            self._mark_time += time.perf_counter() - self._paused_at
            self._paused_at = None

    def add(self, result: StepResult, batches: int) -> None:
        """Keep the loss of one step of so many batches, still on the device."""
        trainer = self._trainer
        self._losses.append(result.loss)
        self._positions.append((trainer.step, trainer.epoch, trainer.batches_done - batches, trainer.batches_done))
        self._last = result

    def collect(self, *, alone: bool = False) -> None:
        """Read the losses kept since the last call, averaged over ranks unless `alone`.

        Raises:
            NonFiniteLossError: One of them is NaN or infinite.
        """
        if not self._losses:
            return
        kept = torch.stack(self._losses)
        losses = kept.tolist() if alone else _mean_over_ranks(kept)
        positions = self._positions
        self._losses, self._positions = [], []
        for index, value in enumerate(losses):
            if not math.isfinite(value):
                self._trainer.saver.settle(alone=alone)  # the advice names the checkpoint that is being written, too
                raise self._non_finite(value, math.isfinite(kept[index]), *positions[index])
        self._interval += losses
        self._epoch_sum += sum(losses)
        self._epoch_count += len(losses)

    def _non_finite(
        self, value: float, elsewhere: bool, step: int, epoch: int, first: int, end: int
    ) -> NonFiniteLossError:
        batches = "; ".join(self._trainer.describe_batch(epoch, batch) for batch in range(first, end))
        where = f"batch {first} of another rank" if elsewhere else batches
        return NonFiniteLossError(self.advice(f"the loss is {value} at step {step} (epoch {epoch}, {where})"))

    def advice(self, what: str) -> str:
        """What happened, the checkpoint to go back to, and what to try."""
        good = self._trainer.last_checkpoint
        kept = f"the last good checkpoint is {good}" if good else "no checkpoint had been written yet"
        return f"{what}; {kept}; try a lower learning_rate, clip_grad_norm, or look for NaN in that batch"

    def log(self, result: StepResult) -> events.MetricsLogged:
        """Write one record of everything since the last one, and return it as the event to publish."""
        self.collect()
        trainer = self._trainer
        terms = self._reduced_terms(result)
        self._measure_speed()
        metrics = {
            "loss": sum(self._interval) / len(self._interval),
            **terms,
            "grad_norm": float(result.grad_norm),
            "learning_rate": trainer.rates.applied_rate,
            **trainer.rates.extra_metrics(trainer.step - 1),
            **self._diagnose(result),
        }
        if self.steps_per_second:
            metrics["steps_per_second"] = self.steps_per_second
        self._interval = []
        self._logged_step = trainer.step
        when = self.record(metrics)
        self._refresh_status()
        segment = trainer.run.segment if trainer.run else 0
        return events.MetricsLogged(trainer.step, trainer.epoch, metrics, when, segment)

    def _reduced_terms(self, result: StepResult) -> dict[str, float]:
        if not result.terms:
            return {}
        values = torch.stack([value.detach() for value in result.terms.values()])
        return dict(zip(result.terms, _mean_over_ranks(values), strict=True))

    def _measure_speed(self) -> None:
        now, step = time.perf_counter(), self._trainer.step
        seconds = now - self._mark_time
        if step > self._mark_step and seconds > 0:
            self.steps_per_second = (step - self._mark_step) / seconds
            self._trained += seconds
        self._mark_time, self._mark_step = now, step

    def _diagnose(self, result: StepResult) -> dict[str, float]:
        """Embedding statistics on rank 0, as long as they stay within their share of the training time."""
        trainer, embedding = self._trainer, result.embedding
        self._largest_batch = max(self._largest_batch, len(embedding))
        too_soon = self._diagnosed > trainer.config.diagnostics_budget * self._trained
        if trainer.rank != 0 or too_soon or len(embedding) < self._largest_batch:
            return {}  # an epoch's last, smaller batch would look like a collapse
        if not self._diagnosed:
            _spread(embedding)  # the first time takes many times as long, and would use up the budget of a short run
        start = time.perf_counter()
        values = _spread(embedding)
        self._diagnosed += time.perf_counter() - start
        return values

    def _refresh_status(self) -> None:
        now = time.monotonic()
        if now - self._status_at > STATUS_SECONDS:
            self._status_at = now
            self._trainer.write_status()

    def record(self, metrics: Mapping[str, float]) -> float:
        """Add to the history and to the run's metrics file; when, in seconds since 1970."""
        trainer, now = self._trainer, time.time()
        trainer.history.append(trainer.step, metrics, (trainer.epoch, now))
        if trainer.run is not None and trainer.rank == 0:
            trainer.run.record(trainer.step, trainer.epoch, metrics, now)
        return now

    def epoch_mean(self) -> float:
        """Mean loss of the epoch that has just ended; the next call starts a new one."""
        self.collect()
        mean = self._epoch_sum / max(self._epoch_count, 1)
        self._epoch_sum, self._epoch_count = 0.0, 0
        self.record({"epoch_loss": mean})
        return mean

    def finish(self) -> events.MetricsLogged | None:
        """Record what the last incomplete interval holds, if it holds anything."""
        self.collect()
        if self._last is not None and self._logged_step != self._trainer.step and self._interval:
            return self.log(self._last)
        return None

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs so that its records are those of an uninterrupted one."""
        return {
            "interval": list(self._interval),
            "epoch_sum": self._epoch_sum,
            "epoch_count": self._epoch_count,
            "logged_step": self._logged_step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.begin()
        self._losses, self._positions = [], []
        self._interval = list(state["interval"])
        self._epoch_sum, self._epoch_count = state["epoch_sum"], state["epoch_count"]
        self._logged_step = state["logged_step"]


def _spread(embedding: Tensor) -> dict[str, float]:
    return {"embedding_std": float(embedding_std(embedding)), "effective_rank": float(effective_rank(embedding))}


def _mean_over_ranks(values: Tensor) -> list[float]:
    """Read numbers from the device, averaged over the ranks (in float64, which not every device has, only then)."""
    return distributed.all_reduce_mean(values.double()).tolist() if distributed.world_size() > 1 else values.tolist()
