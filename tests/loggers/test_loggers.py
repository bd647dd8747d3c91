"""Where metrics go: each logger's own files, read back; found by name, imported on use."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from jepa.loggers import Logger, get_logger, get_sinks
from jepa.loggers.console import ConsoleLogger
from jepa.loggers.jsonl import JSONLLogger
from jepa.loggers.progress import ProgressBar
from jepa.trainer import events


def started(step: int = 0, run: Path | None = None) -> events.RunStarted:
    return events.RunStarted(step, 0, 200, run)


def logged(step: int, **metrics: float) -> events.MetricsLogged:
    return events.MetricsLogged(step, 0, metrics, 0.0, 0)


def ended(step: int = 200) -> events.RunEnded:
    return events.RunEnded(step, 2, "finished", Path("runs/a/checkpoints/step-00000200.pt"))


def failed(step: int = 7) -> events.RunFailed:
    return events.RunFailed(step, 0, ValueError("no data"), "Traceback ...")


class Kept(Logger):
    """Remembers what it was asked to do."""

    def __init__(self) -> None:
        self.records: list[tuple[int, dict[str, float]]] = []
        self.closed = 0

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.records.append((step, dict(metrics)))

    def close(self) -> None:
        self.closed += 1


def test_a_logger_takes_metrics_from_events_and_closes_at_the_end() -> None:
    kept = Kept()
    for event in (started(), logged(10, loss=0.5), events.Evaluated(20, 1, {"val_loss": 0.4})):
        kept(event)
    assert kept.records == [(10, {"loss": 0.5}), (20, {"val_loss": 0.4})]
    assert not kept.closed
    kept(ended())
    kept(failed())
    assert kept.closed == 2


def test_an_object_with_log_gets_the_metrics() -> None:
    class Tracker:
        """Like a run of many tracking services."""

        def __init__(self) -> None:
            self.calls: list[tuple[dict[str, float], int]] = []

        def log(self, metrics: dict[str, float], step: int) -> None:
            self.calls.append((metrics, step))

    tracker = Tracker()
    sink = get_logger(tracker)
    for event in (started(), logged(10, loss=0.5), ended()):
        sink(event)
    assert tracker.calls == [({"loss": 0.5}, 10)]


def test_console_writes_readable_lines() -> None:
    stream = io.StringIO()
    console = ConsoleLogger(stream)
    command = {"type": "Set", "name": "learning_rate", "value": 1}
    for event in (
        started(step=50, run=Path("runs/a")),
        logged(60, loss=0.5),
        events.EpochEnded(100, 1, {"loss": 0.123456, "val_loss": 1e-6}),
        events.CommandApplied(120, 1, command, "panel"),
        events.CommandApplied(120, 1, command, "panel", error="out of range"),
        ended(),
        failed(),
    ):
        console(event)
    assert stream.getvalue().splitlines() == [
        "training from step 50 to 200, run folder runs/a",
        "epoch    1  step 100/200  loss 0.1235  val_loss 1e-06",
        "epoch    1  step 120/200  Set applied",
        "epoch    1  step 120/200  Set refused: out of range",
        "finished at step 200, checkpoint runs/a/checkpoints/step-00000200.pt",
        "failed at step 7: ValueError: no data",
    ]


def test_console_writes_to_the_standard_output_of_the_moment(capsys: pytest.CaptureFixture[str]) -> None:
    sink = get_logger("console")
    sink(started())
    sink(events.RunEnded(9, 0, "stopped", None))
    assert capsys.readouterr().out == "training from step 0 to 200\nstopped at step 9\n"


def test_jsonl_appends_a_line_for_each_record(tmp_path: Path) -> None:
    sink = get_logger("jsonl", tmp_path)
    for event in (logged(10, loss=0.5, learning_rate=1e-3), events.Evaluated(10, 1, {"val_loss": 0.25}), ended()):
        sink(event)
    lines = (tmp_path / "logs" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 10, "loss": 0.5, "learning_rate": 1e-3},
        {"step": 10, "val_loss": 0.25},
    ]


def test_a_run_that_goes_on_appends_to_its_file(tmp_path: Path) -> None:
    for _ in range(2):
        logger = JSONLLogger(tmp_path / "metrics.jsonl")
        for number in range(2):
            logger(logged(number, loss=1.0))
            logger(ended())
        logger.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 0, 1]


def test_tensorboard_files_hold_every_scalar(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = get_logger("tensorboard", tmp_path)
    for step in (10, 20, 30):
        sink(logged(step, loss=1 / step, embedding_std=step / 100))
    sink(events.Evaluated(30, 1, {"val_loss": 0.25}))
    sink(ended())
    files = EventAccumulator(str(tmp_path / "logs" / "tensorboard")).Reload()
    assert sorted(files.Tags()["scalars"]) == ["embedding_std", "loss", "val_loss"]
    found = [(event.step, event.value) for event in files.Scalars("loss")]
    assert found == [(step, pytest.approx(1 / step)) for step in (10, 20, 30)]
    assert [(event.step, event.value) for event in files.Scalars("val_loss")] == [(30, 0.25)]


def test_tensorboard_goes_on_after_the_end_of_a_run(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = get_logger("tensorboard", tmp_path)
    for step in (10, 20):
        sink(logged(step, loss=float(step)))
        sink(ended())
    files = EventAccumulator(str(tmp_path / "logs" / "tensorboard")).Reload()
    assert [event.step for event in files.Scalars("loss")] == [10, 20]


WANDB = """
import socket, sys
from jepa.loggers import get_logger
from jepa.trainer import events

