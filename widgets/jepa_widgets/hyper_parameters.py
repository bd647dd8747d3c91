"""Every number that may be changed while a run trains: what it is now, what it may be, and a field for a new value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from traitlets import Bool, Dict, List

from jepa.trainer import control
from jepa.trainer.control import Command
from jepa.trainer.status import LIVE
from jepa_widgets.run_part import FOLDER, SCRIPT, RunPart

if TYPE_CHECKING:
    from jepa.trainer import JEPATrainer


class HyperParameters(RunPart):
    """A table of `trainer.hyper_parameters()` with a field, a choice of how it goes on, and Apply, for each."""

    _esm = SCRIPT + (FOLDER / "hyper_parameters.js").read_text(encoding="utf-8")
    rows = List(Dict(), help="name, range and unit of each number").tag(sync=True)
    values = Dict(help="present values, as they are shown").tag(sync=True)
    enabled = Bool(False).tag(sync=True)

    def __init__(self, trainer: JEPATrainer) -> None:
        super().__init__(trainer)
        self.add_class("jepa-hyper-parameters")

    def apply(self, name: str, text: str, mode: str = "scale") -> None:
        """Do what Apply does beside the field of `name` that holds `text`."""
        self._receive({"name": name, "value": text, "mode": mode})

    def wish(self, content: dict[str, Any], trainer: JEPATrainer) -> Command | None:
        """The edit that was asked for."""
        name, text, mode = (str(content.get(key, "")) for key in ("name", "value", "mode"))
        try:
            return control.Set(name, float(text), mode)  # type: ignore[arg-type]
        except ValueError:
            raise ValueError(f"the {_words(name)} must be a number such as 3e-4, got {text!r}") from None

    def refresh(self, trainer: JEPATrainer) -> None:
        """Show the present values."""
        known = trainer.hyper_parameters()
        self.rows = [
            {"name": name, "label": _words(name), "range": f"{spec.low:g} to {spec.high:g}", "unit": spec.unit}
            for name, (spec, _) in known.items()
        ]
        self.values = {name: f"{value:.4g}" for name, (_, value) in known.items()}
        self.enabled = trainer.state in LIVE

    def disable(self) -> None:
        """Take no more edits."""
        self.enabled = False


def _words(name: str) -> str:
    return name.replace("_", " ").replace("ema ", "EMA ")
