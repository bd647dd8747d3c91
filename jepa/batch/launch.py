"""Run a notebook with parameters, on one or several processes, into a run folder."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jepa.batch.parameters import check_parameters, read_parameters
from jepa.batch.processes import die_with_parent, termination_as_interrupt
from jepa.files import FileLock, atomic_path, read_lines, write_text

KERNEL, PROCESS = ENGINES = ("kernel", "process")  # what executes the cells
SOURCE = "source.ipynb"  # the run folder's own copy of the notebook: what is executed
POLL_SECONDS = 0.5
GRACE_SECONDS = 90.0
TORCHRUN_GRACE_SECONDS = 80  # longer than a kernel gets for its end, shorter than torchrun itself gets
SIGNS_OF_A_LOST_RANK = ("Connection closed by peer", "Connection reset", "Broken pipe", "DistBackendError")
EXIT_STOPPED = (143, 130, -signal.SIGTERM, -signal.SIGINT)


@dataclass(frozen=True, slots=True)
class BatchResult:
    """How a batch run ended.

    Attributes:
        folder: The run folder.
        status: `finished`, `failed`, `stopped`, or `skipped` (it had finished before).
        seconds: How long it took.
        error: The true cause of a failure: rank, cell and error.
    """

    folder: Path
    status: str
    seconds: float = 0.0
    error: str | None = None

    @property
    def exit_code(self) -> int:
        """0 for a run that is finished, 143 for one that was stopped, 1 for one that failed."""
        return {"finished": 0, "skipped": 0, "stopped": 143}.get(self.status, 1)


def run_notebook(
    notebook: str | os.PathLike[str],
    parameters: Mapping[str, Any] | Sequence[tuple[str, str]] = (),
    *,
    name: str | None = None,
    runs_dir: str | os.PathLike[str] = "runs",
    nproc_per_node: int = 1,
    engine: str = KERNEL,
    force: bool = False,
    say: Callable[[str], None] = lambda line: None,
    stop: threading.Event | None = None,
    environment: Mapping[str, str] | None = None,
) -> BatchResult:
    """Execute a notebook headless; the first unnamed trainer in it writes into the run folder.

    What is executed is the copy that the run folder gets of it, from which `resume_notebook` goes on.

    Args:
        notebook: A file with a cell tagged `parameters`.
        parameters: Values for that cell; checked before anything starts.
        name: Of the run folder; made from the notebook's name and the time by default. The same name again
            continues an unfinished run and skips a finished one.
        runs_dir: Where run folders are.
        nproc_per_node: Processes; more than one are started by torchrun.
        engine: `kernel` executes the cells in a kernel, as JupyterLab does; `process` in the process of the rank, by
            IPython, which begins some seconds sooner.
        force: Run again what has finished, from the beginning; the finished run folder is kept under another name.
        say: Gets lines on the progress.
        stop: Once set, the run ends as if it had been interrupted: with a checkpoint.
        environment: Variables to add for the processes that execute it.

    Raises:
        FileNotFoundError: There is no such notebook.
        ValueError: A parameter is unknown or of the wrong type, or the name belongs to another run or one in progress.
    """
    values = check_parameters(parameters, read_parameters(notebook))
    if nproc_per_node < 1:
        raise ValueError(f"nproc_per_node must be at least 1, got {nproc_per_node}")
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    path = Path(notebook).absolute()
    name = name or f"{path.stem}-{datetime.now():%Y-%m-%d_%H%M%S}"
    folder = (Path(runs_dir) / name).absolute()
    request = {"notebook": str(path), "parameters": values, "nproc_per_node": nproc_per_node, "engine": engine}
    if was_finished(folder, request):
        if not force:
            say(f"{folder} is finished already; pass --force to run it again")
            return BatchResult(folder, "skipped")
        say(f"the finished run is kept in {_move_aside(folder)}")
    folder.mkdir(parents=True, exist_ok=True)
    with _held(folder):
        with atomic_path(folder / SOURCE) as copy:
            shutil.copyfile(path, copy)
        return _launch(folder, request, say, environment, stop)


def resume_notebook(folder: str | os.PathLike[str], *, say: Callable[[str], None] = lambda line: None) -> BatchResult:
    """Go on with a batch run from its folder alone: its copy of the notebook, with the parameters it had.

    The path where the notebook once was is not looked at.

    Args:
        folder: The run folder.
        say: Gets lines on the progress.

    Raises:
        ValueError: The folder is in use, or lacks something.
    """
    folder = Path(folder).absolute()
    kept = _kept_request(folder)
    if kept["status"] == "finished":
        return BatchResult(folder, "skipped")
    request = _checked(kept, folder / SOURCE)
    with _held(folder):
        return _launch(folder, request, say)


def run_again(folder: str | os.PathLike[str], target: Path, environment: Mapping[str, str]) -> BatchResult:
    """Execute the notebook of a batch run once more, with the parameters it had, into a new run folder.

    Args:
        folder: Of the run.
        target: The new folder.
        environment: Variables to add for the processes that execute it.

    Raises:
        ValueError: The folder lacks something.
    """
    folder = Path(folder).absolute()
    request = _checked(_kept_request(folder), folder / SOURCE)
    target.mkdir(parents=True)
    with _held(target):
        shutil.copyfile(folder / SOURCE, target / SOURCE)
        return _launch(target, request, lambda line: None, environment)


def _kept_request(folder: Path) -> dict[str, Any]:
    """What the folder of a batch run says of it, if it can be executed from there.

    Raises:
        ValueError: The folder lacks something.
    """
    request, source = _read_request(folder), folder / SOURCE
    if request is None:
        raise ValueError(f"{folder} has no batch.json, so it is no batch run")
    if source.is_symlink() or not source.is_file():
        again = f"python -m jepa.cli batch NOTEBOOK --name {folder.name}"
        raise ValueError(f"{folder} keeps no copy of its notebook; go on with the command that began it: {again} ...")
    return request


def _checked(kept: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """What was asked for, with parameters that its notebook has."""
    values = check_parameters(kept["parameters"], read_parameters(source))
    return {**{key: kept[key] for key in REQUEST}, "parameters": values, "engine": kept.get("engine", KERNEL)}


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a run folder against other commands."""
    lock = FileLock(folder / ".batch-lock")
    if not lock.acquire():
        raise ValueError(f"{folder} is being run by another command; wait for its end, or choose another --name")
    try:
        yield
    finally:
        lock.release()


