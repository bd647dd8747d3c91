"""The JEPA methods, one a file, found by name and imported when asked for."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from torch import nn

from jepa.models.jepa import JEPA
from jepa.objectives.base import Draw, HyperParameter, Losses, Objective, Views

if TYPE_CHECKING:
    from jepa.objectives.action_conditioned import ActionConditioned
    from jepa.objectives.ijepa import IJEPA
    from jepa.objectives.lejepa import LeJEPA
    from jepa.objectives.state_pair import StatePair
    from jepa.objectives.vicreg import VICReg
    from jepa.objectives.vjepa import VJEPA

_CLASSES = {  # by name, which is that of the file, too
    "state_pair": "StatePair",
    "action_conditioned": "ActionConditioned",
    "ijepa": "IJEPA",
    "vjepa": "VJEPA",
    "lejepa": "LeJEPA",
    "vicreg": "VICReg",
}


class _Objectives(Mapping[str, type[Objective]]):
    """All of them by name; each is imported when it is looked up."""

    def __getitem__(self, name: str) -> type[Objective]:
        cls = _CLASSES[name]
        return getattr(import_module(f"jepa.objectives.{name}"), cls)

    def __contains__(self, name: object) -> bool:
        return name in _CLASSES

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)


OBJECTIVES: Mapping[str, type[Objective]] = _Objectives()


def __getattr__(name: str) -> Any:
    found = next((method for method, cls in _CLASSES.items() if cls == name), None)
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return OBJECTIVES[found]


def get_objective(name: str) -> type[Objective]:
    """The objective of that name.

    Raises:
        ValueError: There is none; the message names the nearest.
    """
    if name not in OBJECTIVES:
        nearest = difflib.get_close_matches(str(name), OBJECTIVES, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(OBJECTIVES)}"
        raise ValueError(f"unknown objective {name!r}; {hint}")
    return OBJECTIVES[name]


def build_objective(name: str, model: JEPA, options: Mapping[str, Any] | None = None) -> Objective:
    """The named objective around a model, with options as files hold them (lists stand for tuples)."""
    arguments: dict[str, Any] = dict(options or {})
    tuples = {key: tuple(value) for key, value in arguments.items() if isinstance(value, list)}
    return get_objective(name)(model, **{**arguments, **tuples})


def as_objective(model: JEPA | Objective | nn.Module, name: str, options: Mapping[str, Any] | None = None) -> Objective:
    """The objective itself, or the named one around a model, or around an encoder with the method's usual parts."""
    if isinstance(model, Objective):
        if options:
            raise ValueError(
                f"the objective is built already: pass {', '.join(options)} to {type(model).__name__}(...)"
            )
        return model
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"expected a JEPA, an encoder or an Objective, got {type(model).__name__}; build "
            "JEPA(encoder=..., predictor=...)"
        )
    owner = model if isinstance(model, JEPA) else get_objective(name).model_for(model, options)
    return build_objective(name, owner, options)


__all__ = [
    "IJEPA",
    "OBJECTIVES",
    "VJEPA",
    "ActionConditioned",
    "Draw",
    "HyperParameter",
    "LeJEPA",
    "Losses",
    "Objective",
    "StatePair",
    "VICReg",
    "Views",
    "as_objective",
    "build_objective",
    "get_objective",
]
