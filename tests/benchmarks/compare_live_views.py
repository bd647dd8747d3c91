"""What one update of a live view costs where training runs: this one beside other tools, by the same measure.

Run by hand; every tool is measured that is installed, the others are named and skipped::

    pip install livelossplot fastai transformers tensorboard
    JEPA_WRITE_TABLES=1 python -m tests.benchmarks.compare_live_views

Tools that do not go together are installed in environments of their own, whose Pythons are given as arguments.

Each pair of tool and length has a kernel of its own. It is given so many records of the same six metrics; then some
more are added, one by one, and shown. The cost is the CPU time of the kernel's process in all its threads, and the
bytes of all messages that show something, as they leave the kernel. Both are medians.
"""

from __future__ import annotations

import importlib
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

METRICS = ("loss", "learning_rate", "ema_momentum", "embedding_std", "effective_rank", "grad_norm")
LENGTHS = (10**2, 10**3, 10**4, 10**5)
UPDATES = 7
SECONDS = 900.0
SHOWING = {"display_data", "update_display_data", "clear_output", "stream", "execute_result", "comm_open", "comm_msg"}
TABLE = Path(__file__).parents[2] / "docs" / "tables" / "live_views.md"
Add = Callable[[], None]
Show = Callable[[], int | None]  # bytes that go another way than as messages of the kernel


class Tool(NamedTuple):
    """A way to show a run: what it is called, whose package it is, and how it is given records."""

    name: str
    package: str
    prepare: Callable[[int], tuple[Add, Show]]
    longest: int = LENGTHS[-1]


def record(step: int) -> dict[str, float]:
    """The same curves for every tool."""
    return {name: (1 + number) / (1 + step) ** 0.5 + 0.05 * math.sin(step) for number, name in enumerate(METRICS)}


def counted(length: int, take: Callable[[int], None]) -> Add:
    """Give a tool `length` records; the update gives it the next one."""
    for step in range(length):
        take(step)
    steps = iter(range(length, length + 10**6))
    return lambda: take(next(steps))


def nothing() -> None:
    """Where a record is shown as it is added."""


# ---------------------------------------------------------------------- the tools


def nothing_at_all(length: int) -> tuple[Add, Show]:
    """What the measure itself takes."""
    return nothing, nothing


def jepa_live_plot(length: int) -> tuple[Add, Show]:
    from jepa_widgets import LivePlot

    from jepa.trainer.events import MetricsLogged

    plot = LivePlot(folded=[])
    return counted(length, lambda step: plot(MetricsLogged(step, 0, record(step), 0.0, 0))), plot.flush


def jepa_static_figure(length: int) -> tuple[Add, Show]:
    from jepa_widgets.static_figure import StaticFigure

    from jepa import JEPA, Encoder, Predictor, create_trainer
    from jepa.trainer.events import MetricsLogged

    trainer = create_trainer(JEPA(Encoder(8, depth=1), Predictor(8, depth=1)), live_plot=False, control_panel=False)
    _kept.append(trainer)  # the figure does not keep it
    figure = StaticFigure(trainer)
    add = counted(length, lambda step: figure(MetricsLogged(step, 0, record(step), 0.0, 0)))
    figure.place()
    return add, figure.renew


def livelossplot(length: int) -> tuple[Add, Show]:
    plot = importlib.import_module("livelossplot").PlotLosses()
    return counted(length, lambda step: plot.update(record(step))), plot.send