REQUEST = {"notebook": str, "parameters": dict, "nproc_per_node": int}


def _read_request(folder: Path) -> dict[str, Any] | None:
    """What `batch.json` says, if there is one."""
    path = folder / "batch.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); choose another --name") from error
    needed = {**REQUEST, "status": str}
    lacking = [key for key in needed if not (isinstance(found, dict) and isinstance(found.get(key), needed[key]))]
    if lacking:
        raise ValueError(f"{path} is damaged: it has no {', '.join(lacking)}; choose another --name")
    return found


def was_finished(folder: Path, request: Mapping[str, Any]) -> bool:
    """Whether the folder holds this very run, finished; another run's folder is an error."""
    found = _read_request(folder)
    if found is None:
        return False
    wanted, had = json.loads(json.dumps(request["parameters"])), found["parameters"]
    changed = [key for key in {**had, **wanted} if had.get(key) != wanted.get(key)]
    differences = [
        f"{key}: was {had.get(key, 'its default')!r}, now {wanted.get(key, 'its default')!r}" for key in changed
    ]
    if found["nproc_per_node"] != request["nproc_per_node"]:
        differences.append(f"nproc_per_node: was {found['nproc_per_node']}, now {request['nproc_per_node']}")
    if Path(found["notebook"]).name != Path(request["notebook"]).name:
        differences.append(f"notebook: was {found['notebook']}, now {request['notebook']}")
    if differences:
        raise ValueError(f"{folder} belongs to another run ({'; '.join(differences)}); choose another --name")
    return found["status"] == "finished"


def _move_aside(folder: Path) -> Path:
    """Give a finished run another name, so that a new one can begin in its place and nothing is lost."""
    aside = folder.with_name(f"{folder.name}-replaced-{datetime.now():%Y-%m-%d_%H%M%S}")
    while aside.exists():
        aside = aside.with_name(f"{aside.name}-again")
    return folder.rename(aside)


def _launch(
    folder: Path,
    request: dict[str, Any],
    say: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
    stop: threading.Event | None = None,
) -> BatchResult:
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    for old in (*logs.glob("rank-*.error.json"), logs / "progress.json"):
        old.unlink(missing_ok=True)
    _write_state(folder, request, status="running", started=time.time())
    start = time.monotonic()
    with (logs / "launcher.log").open("ab") as log:
        process = subprocess.Popen(
            _command(folder, request["nproc_per_node"]),
            env=_environment(folder, request["nproc_per_node"]) | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C in a terminal reaches this process only, which passes it on once
            preexec_fn=_die_gently if sys.platform == "linux" else None,
        )
        interrupted = _watch(process, folder, say, stop or threading.Event())
    seconds = time.monotonic() - start
    status, error = _outcome(folder, process.returncode, interrupted)
    _write_state(folder, request, status=status, seconds=seconds, returncode=process.returncode, error=error)
    return BatchResult(folder, status, seconds, error)


