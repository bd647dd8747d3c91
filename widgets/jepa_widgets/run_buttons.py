"""Start, pause, resume, step, stop, checkpoint, evaluate, inspect and history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from traitlets import Dict, List, Unicode

from jepa.trainer import control
from jepa.trainer.control import Command
from jepa.trainer.status import Status
from jepa.trainer.steering import SteeredRun, Watched
from jepa_widgets.run_part import FOLDER, SCRIPT, RunPart

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
    """The buttons, of which those can be pressed that mean something now.

    Attributes:
        on_history: Called when the journal shall be shown.
    """

    _esm = SCRIPT + (FOLDER / "run_buttons.js").read_text(encoding="utf-8")
    enabled = List(Unicode(), help="names of the buttons that can be pressed").tag(sync=True)
    unavailable = Dict(help="why those cannot be pressed that mean nothing for this run").tag(sync=True)

    def __init__(self, run: Watched) -> None:
        self.starting = False
        self.on_history: Callable[[], None] = lambda: None
        super().__init__(run)
        self.add_class("jepa-run-buttons")

    def press(self, name: str, **content: str) -> None:
        """Do what a click on the button `name` does; `n` is what stands in the field beside Step."""
        self._receive({"button": name, **content})

    def wish(self, content: dict[str, Any], run: SteeredRun) -> Command | None:
        """The command of the button that was pressed."""
        name = content.get("button")
        if name == "start":
            self._start(run)
        if name == "history":
            self.on_history()
        return COMMANDS[name](content) if name in COMMANDS else None

    def _start(self, run: SteeredRun) -> None:
        status = run.status()
        if 0 < status.total_steps <= status.step:
            raise ValueError(
                f"all {status.total_steps} steps are done; start(loader, num_epochs=...) with more goes on"
            )
        self.starting = True
        try:
            run.restart()
        finally:
            self.starting = False

    def refresh(self, run: SteeredRun, status: Status) -> None:
        """Enable what means something for this run in its present state."""
        self.unavailable = run.unavailable()
        enabled = [*ENABLED.get(status.state, ["start"]), "history"]
        self.enabled = [name for name in enabled if name not in self.unavailable]

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
