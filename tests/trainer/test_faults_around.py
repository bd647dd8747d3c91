"""What goes wrong around a run: killed workers, broken callbacks, no memory, a clock that jumps."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from jepa.data import MemoryLoader
from jepa.files import read_lines
from jepa.models import JEPA
from jepa.trainer import Callback, JEPATrainer, NonFiniteLossError, events
from jepa.trainer.memory import is_out_of_memory
from tests.noisy import Noisy

MakeTrainer = Callable[..., JEPATrainer]


class KillWorker(Callback):
    """Kills one of the loader's workers after given steps."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
        """Kill."""
        if event.step in self.steps:
            worker = multiprocessing.active_children()[0]
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)
            worker.join(30)


def weights(trainer: JEPATrainer) -> list[Tensor]:
    """Of everything that is trained, and of the targets."""
    return list(trainer.objective.state_dict().values())


def assert_same_weights(one: JEPATrainer, other: JEPATrainer) -> None:
    """Equal to the last bit."""
    assert one.step == other.step
    for mine, theirs in zip(weights(one), weights(other), strict=True):
        assert torch.equal(mine, theirs)


def journal(trainer: JEPATrainer, event: str) -> list[dict[str, Any]]:
    """The run's journal lines of one kind."""
    assert trainer.run is not None
    return [line for line in read_lines(trainer.run.journal_path) if line["event"] == event]


# ---------------------------------------------------------------------- workers


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kills processes by signal")
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_whose_workers_are_killed_equals_an_undisturbed_one(
    make_trainer: MakeTrainer, pairs: Any, persistent: bool, accumulate: int
) -> None:
    options = {"accumulate": accumulate, "log_every": 1}
    alone = DataLoader(Noisy(pairs), batch_size=4, shuffle=True)
    helped = DataLoader(Noisy(pairs), batch_size=4, shuffle=True, num_workers=2, persistent_workers=persistent)
    whole = make_trainer(**options)
    whole.train(alone, num_epochs=3)
    per_epoch = 12 // accumulate
    part = make_trainer(run="workers", callbacks=[KillWorker(2, per_epoch + 3)], **options)
    with pytest.warns(RuntimeWarning, match="DataLoader worker .* was killed by signal 9"):
        part.train(helped, num_epochs=3)
    assert_same_weights(part, whole)
    assert part.history["loss"] == whole.history["loss"]
    lost = journal(part, "WorkerLost")
    assert [line["step"] for line in lost] == [2, per_epoch + 3]
    assert "was killed by signal 9, before batch" in lost[0]["error"]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kills processes by signal")
def test_a_run_in_a_thread_outlives_its_workers_too(make_trainer: MakeTrainer, pairs: Any) -> None:
    loader = DataLoader(Noisy(pairs), batch_size=4, shuffle=True, num_workers=2)
    list(loader)  # the handler that PyTorch leaves behind would raise in this thread
    whole = make_trainer()
    whole.train(DataLoader(Noisy(pairs), batch_size=4, shuffle=True), num_epochs=2)
    part = make_trainer(run="thread", callbacks=[KillWorker(3)])
    with pytest.warns(RuntimeWarning, match="was killed by signal 9"):
        part.start(loader, num_epochs=2, wait=False).wait()
    assert part.state == "finished"
    assert_same_weights(part, whole)


# ---------------------------------------------------------------------- callbacks


class Broken(Callback):
    """Raises after each step and at each record."""

    def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
        """Raise."""
        raise KeyError("no such column")

    def on_metrics_logged(self, trainer: JEPATrainer, event: events.MetricsLogged) -> None:
        """Raise."""
        raise OSError("the network is down")


