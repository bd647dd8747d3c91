"""Which runs there are, and what became of them: read off their folders alone, live or long gone."""

from __future__ import annotations

import difflib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jepa.files import FileLock, open_regular
from jepa.trainer.status import LIVE

STATES = (*LIVE, "idle", "finished", "stopped", "failed")
METRICS = ("loss", "val_loss", "effective_rank")
MARKS = {"status.json", "journal.jsonl", "config.yaml", "batch.json", ".lock", ".batch-lock"}
DAMAGE = (OSError, ValueError, OverflowError, RecursionError)  # what a file that holds anything at all can lead to
TAIL_BYTES = 1 << 16
LARGEST_BYTES = 1 << 20  # of a file that is read whole


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run's folder tells.

    Attributes:
        name: Of the folder, as seen from where it was looked for: `"digits"`, `"digits/trainer-2"`.
        path: The folder.
        state: `running`, `paused` or `stopping` while a process holds the folder; `finished`, `stopped`, `failed`,
            `idle`; `interrupted` if its process is gone and has not said so; `unreadable`.
        step: Optimizer updates done, as far as the run has told.
        total_steps: Updates planned; 0 while unknown.
        age: Seconds since its last sign of life, never negative.
        metrics: The last `loss`, `val_loss` and `effective_rank`, as far as there are any.
        origin: What can go on with it: the `"command line"` (a configuration is kept), a `"batch"`, or a `"notebook"`.
        resumable: Whether `python -m jepa.cli resume` can go on with it.
        error: What ended it, or why it cannot be read.
        pid: Process that wrote the status last.
        host: Machine of that process.
    """

    name: str
    path: Path
    state: str
    step: int = 0
    total_steps: int = 0
    age: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    origin: str = "notebook"
    resumable: bool = False
    error: str | None = None
    pid: int | None = None
    host: str | None = None

    @property
    def is_live(self) -> bool:
        """Whether a process holds the folder and trains, or is paused."""
        return self.state in LIVE


def list_runs(folder: str | os.PathLike[str] = "runs") -> list[RunSummary]:
    """The runs in a folder, the one with the newest sign of life first; none if there is no such folder.

    Runs inside a run (of further trainers in a batch) follow it; of a folder that is no run, those inside are listed.
    A folder that tells nothing is listed as `unreadable`. Nothing is written, and no symbolic link followed out.

    Args:
        folder: Folder of the runs, or the folder of one run.
    """
    root = Path(folder)
    if not root.is_dir():
        return []
    if _is_run(root):
        return _with_inner(root, root.absolute().name)
    groups = [*map(_group, _folders(root)), *([run] for run in _leading_out(root))]
    groups.sort(key=lambda runs: (min(run.age for run in runs), runs[0].name))
    return [run for runs in groups for run in runs]


def read_run(folder: str | os.PathLike[str], name: str | None = None) -> RunSummary:
    """What one run's folder tells; nothing is raised for one that is damaged, which is `unreadable`.

    Args:
        folder: The run folder.
        name: How the summary shall call it; the folder's own name by default.
    """
    path = Path(folder)
    name = name or path.absolute().name
    try:
        summary = _summary(path, name)
        # A run that ended between the look at its status and that at its lock has said so by now.
        return _summary(path, name) if summary.state == "interrupted" else summary
    except DAMAGE as error:
        return RunSummary(name, path, "unreadable", age=_age_of_file(path), error=str(error))


def find_run(run: str | os.PathLike[str], runs_dir: str | os.PathLike[str] = "runs") -> Path:
    """The folder of a run, by its name in the folder of the runs or by its path.

    Raises:
        FileNotFoundError: There is none; the message names the nearest.
    """
    for path in (Path(runs_dir) / run, Path(run)):
        if path.is_dir() and _is_run(path):
            return path.resolve()
    names = [summary.name for summary in list_runs(runs_dir)]
    near = difflib.get_close_matches(os.fspath(run), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are: {', '.join(names[:5]) or 'none'}"
    raise FileNotFoundError(f"no run {os.fspath(run)!r} in {os.fspath(runs_dir)} (looked from {Path.cwd()}); {hint}")


def in_words(seconds: float) -> str:
    """A span of time in its largest unit.

    Example:
        >>> in_words(3.2), in_words(200), in_words(90_000)
        ('3 s', '3 min', '25 h')
    """
    for unit, length, up_to in (("s", 1, 60), ("min", 60, 60), ("h", 3600, 48)):
        if seconds < length * up_to:
            return f"{int(seconds / length)} {unit}"
    return f"{int(seconds / 86_400)} days"


def _folders(root: Path) -> list[Path]:
    """Folders in `root` that are there themselves: no links, and nothing hidden, as what is being made is."""
    return [Path(entry) for entry in _entries(root) if entry.is_dir(follow_symlinks=False)]


def _entries(root: Path) -> list[os.DirEntry[str]]:
    with suppress(OSError), os.scandir(root) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]
    return []


def _leading_out(root: Path) -> Iterator[RunSummary]:
    """Linked folders that lie elsewhere; those that lie in here are listed by their own names."""
    for entry in _entries(root):
        link = Path(entry)
        if entry.is_symlink() and not _is_within(link, root) and link.is_dir():
            why = f"a symbolic link to {os.path.realpath(link)}, outside of this folder; list it there"
            yield RunSummary(link.name, link, "unreadable", age=_age_of_file(link), error=why)


def _is_run(path: Path) -> bool:
    try:
        return not MARKS.isdisjoint(child.name for child in path.iterdir())
    except OSError:
        return False


def _group(path: Path) -> list[RunSummary]:
    """A run with those inside it; or those inside a folder that is none itself."""
    if _is_run(path):
        return _with_inner(path, path.name)
    inner = [read_run(child, f"{path.name}/{child.name}") for child in _folders(path) if _is_run(child)]
    return sorted(inner, key=lambda run: run.age) or [read_run(path)]


def _with_inner(path: Path, name: str) -> list[RunSummary]:
    run = read_run(path, name)
    inner = (read_run(child, f"{name}/{child.name}") for child in _folders(path) if _is_run(child))
    if run.origin == "batch":
        inner = (replace(one, origin="batch", resumable=False) for one in inner)
    return [run, *sorted(inner, key=lambda one: one.name)]


def _summary(path: Path, name: str) -> RunSummary:
    names = {child.name for child in path.iterdir()}
    if MARKS.isdisjoint(names):
        raise ValueError("no run: it has neither status.json nor journal.jsonl")
    status, batch = _mapping(path, "status.json"), _mapping(path, "batch.json")
    if not status and not batch and not names & {"journal.jsonl", "config.yaml"} and not _held(path):
        raise ValueError("the run ended before it had begun: it has neither status.json nor journal.jsonl")
    origin = "batch" if batch else "command line" if "experiment.yaml" in names else "notebook"
    state = _state(status, batch, held=_held(path), launched=FileLock(path / ".batch-lock").is_held())
    kept = {"batch": "source.ipynb", "command line": "experiment.yaml"}.get(origin)
    return RunSummary(
        name,
        path,
        state,
        step=_number(status, "step"),
        total_steps=_number(status, "total_steps"),
        age=_age(path, status, batch),
        metrics=_last_metrics(path),
        origin=origin,
        resumable=kept in names and state in ("interrupted", "stopped", "failed"),
        error=None if state in (*LIVE, "finished") else _text(batch, "error") or _text(status, "error"),
        pid=_number(status, "pid") or None,
        host=_text(status, "host"),
    )


def _held(path: Path) -> bool:
    return FileLock(path / ".lock").is_held()


def _state(status: Mapping[str, Any], batch: Mapping[str, Any], *, held: bool, launched: bool) -> str:
    """What is true of a run, by what was written and by who holds its folder.

    Args:
        status: What the trainer wrote, if anything.
        batch: What the launcher of a batch wrote, if there is one.
        held: Whether a trainer holds the folder.
        launched: Whether the launcher of a batch does.
    """
    told = _told(status, "state", STATES)
    if held and (told is None or told in LIVE):
        return told or "running"
    if launched:
        return "running"
    told = _told(batch, "status", STATES) or told
    return "interrupted" if told is None or told in LIVE else told


def _told(values: Mapping[str, Any], key: str, allowed: tuple[str, ...]) -> str | None:
    if values and values.get(key) not in allowed:
        raise ValueError(f"{key} must be one of {', '.join(allowed)}, got {values.get(key)!r}")
    return values.get(key)


def _age(path: Path, status: Mapping[str, Any], batch: Mapping[str, Any]) -> float:
    """Seconds since anything was said, by the clock of who said it: files that were copied are no younger for it."""
    times = [_time(status, "time"), _time(batch, "started") + _time(batch, "seconds")]
    newest = max(times)
    return max(time.time() - newest, 0.0) if newest > 0 else _age_of_file(path)


def _time(values: Mapping[str, Any], key: str) -> float:
    value = values.get(key)
    usable = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if usable else 0.0  # type: ignore[arg-type]


def _age_of_file(path: Path) -> float:
    try:
        return max(time.time() - path.lstat().st_mtime, 0.0)
    except OSError:
        return 0.0


def _number(values: Mapping[str, Any], key: str) -> int:
    value = values.get(key)
    return value if isinstance(value, int) and value >= 0 else 0


def _text(values: Mapping[str, Any], key: str) -> str | None:
    value = values.get(key)
    return value if isinstance(value, str) else None


def _mapping(folder: Path, name: str) -> Mapping[str, Any]:
    """A JSON file, empty if it is missing."""
    try:
        content = json.loads(_read(folder, name, LARGEST_BYTES))
    except FileNotFoundError:
        return {}
    except DAMAGE as error:
        raise ValueError(f"{name} is damaged: {error}") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{name} is damaged: it holds no mapping")
    return content


def _last_metrics(folder: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    with suppress(FileNotFoundError):
        lines = _read(folder, "metrics/train.jsonl", -TAIL_BYTES).splitlines()
        for line in reversed(lines):
            missing = [key for key in METRICS if key not in found]
            if not missing:
                break
            if any(f'"{key}"'.encode() in line for key in missing):  # to parse all lines would take far longer
                found |= {key: value for key, value in _metrics(line).items() if key in missing}
    return {key: found[key] for key in METRICS if key in found}


def _metrics(line: bytes) -> dict[str, float]:
    """The numbers in a record; none in one that is torn."""
    with suppress(*DAMAGE):
        record = json.loads(line)
        if isinstance(record, dict):
            return {key: float(value) for key, value in record.items() if isinstance(value, int | float)}
    return {}


def _read(folder: Path, name: str, size: int) -> bytes:
    """The first `size` bytes of a run's file, or the last `-size`; nothing else is opened: no link out, no pipe."""
    path = folder / name
    if not _is_within(path, folder):
        raise ValueError(f"{name} is a symbolic link that leads out of the run's folder")
    with open_regular(path, links=True) as file:
        if size < 0:
            file.seek(max(os.fstat(file.fileno()).st_size + size, 0))
        return file.read(abs(size))


def _is_within(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
