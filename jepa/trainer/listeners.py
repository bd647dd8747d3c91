"""Who is told what happens: callbacks, which act, and sinks, which observe."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from jepa.trainer import events
from jepa.trainer.callback import EVENT_METHODS, Callback
from jepa.trainer.events import Sink
from jepa.trainer.recorder import NonFiniteLossError

if TYPE_CHECKING:
    from jepa.trainer.trainer import JEPATrainer


class Listeners:
    """The callbacks and sinks of one trainer.

    Args:
        callbacks: Called first, in this order.
        on_error: Whether a callback that raises ends the run (`"stop"`), or is reported once for each kind of event
            (`"continue"`).

    Raises:
        TypeError: One of them is not a `Callback`.
    """

    def __init__(self, callbacks: Sequence[Callback], *, on_error: Literal["stop", "continue"] = "stop") -> None:
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks must derive from Callback, got {type(callback).__name__}")
        self._callbacks = callbacks
        self._methods: dict[type[events.Event], list[Callable[..., None]]] = {
            event: [self._method(callback, name, on_error) for callback in callbacks if hasattr(callback, name)]
            for name, event in EVENT_METHODS.items()
        }
        self._sinks: tuple[Sink, ...] = ()
        self._step_sinks: tuple[Sink, ...] = ()
        self.want_steps = bool(self._methods[events.StepEnded])  # asked at every step

    def _method(self, callback: Callback, name: str, on_error: str) -> Callable[..., None]:
        """What an event calls; no wrapper where none is needed, since some are called at every step."""
        method = getattr(callback, name)
        return method if on_error == "stop" else _reporting(method, f"{type(callback).__name__}.{name}")

    def subscribe(self, sink: Sink, *, every_step: bool = False) -> None:
        """Tell `sink` from now on; of `StepEnded` only if `every_step`. From any thread."""
        self._sinks = (*self._sinks, sink)
        if every_step:
            self._step_sinks = (*self._step_sinks, sink)
        self._count()

    def unsubscribe(self, sink: Sink) -> None:
        """Tell `sink` no more. From any thread."""
        # Compared with ==: a bound method is a new object each time it is looked up.
        self._sinks = tuple(kept for kept in self._sinks if kept != sink)
        self._step_sinks = tuple(kept for kept in self._step_sinks if kept != sink)
        self._count()

    def _count(self) -> None:
        self.want_steps = bool(self._step_sinks or self._methods[events.StepEnded])

    def publish(self, trainer: JEPATrainer, event: events.Event) -> None:
        """Tell everybody. What a callback raises goes through unless that was not wanted; a sink is only dropped."""
        for method in self._methods[type(event)]:
            method(trainer, event)
        for sink in self._step_sinks if type(event) is events.StepEnded else self._sinks:
            try:
                sink(event)
            except Exception as error:
                self.unsubscribe(sink)
                warnings.warn(
                    f"{sink!r} failed on {type(event).__name__} ({error!r}) and gets no more events", stacklevel=3
                )

    def _named(self) -> dict[str, Callback]:
        """Callbacks by class, the second and further ones of a class by number too."""
        named: dict[str, Callback] = {}
        for callback in self._callbacks:
            name = type(callback).__name__
            number = sum(other.partition(" ")[0] == name for other in named)
            named[f"{name} {number + 1}" if number else name] = callback
        return named

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """What a checkpoint keeps of each callback."""
        return {name: callback.state_dict() for name, callback in self._named().items()}

    def load_state_dict(self, state: Mapping[str, dict[str, Any]]) -> None:
        """Give the callbacks that a checkpoint knows back what it holds; the others begin anew."""
        for name, callback in self._named().items():
            if name in state:
                callback.load_state_dict(state[name])


def _reporting(method: Callable[..., None], name: str) -> Callable[..., None]:
    """A callback's method that raises nothing but what is the run's own concern; its first error is told."""
    told = False

    def call(trainer: JEPATrainer, event: events.Event) -> None:
        nonlocal told
        try:
            method(trainer, event)
        except NonFiniteLossError:  # found when the callback asked for a checkpoint, say: the weights are bad
            raise
        except Exception as error:
            if not told:
                told = True
                _report(trainer, name, error)

    return call


def _report(trainer: JEPATrainer, name: str, error: Exception) -> None:
    sentence = f"{type(error).__name__}: {error}"
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{place.filename}:{place.lineno}"
    trainer.journal("CallbackFailed", durable=False, callback=name, error=sentence, where=where)
    warnings.warn(
        f"{name} failed at step {trainer.step}: {sentence} ({where}); the run goes on, and further failures of it are "
        "not told (on_callback_error='continue')",
        RuntimeWarning,
        stacklevel=5,
    )