def test_a_run_goes_on_past_a_broken_callback_where_that_is_wanted(
    make_trainer: MakeTrainer, loader: MemoryLoader
) -> None:
    whole = make_trainer()
    whole.train(loader, num_epochs=2)
    seen: list[int] = []

    class Counts(Callback):
        def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
            seen.append(event.step)

    trainer = make_trainer(run="broken", callbacks=[Broken(), Counts()], on_callback_error="continue")
    with pytest.warns(RuntimeWarning) as told:
        trainer.train(loader, num_epochs=2)
    assert_same_weights(trainer, whole)
    assert seen == list(range(1, 13))
    (first, second) = [str(warning.message) for warning in told]
    assert first.startswith("Broken.on_step_ended failed at step 1: KeyError: 'no such column' (")
    assert "test_faults_around.py" in first
    assert second.startswith("Broken.on_metrics_logged failed at step 1: OSError: the network is down (")
    lines = journal(trainer, "CallbackFailed")
    assert [(line["callback"], line["step"], line["error"]) for line in lines] == [
        ("Broken.on_step_ended", 1, "KeyError: 'no such column'"),
        ("Broken.on_metrics_logged", 1, "OSError: the network is down"),
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_callback_always_ends_the_run(
    make_trainer: MakeTrainer, loader: MemoryLoader, error: type[BaseException]
) -> None:
    class Leaves(Callback):
        def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
            raise error

    trainer = make_trainer(callbacks=[Leaves()], on_callback_error="continue")
    with pytest.raises(error):
        trainer.train(loader, num_epochs=1)
    assert (trainer.state, trainer.step) == ("failed", 1)


def test_a_callback_that_finds_bad_weights_still_ends_the_run(make_trainer: MakeTrainer, pairs: Any) -> None:
    class Saves(Callback):
        def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
            trainer.save_checkpoint()

    pairs[0][:] = float("nan")
    trainer = make_trainer(run="nan", callbacks=[Saves()], on_callback_error="continue", log_every=1000)
    with pytest.raises(NonFiniteLossError, match="the loss is nan at step 1"):
        trainer.train(MemoryLoader(*pairs, batch_size=8), num_epochs=1)


def test_what_to_do_about_broken_callbacks_may_change_when_a_run_goes_on(
    make_trainer: MakeTrainer, loader: MemoryLoader
) -> None:
    first = make_trainer(run="choice", callbacks=[Broken()])
    with pytest.raises(KeyError, match="no such column"):
        first.train(loader, num_epochs=1)
    again = make_trainer(run="choice", callbacks=[Broken()], on_callback_error="continue")
    with pytest.warns(RuntimeWarning, match="failed at step"):
        again.train(loader, num_epochs=1)
    assert again.step == 6
    with pytest.raises(ValueError, match=r"on_callback_error must be one of \('stop', 'continue'\), got 'ignore'"):
        make_trainer(on_callback_error="ignore")


# ---------------------------------------------------------------------- memory


class Greedy(nn.Module):
    """An encoder that wants 2**60 bytes in its forward number `at`."""

    def __init__(self, at: int = -1, error: BaseException | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.at, self.calls, self.error = nn.Linear(4, 8), at, 0, error

    def forward(self, x: Tensor) -> Tensor:
        """Encode."""
        self.calls += self.training and torch.is_grad_enabled()
        if self.calls == self.at and self.error is not None:
            raise self.error
        if self.calls == self.at:
            torch.empty(2**60, dtype=torch.uint8)
        return self.linear(x)


def greedy(at: int = -1, error: BaseException | None = None) -> JEPA:
    """A model that runs out of memory at a step, once."""
    encoder = Greedy(at, error)
    return JEPA(encoder, nn.Linear(8, 8))


@pytest.mark.parametrize("same", [True, False])
def test_a_run_out_of_memory_keeps_its_last_complete_step_and_goes_on_from_there(
    make_trainer: MakeTrainer, loader: MemoryLoader, same: bool
) -> None:
    whole = make_trainer(greedy(), log_every=4)
    whole.train(loader, num_epochs=2)
    part = make_trainer(greedy(at=9), run="memory", log_every=4)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator") as raised:
        part.train(loader, num_epochs=2)
    (note,) = raised.value.__notes__
    for word in (
        "batch size",
        "accumulate=",
        'precision="bf16"',
        "smaller model",
        "continues from its last checkpoint",
    ):
        assert word in note
    assert note in part.traceback
    assert part.state == "failed"
    assert part.run is not None
    assert part.run.checkpoints.files[-1].name == "step-00000008.pt"
    if not same:
        part = make_trainer(greedy(), run="memory", log_every=4)
    part.train(loader, num_epochs=2)
    assert_same_weights(part, whole)
    assert part.history["loss"] == whole.history["loss"]


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")]
)
def test_every_kind_of_running_out_of_memory_is_advised_on(
    make_trainer: MakeTrainer, loader: MemoryLoader, error: BaseException
) -> None:
    with pytest.raises(type(error)) as raised:
        make_trainer(greedy(at=2, error=error)).train(loader, num_epochs=1)
    assert "Out of memory" in raised.value.__notes__[0]
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


# ---------------------------------------------------------------------- clocks


class MoveClock(Callback):
    """Moves the wall clock after given steps, as whoever sets the time of a machine does."""

    def __init__(self, patch: pytest.MonkeyPatch, jumps: dict[int, float]) -> None:
        self.jumps, self.offset = jumps, 0.0
        now = time.time
        patch.setattr(time, "time", lambda: now() + self.offset)

    def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
        """Move it."""
        self.offset += self.jumps.get(event.step, 0.0)


def metrics(trainer: JEPATrainer) -> list[dict[str, Any]]:
    """The records in the run folder, but what depends on the time."""
    assert trainer.run is not None
    timed = {"time", "steps_per_second", "embedding_std", "effective_rank"}
    lines = read_lines(trainer.run.metrics_path)
    return [{name: value for name, value in line.items() if name not in timed} for line in lines]


def story(trainer: JEPATrainer) -> list[tuple[int, str]]:
    """What the journal tells, but when; a checkpoint is announced when its file is there, sooner or later."""
    assert trainer.run is not None
    return sorted((line["step"], line["event"]) for line in read_lines(trainer.run.journal_path))


@pytest.mark.parametrize("seconds", [0.0, 600.0])
def test_a_wall_clock_that_jumps_changes_nothing_but_the_times_written(
    make_trainer: MakeTrainer, loader: MemoryLoader, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr("jepa.trainer.saver.CHECKPOINT_SECONDS", seconds)  # 0: one is due at each record
    options = {"log_every": 2, "keep_checkpoints": 99}
    whole = make_trainer(run="whole", **options)
    whole.train(loader, num_epochs=3)
    day, year = 86_400.0, 366 * 86_400.0
    clock = MoveClock(monkeypatch, {3: -day, 8: year, 14: -2 * day})
    moved = make_trainer(run="moved", callbacks=[clock], **options)
    moved.train(loader, num_epochs=3)
    assert metrics(moved) == metrics(whole)
    assert moved.run is not None
    assert whole.run is not None
    files = [path.name for path in moved.run.checkpoints.files]
    assert files == [path.name for path in whole.run.checkpoints.files]
    assert len(files) > 3 if seconds == 0 else len(files) == 3
    if seconds:
        assert story(moved) == story(whole)
    assert moved.status().steps_per_second > 0
    times = [line["time"] for line in read_lines(moved.run.journal_path)]
    assert times != sorted(times)
    assert moved.run.checkpoints.newest_valid()[0].name == files[-1]  # type: ignore[index]


def test_a_run_goes_on_from_the_checkpoint_of_its_last_step_whatever_the_files_times_are(
    make_trainer: MakeTrainer, loader: MemoryLoader
) -> None:
    whole = make_trainer(run="files", keep_checkpoints=99)
    whole.train(loader, num_epochs=3)
    assert whole.run is not None
    for age, path in enumerate(whole.run.checkpoints.files):
        os.utime(path, (10_000.0 - age, 10_000.0 - age))
    again = make_trainer(run="files", keep_checkpoints=99)
    again.train(loader, num_epochs=4)
    assert again.history.steps("epoch_loss") == [6, 12, 18, 24]
