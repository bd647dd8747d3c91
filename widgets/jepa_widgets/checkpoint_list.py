"""The checkpoints of a run, to go back to or to branch off from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from traitlets import Bool, List, Unicode

from jepa.trainer import control
from jepa.trainer.control import Command
from jepa.trainer.status import LIVE
from jepa_widgets.run_part import FOLDER, SCRIPT, RunPart

if TYPE_CHECKING:
    from jepa.trainer import JEPATrainer


class CheckpointList(RunPart):
    """File names with Rewind, and a name with Fork beside each."""

    _esm = SCRIPT + (FOLDER / "checkpoint_list.js").read_text(encoding="utf-8")
    files = List(Unicode(), help="file names, newest first").tag(sync=True)
    enabled = Bool(False).tag(sync=True)

    def __init__(self, trainer: JEPATrainer) -> None:
        self._seen: tuple[Any, ...] = ()
        super().__init__(trainer)
        self.add_class("jepa-checkpoint-list")

    def rewind(self, file: str) -> None:
        """Do what Rewind does beside `file`."""
        self._receive({"action": "rewind", "file": file})

    def fork(self, file: str, name: str) -> None:
        """Do what Fork does beside `file` with `name` in the field."""
        self._receive({"action": "fork", "file": file, "name": name})

    def wish(self, content: dict[str, Any], trainer: JEPATrainer) -> Command | None:
        """The command of the button that was pressed."""
        file, name = str(content.get("file", "")), str(content.get("name", "")).strip()
        if content.get("action") == "rewind":
            return control.Rewind(file)
        if content.get("action") != "fork":
            return None
        if not name:
            raise ValueError("a fork needs a name: type one into the field above, then press Fork")
        return control.Fork(name, file)

    def refresh(self, trainer: JEPATrainer) -> None:
        """List what is on the disk, which is asked only when there may be something else."""
        self.enabled = trainer.state in LIVE
        seen = (trainer.run, trainer.last_checkpoint, trainer.state)
        if trainer.run is None or seen == self._seen:
            return
        self._seen = seen
        folder = trainer.run.checkpoints
        files = [folder.best, *reversed(folder.files), folder.initial]
        self.files = [file.name for file in files if file.exists()]

    def disable(self) -> None:
        """Take no more clicks."""
        self.enabled = False
