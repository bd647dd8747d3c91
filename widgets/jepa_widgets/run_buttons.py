"""Start, pause, resume, step, stop, checkpoint, evaluate and inspect."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from traitlets import Bool, List, Unicode

from jepa.trainer import control
from jepa.trainer.control import Command
from jepa_widgets.run_part import FOLDER, SCRIPT, RunPart

if TYPE_CHECKING:
    from jepa.trainer import JEPATrainer

COMMANDS: dict[str, Callable[[dict[str, Any]], Command]] = {
    "pause": lambda content: control.Pause(),
    "resume": lambda content: control.Resume(),
    "step": lambda content: control.Step(_count(content.get("n", "1"))),
    "stop": lambda content: control.Stop(),
    "checkpoint": lambda content: control.SaveCheckpoint(),
    "evaluate": lambda content: control.Evaluate(),
    "inspect": lambda content: control.Inspect(),
}
ENABLED = {
    "running": ["pause", "stop", "checkpoint", "evaluate", "inspect"],
    "paused": ["resume", "step", "stop", "checkpoint", "evaluate", "inspect"],
    "stopping": ["checkpoint", "evaluate", "inspect"],
}


class RunButtons(RunPart):
    """The buttons, of which those can be pressed that mean something now."""

    _esm = SCRIPT + (FOLDER / "run_buttons.js").read_text(encoding="utf-8")
    enabled = List(Unicode(), help="names of the buttons that can be pressed").tag(sync=True)
    evaluates = Bool(False, help="whether there is validation data").tag(sync=True)

    def __init__(self, trainer: JEPATrainer) -> None:
        self.starting = False
        super().__init__(trainer)
        self.add_class("jepa-run-buttons")

    def press(self, name: str, **content: str) -> None:
        """Do what a click on the button `name` does; `n` is what stands in the field beside Step."""
        self._receive({"button": name, **content})

    def wish(self, content: dict[str, Any], trainer: JEPATrainer) -> Command | None:
        """The command of the button that was pressed."""
        name = content.get("button")
        if name == "start":
            self._start(trainer)
        return COMMANDS[name](content) if name in COMMANDS else None

    def _start(self, trainer: JEPATrainer) -> None:
        status = trainer.status()
        if 0 < status.total_steps <= status.step:
            raise ValueError(
                f"all {status.total_steps} steps are done; start(loader, num_epochs=...) with more goes on"
            )
        self.starting = True
        try:
            trainer.restart()
        finally:
            self.starting = False

    def refresh(self, trainer: JEPATrainer) -> None:
        """Enable what means something in the present state."""
        self.evaluates = trainer.val_loader is not None
        enabled = ENABLED.get(trainer.state, ["start"])
        self.enabled = [name for name in enabled if name != "evaluate" or self.evaluates]

    def disable(self) -> None:
        """Take no more clicks."""
        self.enabled = []


def _count(text: Any) -> int:
    try:
        count = int(text)
    except ValueError:
        count = 0
    if count < 1:
        raise ValueError(f"the number of steps must be a whole number from 1 on, got {text!r}")
    return count
