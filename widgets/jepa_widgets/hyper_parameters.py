"""Every number that may be changed while a run trains: what it is now, what it may be, and a field for a new value."""

from __future__ import annotations

from typing import Any

from traitlets import Bool, Dict, List

from jepa.trainer import control
from jepa.trainer.control import Command
from jepa.trainer.numbers import Number
from jepa.trainer.status import LIVE, Status
from jepa.trainer.steering import SteeredRun, Watched
from jepa_widgets.run_part import FOLDER, SCRIPT, RunPart


class HyperParameters(RunPart):
    """A table of `run.hyper_parameters()` with a field, a choice of how it goes on, and Apply, for each."""

    _esm = SCRIPT + (FOLDER / "hyper_parameters.js").read_text(encoding="utf-8")
    rows = List(Dict(), help="name, range, unit and modes of each number").tag(sync=True)
    values = Dict(help="present values, as they are shown").tag(sync=True)
    courses = Dict(help="how they go on at present").tag(sync=True)
    enabled = Bool(False).tag(sync=True)

    def __init__(self, run: Watched) -> None:
        super().__init__(run)
        self.add_class("jepa-hyper-parameters")

    def apply(self, name: str, text: str, mode: str = "scale") -> None:
        """Do what Apply does beside the field of `name` that holds `text`."""
        self._receive({"name": name, "value": text, "mode": mode})

    def wish(self, content: dict[str, Any], run: SteeredRun) -> Command | None:
        """The edit that was asked for."""
        name, text, mode = (str(content.get(key, "")) for key in ("name", "value", "mode"))
        try:
            return control.Set(name, float(text), mode)  # type: ignore[arg-type]
        except ValueError:
            raise ValueError(f"the {_words(name)} must be a number such as 3e-4, got {text!r}") from None

    def refresh(self, run: SteeredRun, status: Status) -> None:
        """Show the present values."""
        if known := run.numbers():  # else a run elsewhere has told nothing yet, or nothing that can be read
            self.rows = [_row(name, number) for name, number in known.items()]
            self.values = {name: f"{number.value:.4g}" for name, number in known.items()}
            self.courses = {name: number.course for name, number in known.items()}
        self.enabled = status.state in LIVE

    def disable(self) -> None:
        """Take no more edits."""
        self.enabled = False


def _row(name: str, number: Number) -> dict[str, Any]:
    spec = number.spec
    limits = f"{spec.low:g} to {spec.high:g}"
    row = {"name": name, "label": _words(name), "range": limits, "unit": spec.unit, "modes": list(number.modes)}
    return {**row, "folded": number.of_views}  # of a method with masks there are many


def _words(name: str) -> str:
    return name.replace("_", " ").replace("ema ", "EMA ")
