"""The trainer: the loop, and what can be asked of it from outside.

::

    train / start -> _prepare -> _loop -> _train_epoch -> _take_step
                                            |  between steps: commands, checkpoints
                                            +- after steps: records, events to callbacks and sinks
"""

from __future__ import annotations

import logging
import os
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from jepa import distributed
from jepa.config.schema import TrainerConfig
from jepa.data.source import BatchSource, DataLoaderSource, DataSize, as_source, size_of
from jepa.models.jepa import JEPA
from jepa.objectives import Draw, HyperParameter, Objective, as_objective
from jepa.trainer import events
from jepa.trainer.background import in_background
from jepa.trainer.branching import branch_off, go_back
from jepa.trainer.by_hand import ModelChangedError
from jepa.trainer.callback import Callback, EarlyStopping
from jepa.trainer.checkpoint import FILE, SHARDED
from jepa.trainer.control import Command, Control, Evaluate, Fork, Rewind, SaveCheckpoint, Ticket
from jepa.trainer.events import Sink, as_sinks
from jepa.trainer.frontend import where
from jepa.trainer.gate import Gate
from jepa.trainer.handle import RunHandle, weak_handle
from jepa.trainer.history import History
from jepa.trainer.inbox import Inbox
from jepa.trainer.lineage import Lineage
from jepa.trainer.listeners import Listeners
from jepa.trainer.live import LIVE_TRAINERS, take_over, wait_for_end
from jepa.trainer.memory import advise_on_memory
from jepa.trainer.numbers import Number
from jepa.trainer.rates import Rates
from jepa.trainer.recorder import NonFiniteLossError, Recorder
from jepa.trainer.run import RunFolder
from jepa.trainer.saver import Saver
from jepa.trainer.schedules import plan_steps
from jepa.trainer.signals import StopOnSignal
from jepa.trainer.snapshot import as_plain
from jepa.trainer.status import LIVE, Status
from jepa.trainer.step import StepResult, TrainStep, check_optimizer, is_sharded, may_draw
from jepa.trainer.turns import ShortTurns

logger = logging.getLogger(__name__)


class View(Protocol):
    """What a front end attaches to a trainer."""

    def show(self) -> None:
        """Show it, or show it again."""

    def close(self) -> None:
        """Show nothing new any more: another trainer has taken over."""


