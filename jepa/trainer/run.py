"""The run folder: everything that is known about a run, for this process and any other, now and later."""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from jepa.files import FileLock, JSONLines, write_text
from jepa.trainer.checkpoint import CheckpointFolder
from jepa.trainer.journal import Journal


class RunConflictError(RuntimeError):
    """A run of this name exists with other parameters, or another process is writing to it."""


RECORD_HEAD = ("segment", "step", "epoch", "time")
"""What a line of the metrics tells beside the metrics."""


def metrics_of(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers in a line of the metrics."""
    return {key: value for key, value in record.items() if key not in RECORD_HEAD and isinstance(value, int | float)}


def moment_of(record: Mapping[str, Any]) -> tuple[int, float] | None:
    """Epoch and time of a line of the metrics, if it tells both."""
    epoch, when = record.get("epoch"), record.get("time")
    if isinstance(epoch, int) and 0 <= epoch < 2**31 and isinstance(when, int | float) and 0 <= when < 1e12:
        return epoch, float(when)
    return None


def fresh_name() -> str:
    """A name no other run has: when it was made, and four random characters."""
    return f"{datetime.now():%Y-%m-%d_%H%M%S}-{secrets.token_hex(2)}"


class RunFolder:
    """One run on disk.

    Layout: `config.yaml`, `journal.jsonl` (commands and lifecycle, one fsynced line each), `metrics/train.jsonl`
    (every record, append-only), `status.json` (what it is doing, and who), `checkpoints/`, `logs/`, `figures/`.

    Args:
        path: The folder; nothing is created before `open`.
        keep_checkpoints: Newest checkpoints that stay.
        keep_every: Of a checkpoint in each so many steps, for good; `None` keeps the newest only.

    Attributes:
        files: Name to text of what else the folder keeps; written when it is opened, where it is not there yet.
        told: What the journal told when the folder was opened.
        identity: What tells this run from any other, whatever its folder is called; known while it is open.
        segment: How often the run has been begun, or gone on with from elsewhere, before; steps repeat across segments.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, keep_checkpoints: int = 3, keep_every: int | None = None
    ) -> None:
        self.path = Path(path).absolute()
        self.checkpoints = CheckpointFolder(self.path / "checkpoints", keep_checkpoints, keep_every)
        self.files: dict[str, str] = {}
        self.segment = 0
        self.told = Journal()
        self.identity = ""
        self._journal: JSONLines | None = None
        self._metrics: JSONLines | None = None
        self._lock = FileLock(self.path / ".lock")
        self._agreed = False
        self._unwritable = False
        self.tick = 0

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def journal_path(self) -> Path:
        """The journal: commands and lifecycle."""
        return self.path / "journal.jsonl"

    @property
    def metrics_path(self) -> Path:
        """The metrics: one record a line."""
        return self.path / "metrics" / "train.jsonl"

    @property
    def status_path(self) -> Path:
        """What the run is doing, replaced as it changes."""
        return self.path / "status.json"

    @property
    def is_open(self) -> bool:
        """Whether this process is writing to the run."""
        return self._journal is not None

    def relative(self, path: Path) -> str:
        """A path as the journal names it: from this folder on, if it is inside."""
        return path.relative_to(self.path).as_posix() if path.is_relative_to(self.path) else str(path)

    def tick_of(self, stamp: Mapping[str, Any] | None) -> int | None:
        """Where in this journal the state of a checkpoint was taken, by its `journal` entry; `None` if elsewhere."""
        return self.told.tick_of(stamp, self.identity)

    def leads_on_from(self, told: Journal) -> Callable[[Mapping[str, Any]], bool]:
        """What tells whether a checkpoint's state is one that this run went through on its way to the present."""

        def belongs(state: Mapping[str, Any]) -> bool:
            tick = told.tick_of(state.get("journal"), self.identity)
            return tick is None or not told.lines or told.leads_on_from(tick)

        return belongs

    def open(self, config: Mapping[str, Any]) -> None:
        """Create the folder, or continue it, and hold it against other writers.

        Args:
            config: Plain values that describe the run; a continued run must agree with them.

        Raises:
            RunConflictError: The folder belongs to a run with other parameters, or is in use.
        """
        if self.is_open:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        if not self._lock.acquire():
            raise RunConflictError(
                f"run {self.name!r} is being written by another trainer; stop that one first, or choose another run="
            )
        try:
            self._agree(config)
            self._agreed = True
            for name, text in self.files.items():
                if not (self.path / name).exists():
                    write_text(self.path / name, text)
            self.checkpoints.remove_leftovers()
            for leftover in self.path.glob(".*.tmp"):
                leftover.unlink(missing_ok=True)
            self.told = Journal.read(self.journal_path)
            self.tick, self.segment = self.told.next_tick, self.told.segments
            self.identity = self.told.identity or secrets.token_hex(8)
            self._journal = JSONLines(self.journal_path, durable=True)
            self._metrics = JSONLines(self.metrics_path)
        except BaseException:
            self.close()
            raise

    def _agree(self, config: Mapping[str, Any]) -> None:
        """A run that is taken up must have these parameters; one that goes on in this process may have changed some."""
        import yaml

        path = self.path / "config.yaml"
        wanted = json.loads(json.dumps(config))
        if path.exists():
            found = _read_config(path)
            unknown = found.get("data") is None or wanted.get("data") is None
            free = {"data"} if unknown or self._agreed else set()
            was, now = ({key: value for key, value in each.items() if key not in free} for each in (found, wanted))
            differences = _differences(was, now)
            if differences:
                raise RunConflictError(
                    f"run {self.name!r} exists with other parameters ({'; '.join(differences)}); "
                    "use the same ones to continue it, or choose another run= name"
                )
            if wanted.get("data") in (None, found.get("data")):
                return
        write_text(path, yaml.safe_dump(wanted, sort_keys=False))

    def journal(self, event: str, step: int, *, durable: bool = True, **fields: Any) -> None:
        """Append one line, and (unless not `durable`) wait until it is on the disk.

        Raises:
            OSError: It cannot be written now.
        """
        if self._journal is None:
            return
        line = {"tick": self.tick, "segment": self.segment, "time": time.time(), "step": step, "event": event}
        self.tick += 1
        self._journal.append({**line, **fields}, flush=durable)

    def record(self, step: int, epoch: int, metrics: Mapping[str, float], when: float | None = None) -> None:
        """Append one record of metrics, made now or `when`; the file has it with the next status or checkpoint."""
        if self._metrics is not None:
            values = self.segment, step, epoch, time.time() if when is None else when
            head = dict(zip(RECORD_HEAD, values, strict=True))
            with self._while_training_goes_on(settles=False):
                self._metrics.append({**head, **metrics}, flush=False)

    def flush(self) -> None:
        """Bring the files up to date. Where that fails, it is said once, and the lines wait for the next time."""
        with self._while_training_goes_on():
            for file in (self._journal, self._metrics):
                if file is not None:
                    file.flush()

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Replace `status.json`; where that fails, it is said once."""
        self.flush()
        with self._while_training_goes_on():
            who = {"time": time.time(), "pid": os.getpid(), "host": socket.gethostname()}
            write_text(self.status_path, json.dumps({**status, **who}), durable=False)

    @contextmanager
    def _while_training_goes_on(self, *, settles: bool = True) -> Iterator[None]:
        """A full disk is no reason to end what goes on in memory."""
        try:
            yield
        except OSError as error:
            if not self._unwritable:
                warnings.warn(
                    f"run {self.name!r} cannot be written to now ({error}); training goes on, and its records are "
                    "kept in memory until they can be written: make room",
                    RuntimeWarning,
                    stacklevel=4,
                )
            self._unwritable = True
        else:
            self._unwritable = self._unwritable and not settles

    def close(self) -> None:
        """Let go of the folder; it can be opened again."""
        for file in (self._journal, self._metrics):
            if file is None:
                continue
            try:
                file.close()
            except OSError as error:
                what = f"the last lines of {file.path} could not be written: {error}"
                warnings.warn(what, RuntimeWarning, stacklevel=2)
        self._journal = self._metrics = None
        self._lock.release()


def _read_config(path: Path) -> Any:
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no parameters")
        return found
    except (yaml.YAMLError, ValueError) as error:
        raise RunConflictError(
            f"{path} cannot be read ({error}), so nothing says what this run is; choose another run= name, or remove "
            "the file to go on with the parameters given now"
        ) from error


def _differences(found: Any, wanted: Any, where: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = list(dict.fromkeys([*found, *wanted]))
        parts = [_differences(found.get(k), wanted.get(k), f"{where}.{k}" if where else str(k)) for k in keys]
        return [line for part in parts for line in part]
    return [] if found == wanted else [f"{where}: was {found!r}, now {wanted!r}"]
