"""The run folder: everything that is known about a run, for this process and any other, now and later."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from jepa.files import FileLock, JSONLines, read_lines, write_text
from jepa.trainer.checkpoint import CheckpointFolder
from jepa.trainer.control import Set


class RunConflictError(RuntimeError):
    """A run of this name exists with other parameters, or another process is writing to it."""


def fresh_name() -> str:
    """A name no other run has: when it was made, and four random characters."""
    return f"{datetime.now():%Y-%m-%d_%H%M%S}-{secrets.token_hex(2)}"


class RunFolder:
    """One run on disk.

    Layout: `config.yaml`, `journal.jsonl` (commands and lifecycle, one fsynced line each), `metrics/train.jsonl`
    (every record, append-only), `status.json` (what it is doing), `checkpoints/`, `logs/`, `figures/`.

    Args:
        path: The folder; nothing is created before `open`.
        keep_checkpoints: Newest checkpoints that stay.
    """

    def __init__(self, path: str | os.PathLike[str], *, keep_checkpoints: int = 3) -> None:
        self.path = Path(path).absolute()
        self.checkpoints = CheckpointFolder(self.path / "checkpoints", keep_checkpoints)
        self.segment = 0
        self._journal: JSONLines | None = None
        self._metrics: JSONLines | None = None
        self._lock = FileLock(self.path / ".lock")
        self._tick = 0

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
            lines = read_lines(self.journal_path)
            self._tick = max((line.get("tick", -1) for line in lines), default=-1) + 1
            self.segment = sum(line.get("event") == "RunStarted" for line in lines)
            self._journal = JSONLines(self.journal_path, durable=True)
            self._metrics = JSONLines(self.metrics_path)
        except BaseException:
            self.close()
            raise

    def _agree(self, config: Mapping[str, Any]) -> None:
        import yaml

        path = self.path / "config.yaml"
        wanted = json.loads(json.dumps(config))
        if not path.exists():
            write_text(path, yaml.safe_dump(wanted, sort_keys=False))
            return
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        differences = _differences(found, wanted)
        if differences:
            raise RunConflictError(
                f"run {self.name!r} exists with other parameters ({'; '.join(differences)}); "
                "use the same ones to continue it, or choose another run= name"
            )

    def journal(self, event: str, step: int, **fields: Any) -> None:
        """Append one line and wait until it is on the disk."""
        if self._journal is None:
            return
        line = {"tick": self._tick, "segment": self.segment, "time": time.time(), "step": step, "event": event}
        self._journal.append({**line, **fields})
        self._tick += 1

    def record(self, step: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Append one record of metrics; the file has it with the next status or checkpoint."""
        if self._metrics is not None:
            head = {"segment": self.segment, "step": step, "epoch": epoch, "time": time.time()}
            self._metrics.append({**head, **metrics}, flush=False)

    def flush(self) -> None:
        """Bring the metrics file up to date."""
        if self._metrics is not None:
            self._metrics.flush()

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Replace `status.json`."""
        self.flush()
        write_text(self.status_path, json.dumps({**status, "time": time.time(), "pid": os.getpid()}), durable=False)

    def close(self) -> None:
        """Let go of the folder; it can be opened again."""
        for file in (self._journal, self._metrics):
            if file is not None:
                file.close()
        self._journal = self._metrics = None
        self._lock.release()


def edits_after(journal: Path, checkpoint: Path) -> list[tuple[int, Set]]:
    """Step and command of the edits that a journal holds after the line that says `checkpoint` was saved."""
    lines = read_lines(journal)
    saved = [number for number, line in enumerate(lines) if Path(line.get("path", "")).name == checkpoint.name]
    edits = {}
    for line in lines[saved[-1] + 1 :] if saved else []:
        if line.get("event") == "CommandApplied" and line["command"]["type"] == "Set":
            command = {key: value for key, value in line["command"].items() if key != "type"}
            edits[line["step"], Set(**command)] = None  # a run that was killed twice has made the first ones again
    return list(edits)


def _differences(found: Any, wanted: Any, where: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = list(dict.fromkeys([*found, *wanted]))
        parts = [_differences(found.get(k), wanted.get(k), f"{where}.{k}" if where else str(k)) for k in keys]
        return [line for part in parts for line in part]
    return [] if found == wanted else [f"{where}: was {found!r}, now {wanted!r}"]