def fastai_graph(length: int) -> tuple[Add, Show]:
    """One value of the training loss for each batch, an update each epoch; the other metrics are numbers in a table."""
    import torch

    progress = importlib.import_module("fastai.callback.progress")
    bars = importlib.import_module("fastprogress.fastprogress")
    master = bars.master_bar(range(100))
    master.main_bar.update(0)
    recorder = SimpleNamespace(losses=[], values=[[1.0, 1.0]])
    learner = SimpleNamespace(recorder=recorder, progress=SimpleNamespace(mbar=master), n_epoch=100, train_iter=length)
    callback = progress.ShowGraphCallback()
    callback.learn = learner
    callback.nb_batches = [max(1, length // 100)]
    add = counted(length, lambda step: recorder.losses.append(torch.tensor(record(step)["loss"])))
    return add, callback.after_epoch


def fastai_table(length: int) -> tuple[Add, Show]:
    """A row of six numbers for each epoch; every move of the progress bar shows bar and table."""
    bars = importlib.import_module("fastprogress.fastprogress")
    show = bars.NBMasterBar.show
    bars.NBMasterBar.show = lambda self: None  # not at each of the rows so far
    master = bars.NBMasterBar(range(length + UPDATES))
    master.main_bar.update(0)
    master.lines = [list(METRICS), *([f"{value:.6f}" for value in record(step).values()] for step in range(length))]
    bars.NBMasterBar.show = show
    steps = iter(range(length, length + UPDATES))
    return nothing, lambda: master.write([f"{value:.6f}" for value in record(next(steps)).values()], table=True)


def transformers_table(length: int) -> tuple[Add, Show]:
    """A row of six numbers for each evaluation; every move of the progress bar shows bar and table."""
    callback = importlib.import_module("transformers.utils.notebook").NotebookProgressCallback()
    arguments = SimpleNamespace(eval_strategy="steps")
    state = SimpleNamespace(max_steps=length + UPDATES, global_step=length, epoch=0.5, num_train_epochs=1)
    state.log_history = [{"loss": 1.0}]
    callback.on_train_begin(arguments, state, None)
    tracker = callback.training_tracker
    tracker.inner_table = [["Step", "Training Loss", "Validation Loss", *METRICS[1:5]]]
    tracker.inner_table += [[step, *record(step).values()] for step in range(length)]
    tracker.update(0)

    def step() -> None:
        state.global_step += 1
        metrics = {
            f"eval_{name.replace('_', '')}": value for name, value in list(record(state.global_step).items())[:5]
        }
        callback.on_evaluate(arguments, state, None, metrics=metrics)

    return nothing, step


def tensorboard(length: int) -> tuple[Add, Show]:
    """Writes a file; the page asks a server of its own for what that one has read from it."""
    from torch.utils.tensorboard import SummaryWriter

    folder = Path(tempfile.mkdtemp())
    writer = SummaryWriter(str(folder))
    size = [0]

    def take(step: int) -> None:
        for name, value in record(step).items():
            writer.add_scalar(name, value, step)

    def show() -> int:
        writer.flush()
        before, size[0] = size[0], sum(file.stat().st_size for file in folder.iterdir())
        return size[0] - before

    add = counted(length, take)
    show()
    return add, show


def weightslab(length: int) -> tuple[Add, Show]:
    """Writes a database in memory; the page polls a server in the training process for what is new."""
    service = importlib.import_module("weightslab.trainer.services.experiment_service")
    logger = importlib.import_module("weightslab.backend.logger").LoggerQueue(register=False)
    answers = object.__new__(service.ExperimentService)  # without the other parts of the server
    answers._ctx = SimpleNamespace(components={"signal_logger": logger}, ensure_components=nothing)
    asked = service.pb2.GetLatestLoggerDataRequest()

    def take(step: int) -> None:
        for name, value in record(step).items():
            logger.add_scalars(name, {name: value}, step, None, aggregate_by_step=False)

    def show() -> int:
        return len(answers._get_latest_logger_data_impl(asked, None).SerializeToString())

    add = counted(length, take)
    show()
    return add, show


TOOLS = (
    Tool("nothing: the measure itself", "ipykernel", nothing_at_all),
    Tool("jepa-lab, live curves", "jepa-lab", jepa_live_plot),
    Tool("jepa-lab, figure that stays (every 10 s)", "jepa-lab", jepa_static_figure),
    Tool("livelossplot", "livelossplot", livelossplot),
    Tool("fastai ShowGraphCallback (loss only, each epoch)", "fastai", fastai_graph),
    Tool("fastai ProgressCallback, table of epochs", "fastai", fastai_table, 10**4),
    Tool("transformers NotebookProgressCallback", "transformers", transformers_table),
    Tool("TensorBoard SummaryWriter (bytes of the file)", "tensorboard", tensorboard),
    Tool("WeightsLab, database and a poll", "weightslab", weightslab),
)

# ---------------------------------------------------------------------- inside of a kernel

_kept: list[Any] = []


def prepare(number: int, length: int) -> None:
    """Make one tool ready in this kernel."""
    add, show = TOOLS[number].prepare(length)
    _kept.extend([add, show])


def update() -> tuple[float, int]:
    """Add a record and show it: CPU milliseconds, and the bytes that went another way than as messages."""
    add, show = _kept[-2:]
    begin = time.process_time()
    add()
    sent = show() or 0
    sys.stdout.flush()
    return (time.process_time() - begin) * 1e3, sent


# ---------------------------------------------------------------------- from outside


@contextmanager
def kernel(python: str) -> Iterator[Any]:
    """A client of a fresh kernel of a Python."""
    from jupyter_client.manager import KernelManager

    manager = KernelManager(kernel_name="python3", transport="ipc")
    assert manager.kernel_spec is not None
    manager.kernel_spec.argv[0] = python
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    manager.start_kernel(env=environment)
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    try:
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def run(client: Any, code: str) -> tuple[str, int]:
    """Run a cell: what the expression `answer` is afterwards, and the bytes of what it showed."""
    message = client.execute(code, user_expressions={"answer": "repr(answer)"})
    shown = 0
    while True:
        frames = client.iopub_channel.socket.recv_multipart()
        _, parts = client.session.feed_identities(frames)
        content = client.session.deserialize(parts)
        if content["msg_type"] in SHOWING:  # whichever cell it belongs to
            shown += sum(len(frame) for frame in frames)
        if content["parent_header"].get("msg_id") != message:
            continue
        if content["msg_type"] == "status" and content["content"]["execution_state"] == "idle":
            break
    while (answered := client.get_shell_msg(timeout=SECONDS))["parent_header"]["msg_id"] != message:
        pass  # what was asked while the kernel started
    reply = answered["content"]
    if reply["status"] != "ok":
        raise RuntimeError("\n".join(reply["traceback"]))
    return reply["user_expressions"]["answer"]["data"]["text/plain"], shown


def measure(python: str, number: int, length: int) -> tuple[float, int]:
    """Median CPU milliseconds and bytes of an update, in a kernel of its own."""
    with kernel(python) as client:
        run(client, f"from tests.benchmarks.compare_live_views import *\nanswer = prepare({number}, {length})")
        taken = []
        for _ in range(UPDATES):
            answer, shown = run(client, "answer = update()")
            milliseconds, elsewhere = eval(eval(answer))
            taken.append((milliseconds, shown + elsewhere))
    return statistics.median(t[0] for t in taken[1:]), int(statistics.median(t[1] for t in taken[1:]))


def find(package: str, pythons: list[str]) -> tuple[str, str] | None:
    """The first Python that has a package, and its version; `None` if none has."""
    ask = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"
    for python in pythons:
        told = subprocess.run([python, "-c", ask, package], capture_output=True, text=True, check=False)
        if told.returncode == 0:
            return python, told.stdout.strip()
    return None


def main() -> None:
    """Measure what is installed and print the table."""
    rows = []
    for number, tool in enumerate(TOOLS):
        found = find(tool.package, [sys.executable, *sys.argv[1:]])
        if found is None:
            print(f"{tool.name}: {tool.package} is not installed, not measured")
            continue
        cells = []
        for length in LENGTHS:
            if length > tool.longest:
                cells.append("-")
                continue
            milliseconds, size = measure(found[0], number, length)
            cells.append(f"{milliseconds:.1f} ms, {size / 1000:,.1f} kB")
            print(tool.name, length, cells[-1], flush=True)
        rows.append([tool.name, found[1], *cells])
    header = ["one update", "version", *(f"{length:,} records" for length in LENGTHS)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))
    print(table)
    if os.environ.get("JEPA_WRITE_TABLES"):
        note = f"CPU time and bytes of one update: {platform.machine()} CPU, Python {platform.python_version()}."
        TABLE.write_text(f"{note}\n\n{table}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