connect = socket.socket.connect
def local_only(self, address):
    host = address[0] if isinstance(address, tuple) else address
    assert self.family == socket.AF_UNIX or host in ("127.0.0.1", "localhost", "::1"), f"network: {address}"
    return connect(self, address)
socket.socket.connect = local_only
socket.getaddrinfo = lambda *arguments, **options: sys.exit(f"network: {arguments}")

from pathlib import Path
folder = Path(sys.argv[1])
sink = get_logger("wandb", folder)
assert not any(folder.iterdir()), "files were written before there was anything to log"
for step in (10, 20):
    sink(events.MetricsLogged(step, 0, {"loss": 1 / step}, 0.0, 0))
sink(events.RunEnded(20, 1, "stopped", None))
sink(events.MetricsLogged(30, 1, {"accuracy": 0.75}, 0.0, 0))  # the run goes on
sink(events.RunEnded(30, 1, "finished", None))
"""


@pytest.mark.slow
def test_wandb_works_offline_and_leaves_files_to_sync(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    done = subprocess.run(
        [sys.executable, "-c", WANDB, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    logs = list((tmp_path / "logs" / "wandb").glob("offline-run-*/run-*.wandb"))
    content = b"".join(log.read_bytes() for log in logs)
    assert all(word in content for word in (b"loss", b"0.05", b"accuracy", b"0.75"))
    assert len({log.name for log in logs}) == 1, "both parts belong to one run of the service"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs"]


def test_the_progress_bar_follows_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    (bar,) = get_sinks(None, None, progress=True)
    assert isinstance(bar, ProgressBar)
    bar(logged(1, loss=1.0))  # nothing to show before the start
    for event in (started(step=50), logged(100, loss=0.25), events.Evaluated(100, 1, {"val_loss": 1.0}), ended()):
        bar(event)
    shown = capsys.readouterr().err
    assert "50/200" in shown
    assert "200/200" in shown
    assert "loss 0.25" in shown
    bar(ended())
    assert capsys.readouterr().err == ""


def test_the_progress_bar_shows_only_in_a_terminal_and_beside_no_other_logger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert get_sinks(None, None, progress="auto") == []
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert [type(sink) for sink in get_sinks(None, None, progress="auto")] == [ProgressBar]
    assert [type(sink) for sink in get_sinks("console", None, progress="auto")] == [ConsoleLogger]
    assert get_sinks(None, None, progress=False) == []
    monkeypatch.setattr(sys, "stderr", None)  # a program without a console on Windows
    assert get_sinks(None, None, progress="auto") == []


def test_several_loggers_keep_their_order(tmp_path: Path) -> None:
    def sink(event: events.Event) -> None: ...

    found = get_sinks(["console", sink, "jsonl"], tmp_path)
    assert [type(one) for one in found] == [ConsoleLogger, type(sink), JSONLLogger]
    assert found[1] is sink


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("tensorbord", r"did you mean 'tensorboard'\?"),
        ("Console", r"did you mean 'console'\?"),
        ("xyz", "known: console, jsonl, tensorboard, wandb"),
    ],
)
def test_an_unknown_name_names_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=f"unknown logger '{name}'; {hint}"):
        get_logger(name)


@pytest.mark.parametrize("spec", [5, object(), None])
def test_what_takes_neither_events_nor_metrics_is_refused(spec: Any) -> None:
    with pytest.raises(TypeError, match=rf"has log\(metrics, step=...\); got {type(spec).__name__}"):
        get_logger(spec)


@pytest.mark.parametrize("name", ["jsonl", "tensorboard"])
def test_no_file_is_written_before_there_is_something_to_log(tmp_path: Path, name: str) -> None:
    sink = get_logger(name, tmp_path)
    sink(started())
    assert list(tmp_path.iterdir()) == []
    sink(logged(1, loss=1.0))
    sink(ended())
    assert list(tmp_path.iterdir()) == [tmp_path / "logs"]


IMPORTED = """
import sys
import jepa.loggers
heavy = ["tensorboard", "wandb", "torch.utils.tensorboard"]
own = ["jepa.loggers." + name for name in ("console", "jsonl", "tensorboard", "wandb", "progress")]
before = [name for name in heavy + own if name in sys.modules]
jepa.loggers.get_logger("console")
print(before, [name for name in heavy + own if name in sys.modules])
"""


def test_each_logger_is_imported_on_use() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[] ['jepa.loggers.console']"


MISSING = """
import sys
sys.modules[sys.argv[1]] = None  # what an uninstalled module looks like
from jepa.loggers import get_logger
try:
    get_logger(sys.argv[2])
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("module", "name", "message"),
    [
        ("torch.utils.tensorboard", "tensorboard", "the TensorBoard logger needs: pip install 'jepa-lab[loggers]'"),
        ("wandb", "wandb", "the wandb logger needs: pip install 'jepa-lab[loggers]'"),
    ],
)
def test_a_missing_package_is_named_at_once(module: str, name: str, message: str) -> None:
    command = [sys.executable, "-c", MISSING, module, name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == message


@pytest.mark.parametrize("close", [Kept().close, JSONLLogger("nothing.jsonl").close])
def test_closing_what_was_never_used_is_fine(close: Callable[[], None], tmp_path: Path) -> None:
    close()
    close()
    assert not Path("nothing.jsonl").exists()