def _die_gently() -> None:
    die_with_parent(signal.SIGTERM)


def _command(folder: Path, processes: int) -> list[str]:
    worker = ["-m", "jepa.batch.worker", str(folder)]
    if processes == 1:
        return [sys.executable, *worker]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *worker]


def _environment(folder: Path, processes: int) -> dict[str, str]:
    environment = {**os.environ, "JEPA_RUN": str(folder), "JEPA_FRONT_END": "0"}
    environment.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // processes, 1)))
    environment.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(TORCHRUN_GRACE_SECONDS))
    environment.pop("JPY_SESSION_NAME", None)
    return environment


def _watch(process: subprocess.Popen[bytes], folder: Path, say: Callable[[str], None], stop: threading.Event) -> bool:
    """Wait for the end and report what changes; an interrupt asks the job to stop. Returns whether it came to that."""
    interrupted, deadline, last = False, float("inf"), ""
    with termination_as_interrupt():
        while process.poll() is None:
            try:
                line = _progress(folder)
                if line and line != last:
                    say(line)
                    last = line
                time.sleep(POLL_SECONDS)
                if stop.is_set() and not interrupted:
                    raise KeyboardInterrupt
                if time.monotonic() > deadline:
                    process.kill()
            except KeyboardInterrupt:
                if interrupted:
                    continue  # it has been asked to stop, and must not be disturbed while it writes its checkpoint
                say("stopping: the run ends with a checkpoint, the same command goes on from there")
                interrupted, deadline = True, time.monotonic() + GRACE_SECONDS
                process.send_signal(signal.SIGTERM)
    return interrupted


def _progress(folder: Path) -> str:
    try:
        cells = json.loads((folder / "logs" / "progress.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return ""
    line = f"cell {cells['cell']} of {cells['cells']}"
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        status = json.loads((folder / "status.json").read_text(encoding="utf-8"))
        if status["state"] == "running":
            left = status["seconds_left"]
            line += f"  step {status['step']} of {status['total_steps']}"
            line += f"  {status['steps_per_second']:.3g} steps/s" if status["steps_per_second"] else ""
            line += f"  about {left:.0f} s left" if left else ""
    return line


def _outcome(folder: Path, code: int, interrupted: bool) -> tuple[str, str | None]:
    """Status and true cause, from exit code and error files: torchrun's own code does not tell them apart."""
    errors = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("logs/rank-*.error.json"))]
    if code == 0 and not errors:
        return "finished", None
    causes = [error for error in errors if not _is_consequence(error)]
    if not causes and (interrupted or (code in EXIT_STOPPED and not errors)):
        return "stopped", None
    causes = causes or errors
    if not causes:
        tail = (folder / "logs" / "launcher.log").read_text(errors="replace").strip().splitlines()[-3:]
        return "failed", f"exit code {code}: {' | '.join(tail) or 'no output'}"
    cause = causes[0]
    where = f"rank {cause['rank']}" + (f", cell {cause['cell']}" if cause["cell"] is not None else "")
    return "failed", f"{where}: {cause['error']}"


def _is_consequence(error: Mapping[str, Any]) -> bool:
    """Whether a rank failed only because another one had gone."""
    return any(sign in error["error"] for sign in SIGNS_OF_A_LOST_RANK)


def _write_state(folder: Path, request: Mapping[str, Any], **state: Any) -> None:
    write_text(folder / "batch.json", json.dumps({**request, **state}, indent=2) + "\n")


def summary(result: BatchResult) -> list[str]:
    """Where everything is, as lines to print."""
    folder = result.folder
    lines = [f"{result.status} in {result.seconds:.0f} s" if result.seconds else result.status]
    if result.error:
        lines.append(f"cause       {result.error}")
    places = {
        "notebook": folder / "notebook.ipynb",
        "picture": folder / "figures" / "curves.png",
        "metrics": folder / "metrics" / "train.jsonl",
        "logs": folder / "logs",
    }
    checkpoints = sorted(file for suffix in ("pt", "dcp") for file in folder.glob(f"checkpoints/step-*.{suffix}"))
    if checkpoints:
        places["checkpoint"] = checkpoints[-1]
    lines += [f"{name:<12}{_short(path)}" for name, path in places.items() if path.exists()]
    records = read_lines(folder / "metrics" / "train.jsonl")
    last = {key: value for record in records for key, value in record.items()}
    shown = [f"{key} {last[key]:.4g}" for key in ("loss", "val_loss", "effective_rank") if key in last]
    if shown:
        lines.append(f"at step {last['step']}: {', '.join(shown)}")
    return lines


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
