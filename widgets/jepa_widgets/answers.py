"""What became of the last wish, the last checkpoint, and what went wrong with the run."""

from __future__ import annotations

from html import escape
from pathlib import Path

from ipywidgets import HTML, VBox

from jepa.trainer import events


class Answers(VBox):
    """A line of what was done last, and the traceback of what ended the run. Takes events; `flush` shows them."""

    def __init__(self) -> None:
        self.said = "ready"
        self.trouble = ""
        self._kept = ""
        self.line = HTML()
        self.error = HTML()
        super().__init__([self.line, self.error])
        self.add_class("jepa-answers")
        self.flush()

    def __call__(self, event: events.Event) -> None:
        """Take one event."""
        if isinstance(event, events.CommandApplied):
            self.said = _sentence(event)
            if event.error is None and event.command["type"] in ("Rewind", "Fork"):
                self._kept = ""  # that one is given up, or in another folder
        elif isinstance(event, events.CheckpointSaved):
            self._kept = f"last checkpoint: step {event.step}"
        elif isinstance(event, events.RunEnded):
            self.said = f"{event.state} at step {event.step}"
        elif isinstance(event, events.RunStarted):
            self.said = f"started at step {event.step}"
            self.trouble = ""
        elif isinstance(event, events.RunFailed):
            self.trouble = event.traceback or str(event.error)

    def flush(self) -> None:
        """Show what was taken."""
        self.line.value = (
            f'<div class="jepa-line"><span class="jepa-acknowledged">{escape(self.said)}</span>'
            f'<span class="jepa-last-checkpoint">{self._kept}</span></div>'
        )
        self.error.value = _trouble(self.trouble)


def _sentence(event: events.CommandApplied) -> str:
    name = event.command["type"]
    if event.error is not None:
        return f"{name} refused at step {event.step}: {event.error}"
    if name == "Set":
        result = event.result
        what = str(result["name"]).replace("_", " ")
        return f"{what} {result['old']:.4g} to {result['new']:.4g} from step {event.step + 1} on: {result['course']}"
    if name == "SaveCheckpoint":
        return f"checkpoint of step {event.step} written: {_short(event.result['path'])}"
    if name == "Rewind":
        return f"Rewind took effect: back at {Path(event.result['path']).name}, what was set since then is undone"
    if name == "Fork":
        return f"Fork took effect: goes on in {Path(event.result['path']).name}, the run it came from stays as it is"
    return f"{name} took effect after step {event.step}"


def _short(path: str) -> str:
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path


def _trouble(text: str) -> str:
    if not text:
        return ""
    last = escape(text.strip().splitlines()[-1])
    body = f"<details><summary>{last}</summary><pre>{escape(text)}</pre></details>" if "\n" in text.strip() else last
    return f'<div class="jepa-error" role="alert" style="color:var(--jp-error-color1, #b00020)">{body}</div>'
