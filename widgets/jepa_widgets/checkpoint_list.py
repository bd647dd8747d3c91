"""The checkpoints of a run, to go back to or to branch off from."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from traitlets import Bool, List, Unicode

from jepa.trainer import control
from jepa.trainer.control import Command
from jepa.trainer.status import LIVE, Status
from jepa.trainer.steering import SteeredRun, Watched
from jepa_widgets.run_part import FOLDER, SCRIPT, RunPart

SETTLED_NS = 10**9  # two changes so close to each other may bear the same time


class CheckpointList(RunPart):
    """File names with Rewind, and a name with Fork beside each."""

    _esm = SCRIPT + (FOLDER / "checkpoint_list.js").read_text(encoding="utf-8")
    files = List(Unicode(), help="file names, newest first").tag(sync=True)
    enabled = Bool(False).tag(sync=True)

    def __init__(self, run: Watched) -> None:
        self._listed: tuple[Path, int] | None = None  # what was listed last, and when it had changed
        super().__init__(run)
        self.add_class("jepa-checkpoint-list")

    def rewind(self, file: str) -> None:
        """Do what Rewind does beside `file`."""
        self._receive({"action": "rewind", "file": file})

    def fork(self, file: str, name: str) -> None:
        """Do what Fork does beside `file` with `name` in the field."""
        self._receive({"action": "fork", "file": file, "name": name})

    def wish(self, content: dict[str, Any], run: SteeredRun) -> Command | None:
        """The command of the button that was pressed."""
        file, name = str(content.get("file", "")), str(content.get("name", "")).strip()
        if content.get("action") == "rewind":
            return control.Rewind(file)
        if content.get("action") != "fork":
            return None
        if not name:
            raise ValueError("a fork needs a name: type one into the field above, then press Fork")
        return control.Fork(name, file)

    def refresh(self, run: SteeredRun, status: Status) -> None:
        """List what is on the disk, where that has changed."""
        self.enabled = status.state in LIVE
        changed = _last_change(run.path)
        if changed is None or changed != self._listed:
            self.files = run.checkpoint_files()
            self._listed = changed

    def disable(self) -> None:
        """Take no more clicks."""
        self.enabled = False


def _last_change(run: Path | None) -> tuple[Path, int] | None:
    """Folder and time of it; `None` where that tells nothing: the folder is not there, or has changed just now."""
    if run is not None:
        with suppress(OSError):
            changed = (run / "checkpoints").stat().st_mtime_ns
            return (run, changed) if time.time_ns() - changed > SETTLED_NS else None
    return None