class JEPATrainer:
    """Trains a JEPA with an optimizer (and scheduler, loggers, callbacks) of your own.

    `create_trainer` builds one with good defaults; use this class for full control.

    Args:
        model: A `JEPA`, or an `Objective` that owns one.
        optimizer: Over the parameters of the objective (of the model, where the objective adds none).
        scheduler: A torch scheduler, stepped by the trainer; `"warmup_cosine"` plans one over the true number of
            steps; `None` leaves the rates to the optimizer's groups, where a callback may change them.
        logger: A sink, or several: callables that take events, or objects with `log(metrics, step=...)`. Each is called
            on a thread of its own, so that one that hangs does not hold the training, unless it has a true attribute
            `immediate`. On N ranks only rank 0's gets any.
        objective: Name of the objective when `model` is a `JEPA`.
        config: How to train.
        callbacks: Objects that act on the run, see `Callback`.
        run: The run folder; `None` writes nothing but what `save_checkpoint` is asked to.
        device: Where to train; where the model is, by default.
        val_loader: Validation data, in the layout of the training data.

    Raises:
        ValueError: The model does not fit the objective, the optimizer holds other parameters, or the scheduler needs
            a metric to step (`ReduceLROnPlateau`).
    """

    def __init__(
        self,
        model: JEPA | Objective,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler | Literal["warmup_cosine"] | None = None,
        logger: Sink | Sequence[Sink] | None = None,
        *,
        objective: str = "state_pair",
        config: TrainerConfig | None = None,
        callbacks: Sequence[Callback] = (),
        run: RunFolder | None = None,
        device: torch.device | str | None = None,
        val_loader: Any = None,
    ) -> None:
        self.config = config or TrainerConfig()
        self.objective = as_objective(model, objective)
        self.device = torch.device(device) if device else next(self.objective.parameters()).device
        self.objective.to(self.device)
        self.sharded = is_sharded(self.objective)
        self.optimizer = check_optimizer(optimizer, self.objective)
        self.run = run
        self.val_loader = val_loader
        self.rank, self.world_size = distributed.rank(), distributed.world_size()

        self.control = Control()
        self.history = History()
        self.step = 0
        self.epoch = 0
        self.total_steps = 0
        self.state = "idle"
        self.last_batch: Any = None
        self.last_draw: Draw | None = None
        self.view: View | None = None
        self.waits_by_default = where() != "frontend"
        self.ended = threading.Event()
        self.ended.set()

        self.rates = Rates(self.objective, self.optimizer, scheduler, self.config, self.device)
        self.recorder = Recorder(self)
        self.saver = Saver(self)
        self.lineage = Lineage(self)
        self.gate = Gate(self)
        self.inbox = Inbox(self)
        self.turns = ShortTurns()
        stopping = [] if self.config.early_stopping is None else [EarlyStopping(self.config.early_stopping)]
        self.listeners = Listeners([*callbacks, *stopping], on_error=self.config.on_callback_error)
        self.batches_done = 0  # in this epoch
        self.batches_drawn = 0  # in the run
        self.moved = False  # to another place in the data, by going back to a checkpoint
        self.spoilt = False
        self._generator: Tensor | None = None  # torch's, as it was before the step in progress
        self._may_draw = may_draw(self.objective)
        self._error: BaseException | None = None
        self._trace = ""
        self._source: BatchSource | None = None
        self._request: tuple[Any, int | None, int | None] | None = None
        self._train_step: TrainStep | None = None
        self._lifecycle = threading.Lock()
        self._thread_id: int | None = None
        self._validation: BatchSource | None = None
        for sink in as_sinks(logger) if self.rank == 0 else []:
            self.subscribe(in_background(sink))
        take_over(self)

    def __repr__(self) -> str:
        where = self.run.path if self.run else "no run folder"
        return f"<JEPATrainer {self.objective.name}: {self.state}, step {self.step} of {self.total_steps}, {where}>"

    # ------------------------------------------------------------------ what users call

    @property
    def model(self) -> JEPA:
        """The model being trained."""
        return self.objective.model

    @property
    def monitor(self) -> str:
        """The metric that tells the best checkpoint."""
        return self.config.monitor or ("val_loss" if self.val_loader is not None else "loss")

    @property
    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint that is complete, of those written or taken up."""
        return self.saver.last

    @property
    def is_live(self) -> bool:
        """Whether training goes on (or is paused) right now."""
        return self.state in LIVE

    def train(
        self, train_loader: Any, num_epochs: int | None = None, *, max_steps: int | None = None, val_loader: Any = None
    ) -> History:
        """Train in this thread until the end and return the history.

        The numbers are totals: a second call with the same ones has nothing to do, with larger ones it goes on.
        An interrupt (stop button, Ctrl-C, SIGTERM) ends at a step boundary with a checkpoint; the same call
        continues.

        Args:
            train_loader: A `DataLoader`, `MemoryLoader`, or any re-iterable of batches in the objective's layout.
            num_epochs: Passes over the data, in all.
            max_steps: Optimizer updates, in all; needed where the loader has no length.
            val_loader: Validation data; replaces the one given before.

        Returns:
            Everything recorded so far.

        Raises:
            ValueError: Nothing says how long to train, or the loader is empty.
            NonFiniteLossError: The loss became NaN or infinite; the last good checkpoint is kept.
            TrainingInterrupted: The run was interrupted and ended cleanly.
        """
        self._prepare(train_loader, num_epochs, max_steps, val_loader)
        with StopOnSignal(self.control) as stop:
            self._loop()
        kept = f"checkpoint: {self.last_checkpoint}" if self.last_checkpoint else "no checkpoint was written"
        stop.reraise(
            f"training stopped cleanly at step {self.step} of {self.total_steps} ({kept}); "
            "the same call goes on from there"
        )
        return self.history

    def start(
        self,
        train_loader: Any,
        num_epochs: int | None = None,
        *,
        max_steps: int | None = None,
        val_loader: Any = None,
        wait: bool | Literal["auto"] = "auto",
    ) -> RunHandle:
        """Train in a background thread and return a handle to the run at once.

        Args:
            train_loader: As in `train`.
            num_epochs: As in `train`.
            max_steps: As in `train`.
            val_loader: As in `train`.
            wait: Whether to return only when training has ended. `"auto"` waits where there is no front end, so
                that a batch run never ends untrained; code that steers the run passes `False` and ends with
                `await run` or `run.wait()`.

        Returns:
            The run's handle.
        """
        if self.waits_by_default if wait == "auto" else wait:
            self.train(train_loader, num_epochs, max_steps=max_steps, val_loader=val_loader)
            return RunHandle(self)
        self._prepare(train_loader, num_epochs, max_steps, val_loader)
        name = self.run.name if self.run else "run"
        thread = threading.Thread(target=self._loop_in_thread, name=f"jepa-{name}", daemon=True)
        thread.start()
        self._thread_id = thread.ident
        return RunHandle(self)

    def restart(self) -> RunHandle:
        """Go on in the background with the loader and the totals of the last `train` or `start`."""
        if self._request is None:
            raise RuntimeError("nothing was trained yet: call train(loader, num_epochs=...) or start(...) first")
        loader, num_epochs, max_steps = self._request
        return self.start(loader, num_epochs, max_steps=max_steps, wait=False)

    def submit(self, command: Command, source: str = "handle") -> Ticket:
        """Queue a command from any thread; without a live run it is refused at once."""
        ticket = self.control.submit(command, source)
        if not self.is_live:
            self._refuse_queued()
        return ticket

    def status(self) -> Status:
        """Where the run is; cheap, from any thread."""
        speed = self.recorder.steps_per_second
        left = (self.total_steps - self.step) / speed if speed > 0 and self.is_live else None
        error = f"{type(self._error).__name__}: {self._error}".removesuffix(": ") if self._error else None
        return Status(
            self.state, self.step, self.total_steps, self.epoch, speed, left, self.rates.learning_rate(self.step), error
        )

    def hyper_parameters(self) -> dict[str, tuple[HyperParameter, float]]:
        """What may be changed while training: name to range (with unit) and present value."""
        return self.rates.values(self.step)

    def courses(self) -> dict[str, str]:
        """How each of them goes on: `as planned`, `rescaled x 0.5`, `held`, `cosine to 1e-05 at step 400`."""
        return self.rates.courses()

    def numbers(self) -> dict[str, Number]:
        """Both, and the modes that `set` takes for each."""
        return self.rates.numbers(self.step)

    def ref(self) -> Callable[[], RunHandle | None]:
        """What gives a handle to this run for as long as the trainer lives, without keeping it alive."""
        return weak_handle(self)

    @property
    def traceback(self) -> str:
        """Traceback of what ended the run, empty unless it failed."""
        return self._trace

    def raise_failure(self) -> None:
        """Raise what ended the run, if it failed."""
        if self.state == "failed" and self._error is not None:
            raise self._error

    def subscribe(self, sink: Sink, *, every_step: bool = False) -> None:
        """Send events to `sink` from now on; `StepEnded` only if `every_step`."""
        self.listeners.subscribe(sink, every_step=every_step)

    def unsubscribe(self, sink: Sink) -> None:
        """Send no more events to `sink`."""
        self.listeners.unsubscribe(sink)

    # ------------------------------------------------------------------ checkpoints

    def save_checkpoint(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Write everything needed to go on, to `path` or into the run folder.

        Safe at any time: while the run trains in another thread it is written at the next step boundary.

        Raises:
            ValueError: No path was given and the trainer has no run folder.
        """
        if self.is_live and threading.get_ident() != self._thread_id:
            target = None if path is None else Path(path).absolute()
            ticket = self.submit(SaveCheckpoint(target))
            return Path(ticket.result()["path"])
        if path is None:
            self._check_worth_keeping()
        held = self.run is not None and self.run.is_open
        try:
            # Between runs the other ranks may not call this: what it needs of them is asked for while training only.
            alone = not self.is_live and not self.sharded
            written = self.saver.save(None if path is None else Path(path), alone=alone)
            self.saver.settle(alone=alone, required=True)
            return written
        finally:
            if not self.is_live:
                self.saver.close()
            if self.run is not None and not held:
                self.run.close()

    def _check_worth_keeping(self) -> None:
        """Raise a RuntimeError where the present state must not become that of the run."""
        if self.spoilt:
            raise RuntimeError(
                "the weights are not finite, or in the middle of an update: train goes on from the last good "
                "checkpoint; to keep them all the same, pass a path outside of the run"
            )
        if self.run is not None and self.run.journal_path.exists() and self.lineage.is_fresh:
            raise RuntimeError(
                f"run {self.run.name!r} has been trained before, and this trainer has not taken it up: train, or "
                "load_checkpoint, first; to keep these weights, pass a path outside of the run"
            )

    def load_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Take everything back from a checkpoint; the next `train` or `start` goes on from there.

        Raises:
            FileNotFoundError: There is no such file.
            CheckpointError: The file is damaged or belongs to another model or objective.
            RuntimeError: The run is training; stop it first.
        """
        self._check_idle("load a checkpoint into it")
        self.lineage.restore(self.lineage.read(Path(path)), Path(path))

    def rewind(self, checkpoint: str | int) -> None:
        """Go back to a checkpoint of this run: one that trains goes on from there at once, another with the next call.

        Args:
            checkpoint: Its step, or its file name in the run's `checkpoints/`; `"initial.pt"` is where the run began.

        Raises:
            ValueError: There is no such checkpoint.
        """
        folder = self.folder_for("rewind")
        if not self.is_live:
            go_back(self, folder.checkpoints.find(checkpoint))
            return
        ticket = self.submit(Rewind(checkpoint))
        if threading.get_ident() != self._thread_id:  # a callback's wish is granted after the step
            ticket.result()

    def fork(self, name: str, checkpoint: str | int | None = None) -> Path:
        """Go on in a new run folder beside this one, which stays as it is and can be continued itself.

        Args:
            name: Of the new run.
            checkpoint: Where it branches off, as in `rewind`; here and now by default.

        Returns:
            The new folder.

        Raises:
            ValueError: The name is taken, or there is no such checkpoint.
        """
        folder = self.folder_for("fork")
        if not self.is_live:
            return branch_off(self, name, None if checkpoint is None else folder.checkpoints.find(checkpoint).name)
        ticket = self.submit(Fork(name, checkpoint))
        if threading.get_ident() != self._thread_id:
            ticket.result()
        return folder.path.parent / name

    def folder_for(self, wish: str) -> RunFolder:
        """The run folder.

        Raises:
            ValueError: There is none.
        """
        if self.run is None:
            raise ValueError(f"there is nothing to {wish} without a run folder: create the trainer with run='name'")
        return self.run

    def checkpoint_path(self, path: Path | None) -> Path:
        """Where `save_checkpoint(path)` writes."""
        if path is not None:
            return path
        if self.run is None:
            raise ValueError("this trainer has no run folder: pass the file to write, save_checkpoint('model.pt')")
        return self.run.checkpoints.file(self.step).with_suffix(self.checkpoint_suffix)

    @property
    def checkpoint_suffix(self) -> str:
        """`".pt"`, or `".dcp"` for the folders of a sharded model."""
        return SHARDED if self.sharded else FILE

    # ------------------------------------------------------------------ before training

    def _prepare(self, loader: Any, num_epochs: int | None, max_steps: int | None, val_loader: Any) -> None:
        """Check everything that can go wrong and plan the run, in the caller's thread, before any work is done."""
        with self._lifecycle:
            self._check_idle("start it again")
            self._wait_until_put_away()
            take_over(self, at_start=True)
            if val_loader is not None:
                self.val_loader = val_loader
            if self.val_loader is None and self.monitor.startswith("val_"):
                raise ValueError(f"monitor={self.monitor!r} needs validation data: pass val_loader=")
            source = self.source_of(loader)
            validation = self.source_of(self.val_loader) if self.val_loader is not None else None
            total = plan_steps(source.batches_per_epoch, self.config.accumulate, num_epochs, max_steps)
            before = self.state
            try:
                self._continue_run(size_of(source))
                self._plan(source, validation, total)
                self._request = (loader, num_epochs, max_steps)
                self._error, self._trace = None, ""
                self.gate.open()
                self._thread_id = threading.get_ident()
                self._refuse_queued()
                self.ended.clear()
                LIVE_TRAINERS.add(self)
                self.state = "running"
                self.inbox.open()
                self.write_status()
                if self.view is not None:
                    self.view.show()
            except BaseException:
                self.state = before
                with suppress(OSError):
                    self.write_status()
                self._let_go()
                raise

    def source_of(self, loader: Any) -> BatchSource:
        """A loader as this process reads it."""
        return as_source(
            loader,
            seed=self.config.seed,
            rank=self.rank,
            world_size=self.world_size,
            device=self.device,
            on_worker_lost=lambda what: self.journal("WorkerLost", durable=False, error=what),
        )

    def _check_idle(self, wish: str) -> None:
        if self.is_live:
            name = f"run {self.run.name!r}" if self.run else "this run"
            raise RuntimeError(
                f"{name} is {self.state} at step {self.step}: cannot {wish}. "
                "Stop it first (run.stop(), or the panel's Stop), or wait for its end (await run)"
            )

    def _wait_until_put_away(self) -> None:
        """The last run says that it has ended before all of it is put away, which would take down the next one."""
        if not self.ended.is_set() and self._thread_id == threading.get_ident():
            raise RuntimeError("a callback cannot start the run that it is the end of: start it after run.wait()")
        wait_for_end(self)

    def _continue_run(self, size: DataSize | None) -> None:
        if self.run is not None:
            self.lineage.take_up(self.run, size)
        if self.spoilt:
            warnings.warn(
                "the last run broke in the middle of an update or with a loss that is not finite, and there is no "
                "checkpoint to go back to: this one goes on with the weights as they are",
                stacklevel=5,
            )
            self.spoilt = False
        self.lineage.check_same_data(size)

    def describe(self, size: DataSize | None = None) -> dict[str, Any]:
        """What makes this run this run, as plain values: a continued run must agree with it."""
        cosmetic = {
            "progress",
            "log_every",
            "keep_checkpoints",
            "keep_checkpoint_every",
            "diagnostics_budget",
            "on_callback_error",
        }
        config = {key: value for key, value in asdict(self.config).items() if key not in cosmetic}
        return as_plain(
            {
                "objective": {"name": self.objective.name, **self.objective.config()},
                "architecture": {
                    name: repr(getattr(self.model, name)).replace("FSDP", "") if part is None else part
                    for name, part in self.model.config().items()
                },
                "optimizer": type(self.optimizer).__name__,
                "training": config,
                "data": size,
            }
        )

    def _plan(self, source: BatchSource, validation: BatchSource | None, total: int) -> None:
        self._source, self._validation = source, validation
        if self.step and total < self.total_steps:
            warnings.warn(
                f"the run was planned for {self.total_steps:,} steps, and now for {total:,}: its schedules are laid "
                "over these anew, and come to their end the sooner",
                stacklevel=4,
            )
        self.rates.plan(total, step=self.step, previous_total=self.total_steps or None)
        self.total_steps = total
        if self._train_step is None:
            self._train_step = TrainStep(
                self.objective,
                self.optimizer,
                self.device,
                self.rates.hyper,
                precision=self.config.precision,
                compiled=self.config.compile,
                distributed=self.world_size > 1,
            )
        if self.batches_done and source.notes:
            warnings.warn("; ".join(source.notes), stacklevel=4)
        if self.step >= total:
            warnings.warn(
                f"nothing to do: the run is at step {self.step} of {total}; a larger num_epochs or max_steps goes on",
                stacklevel=4,
            )

    # ------------------------------------------------------------------ the loop

    def _loop_in_thread(self) -> None:
        try:
            self._loop(in_background=True)
        except BaseException:  # kept for the handle and shown by the panel; a thread has nobody to raise to
            logger.debug("training thread ended", exc_info=True)

    def _loop(self, *, in_background: bool = False) -> None:
        self._thread_id = threading.get_ident()
        try:
            if in_background:
                self.turns.begin()
            with torch.enable_grad():
                self._begin()
                while self.step < self.total_steps and not self.gate.stopping:
                    self._train_epoch()
                state = "finished" if self.step >= self.total_steps else "stopped"
                self._end(state)
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._let_go()

    def _begin(self) -> None:
        assert self._source is not None
        self.lineage.restore_randomness()
        self.objective.train()
        self.optimizer.zero_grad(set_to_none=True)  # of a step that failed half-way
        self.recorder.begin()
        folder = self.run.path if self.run else None
        self.saver.begin()
        self.lineage.say_started(self._source.notes)
        if self.lineage.begins:
            self.saver.save_initial()
        self.publish(events.RunStarted(self.step, self.epoch, self.total_steps, folder))
        self.publish(events.StateChanged(self.step, self.epoch, self.state))

    def _train_epoch(self) -> None:
        assert self._source is not None
        self.publish(events.EpochStarted(self.step, self.epoch))
        batches = self._source.batches(self.epoch, self.batches_done)
        before = self.batches_done
        while self.step < self.total_steps:
            self.moved = False
            if not self.gate.wait() or self.moved:
                return
            window = list(islice(batches, self.config.accumulate))
            if not window:
                break
            self._take_step(window)
            if self.batches_done == self._source.batches_per_epoch:
                break
        else:
            if self._source.batches_per_epoch is None or self.batches_done < self._source.batches_per_epoch:
                return  # the last step came in the middle of an epoch
        if self.batches_done == before == 0:
            raise ValueError(f"the loader gave no batch in epoch {self.epoch}; it must be re-iterable and not empty")
        self._end_epoch()

    def _take_step(self, window: list[Any]) -> None:
        assert self._train_step is not None
        seed, drawn = self.config.seed, self.batches_drawn
        draws = [Draw(seed, drawn + index, self.rank, self.world_size) for index in range(len(window))]
        self.rates.apply(self.step)
        self._generator = torch.get_rng_state() if self._may_draw else None
        result = self._train_step(
            window, draws, ema_momentum=self.rates.ema_momentum(self.step), clip=self.rates.clip(self.step)
        )
        self.last_batch, self.last_draw = window[-1], draws[-1]
        self.batches_drawn += len(window)
        self.batches_done += len(window)
        self.step += 1
        self._generator = None
        self.rates.after_step()
        self._train_step.updating = False
        self.gate.step_taken()
        self._after_step(result, len(window))

    def _after_step(self, result: StepResult, batches: int) -> None:
        self.recorder.add(result, batches)
        due = self.step % self.rates.log_every == 0 or self.step == 1
        logged = self.recorder.log(result) if due else None  # before a callback may end the run
        if self.listeners.want_steps:
            self.publish(events.StepEnded(self.step, self.epoch, result.loss, result.terms))
        if logged is not None:
            self.publish(logged)
            if self.run is not None:
                self.saver.ask_when_due()

    def _end_epoch(self) -> None:
        self.epoch += 1
        self.batches_done = 0
        self.rates.after_epoch()
        metrics = {"loss": self.recorder.epoch_mean()}
        due = self.epoch % self.config.eval_every == 0
        if due and self._validation is not None:
            metrics.update(self.evaluate())
        self.journal("EpochEnded", durable=False, epoch=self.epoch, metrics=metrics)
        self.publish(events.EpochEnded(self.step, self.epoch, metrics))
        if self.epoch % self.config.checkpoint_every == 0:
            self.saver.observe(metrics.get(self.monitor, float("inf")))
            if self.run is not None:
                self.saver.save()

    def evaluate(self) -> dict[str, float]:
        """Loss and its terms over the validation data: `val_loss` and so on. Recorded at the present step."""
        from jepa.trainer.eval import evaluate_objective

        if self.is_live and threading.get_ident() != self._thread_id:
            ticket = self.submit(Evaluate())
            ticket.result()
            return ticket.value
        if self._validation is None:
            if self.val_loader is None:
                raise ValueError("there is no validation data: pass val_loader= to create_trainer or train")
            self._validation = self.source_of(self.val_loader)
        losses = evaluate_objective(self.objective, self._validation, self.device, self.rates.hyper, self.config.seed)
        metrics = {f"val_{name}": value for name, value in losses.items()}
        self.recorder.record(metrics)
        self.publish(events.Evaluated(self.step, self.epoch, metrics))
        return metrics

    def describe_batch(self, epoch: int, batch: int) -> str:
        """Which samples a batch holds, for messages."""
        assert self._source is not None
        return self._source.describe(epoch, batch)

    # ------------------------------------------------------------------ the end

    def _end(self, state: str) -> None:
        # The interval of a stopped run is completed when it goes on.
        last = self.recorder.finish() if state == "finished" else None
        if last is not None:
            self.publish(last)
        if self.run is not None and (last is not None or self.saver.saved_step != self.step):
            self.saver.save()
        self.saver.settle(required=True)
        self.journal("RunEnded", state=state)
        self.set_state(state)
        self.publish(events.RunEnded(self.step, self.epoch, state, self.last_checkpoint))

    def _fail(self, error: BaseException) -> None:
        advise_on_memory(error)
        self._error = error
        self._trace = "".join(traceback.format_exception(error))
        torn = self._train_step is not None and self._train_step.updating
        self.spoilt = torn or isinstance(error, NonFiniteLossError | ModelChangedError)
        try:
            self._rescue()
        finally:
            self.state = "failed"  # whatever else goes wrong here
        for say in (
            lambda: self.journal("RunFailed", error=f"{type(error).__name__}: {error}"),
            lambda: self.set_state("failed"),
            lambda: self.publish(events.RunFailed(self.step, self.epoch, error, self._trace)),
        ):
            try:
                say()
            except Exception:  # a full disk, a callback: the first error is the one to raise
                logger.exception("the end of the run could not be reported")

    def _rescue(self) -> None:
        """Keep the work done so far, unless the weights are bad or in the middle of an update."""
        try:
            self.saver.settle(alone=True)  # the other ranks may be elsewhere, or gone
            if self.run is None or self.spoilt or self.saver.saved_step == self.step or self.step == 0:
                return
            if self.sharded:
                raise RuntimeError("the model is sharded, and the other ranks would have to write their parts")
            self.saver.save(alone=True, generator=self._generator)
            self.saver.settle(alone=True, required=True)
        except Exception as second:
            why = second.strerror if isinstance(second, OSError) and second.strerror else str(second)
            what = "" if why.startswith("no checkpoint") else f"no checkpoint could be written at step {self.step}: "
            warnings.warn(f"{what}{why}", RuntimeWarning, stacklevel=2)

    def _let_go(self) -> None:
        LIVE_TRAINERS.discard(self)
        self.lineage.note_end()
        # Done from the last to the first, whatever goes wrong with one of them.
        with ExitStack() as last_things:
            last_things.callback(self.ended.set)
            last_things.callback(self.turns.end)
            last_things.callback(self._refuse_queued)
            if self.run is not None:
                last_things.callback(self.run.close)
            last_things.callback(self.inbox.close)
            last_things.callback(self._refuse_queued)
            for source in (self._source, self._validation):
                if isinstance(source, DataLoaderSource):
                    last_things.callback(source.close)
            last_things.callback(self.saver.close)
            last_things.callback(self.gate.close, others_are_here=self.state != "failed")

    def _refuse_queued(self) -> None:
        for ticket in self.control.drain():
            method = {Rewind: "rewind", Fork: "fork"}.get(type(ticket.command))
            hint = f"; use trainer.{method}(...) on one at rest" if method else ""
            ticket.refuse(self.step, RuntimeError(f"{ticket.command} came too late: the run is {self.state}{hint}"))

    # ------------------------------------------------------------------ saying so

    def publish(self, event: events.Event) -> None:
        """Tell callbacks and sinks."""
        self.listeners.publish(self, event)

    def journal(self, event: str, *, step: int | None = None, durable: bool = True, **fields: Any) -> None:
        """Write a line into the run's journal (training thread); see `RunFolder.journal`."""
        if self.run is not None and self.rank == 0:
            self.run.journal(event, self.step if step is None else step, durable=durable, **fields)

    def set_state(self, state: str) -> None:
        """Change the state and say so (training thread)."""
        self.state = state
        self.write_status()
        self.publish(events.StateChanged(self.step, self.epoch, state))

    def write_status(self) -> None:
        """Renew `status.json`, which also tells other processes what may be asked of the run."""
        if self.run is not None and self.rank == 0 and self.run.is_open:
            numbers = {name: number.as_data() for name, number in self.numbers().items()}
            more = {"evaluates": self.val_loader is not None, "hyper_parameters": numbers}
            self.run.write_status(asdict(self.status()) | more)
