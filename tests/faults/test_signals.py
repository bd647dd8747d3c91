"""Interrupts that cannot wait, and kernels that are restarted: nothing is left running, and nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from jepa.files import read_lines
from jepa.trainer import Callback, JEPATrainer, events, saver
from jepa.trainer.checkpoint import read_checkpoint, write_staged
from tests.faults import runs

ROOT = Path(__file__).parents[2]
AT = 68  # in mid-epoch


def interrupt_twice() -> None:
    """Ask to stop, and do not wait for it."""
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)


class BetweenSteps(Callback):
    """Interrupts after a step."""

    def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
        if event.step == AT:
            interrupt_twice()


class InStep(Callback):
    """Interrupts in a step, when dropout has drawn from the process-wide generator."""

    def on_run_started(self, trainer: JEPATrainer, event: events.RunStarted) -> None:
        encoder = trainer.model.encoder
        assert isinstance(encoder, torch.nn.Sequential)
        encoder[1].register_forward_hook(lambda *_: interrupt_twice() if trainer.step == AT else None)


@pytest.mark.parametrize("trouble", [BetweenSteps, InStep])
def test_a_second_interrupt_ends_at_once_and_the_run_goes_on_from_there(
    trouble: type[Callback], tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    one = runs.trainer(tmp_path / "run", trouble())
    with pytest.raises(KeyboardInterrupt):
        one.train(runs.data(), num_epochs=runs.EPOCHS)
    assert (one.state, one.step) == ("failed", AT)
    assert read_checkpoint(runs.last_checkpoint(tmp_path / "run"))["position"]["step"] == AT
    runs.train(tmp_path / "run", seed=1)
    runs.assert_whole(tmp_path / "run", undisturbed)


class WhileWaiting(Callback):
    """Interrupts while the trainer waits until an earlier checkpoint is on the disk."""

    def __init__(self) -> None:
        self.weights: dict[int, dict[str, torch.Tensor]] = {}

    def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
        self.weights[event.step] = {name: one.clone() for name, one in trainer.objective.state_dict().items()}
        if event.step == 3:
            trainer.saver.save()
        if event.step == 4:
            for delay in (0.05, 0.15):
                threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start()
            trainer.saver.save()


def test_an_interrupt_of_the_wait_for_a_checkpoint_does_not_mix_two_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_slowly(*arguments: Any) -> None:
        time.sleep(0.5)
        write_staged(*arguments)

    monkeypatch.setattr(saver, "write_staged", write_slowly)
    watch, before = WhileWaiting(), set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        runs.trainer(tmp_path / "run", watch).train(runs.data(), num_epochs=1)
    for step in (3, 4):
        state = read_checkpoint(tmp_path / "run" / "checkpoints" / f"step-{step:08d}.pt")
        runs.assert_same(state["objective_state"], watch.weights[step])
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("jepa")]


CELL = """
import time
from pathlib import Path
import torch
from torch.utils.data import DataLoader, TensorDataset
from tests.faults import runs

torch.set_num_threads(1)

class Slowly(runs.Callback):
    def on_step_ended(self, trainer, event):
        time.sleep(0.01)

trainer = runs.trainer(Path({path!r}), Slowly())
states = torch.randn(runs.SAMPLES, 16, generator=torch.Generator().manual_seed(7))
pairs = TensorDataset(states, states.roll(1, 1))
loader = DataLoader(pairs, batch_size=runs.BATCH, shuffle=True, num_workers={workers})
run = trainer.start(loader, num_epochs=runs.EPOCHS, wait=False)
"""


class Kernel:
    """A kernel that code is run in, and that can be restarted."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(env=environment, cwd=str(ROOT))
        self.client: BlockingKernelClient = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(self, code: str) -> None:
        reply = self.client.execute_interactive(code, output_hook=lambda message: None, timeout=60)
        assert reply["content"]["status"] == "ok", reply["content"]

    def family(self) -> list[psutil.Process]:
        """The kernel and all that it has started."""
        own = [child for child in psutil.Process().children() if "ipykernel" in " ".join(child.cmdline())]
        return [one for kernel in own for one in (kernel, *kernel.children(recursive=True))]

    def restart(self, *, now: bool) -> None:
        self.manager.restart_kernel(now=now)
        self.client.wait_for_ready(timeout=60)

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    one = Kernel()
    yield one
    one.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("now", "workers"),
    [
        pytest.param(True, 2, id="killed"),
        pytest.param(False, 0, id="shut down", marks=pytest.mark.full),
        pytest.param(False, 2, id="shut down with workers"),
    ],
)
def test_a_run_goes_on_when_its_kernel_is_restarted_and_the_cells_are_run_again(
    now: bool, workers: int, kernel: Kernel, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    path = tmp_path / "run"
    cell = CELL.format(path=str(path), workers=workers)
    kernel.run(cell)
    kernel.run("await run.until(step=50)")
    before = kernel.family()
    assert len(before) >= 1 + workers
    kernel.restart(now=now)
    _, alive = psutil.wait_procs(before, timeout=20)
    assert alive == []
    lines = read_lines(path / "journal.jsonl")
    if (
        not workers
    ):  # a kernel that is shut down ends its children first, and may itself be ended while they are replaced
        assert [line["state"] for line in lines if line["event"] == "RunEnded"] == ["stopped"]
    kernel.run(cell)
    kernel.run("await run")
    runs.assert_whole(path, undisturbed)
    started = [line["step"] for line in read_lines(path / "journal.jsonl") if line["event"] == "RunStarted"]
    assert started[0] == 0
    assert 48 <= started[1] < runs.STEPS
