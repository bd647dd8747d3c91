"""Curves of a live run: one bounded, self-contained snapshot that every page can draw at any time.

The snapshot is a single synced trait, written anew with each update, so a page that reloads, joins late or misses an
update shows the complete curves with the next one, and the kernel's state shows them without any. What a page zooms
into it asks for by a message, and gets in a message of its own. Settings are messages from the page and traits from
the kernel: while a cell awaits, kernels do not answer the state of a page's widget, but they take its messages.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import anywidget
from ipywidgets import widget_serialization
from traitlets import Bool, Bytes, Float, Instance, List, Unicode

from jepa.figures.history import PANELS as OVERVIEW
from jepa.figures.style import COLOURS
from jepa.trainer import events
from jepa_widgets.plotly_library import SCRIPT, PlotlyLibrary, plotly_library
from jepa_widgets.run_curves import OLD_POINTS, Packed, RunCurves, pack

FOLDER = Path(__file__).parent
PANELS = {metrics[0]: panel for panel, metrics in OVERVIEW}
GROUPS = ("overview", "terms", "diagnostics", "optimisation", "other")
DIAGNOSTIC = ("std", "rank", "norm", "probe", "knn", "embedding", "collapse", "similarity", "variance")
OPTIMISED = ("rate", "momentum", "decay", "clip", "weight", "scale", "steps_per_second")
OWN_RUN = "this run"

LIMIT = 19_300  # bytes of a snapshot; the message around it has its share of 20 kB
POINTS = 280  # the most of a curve: what a panel has room for
LEAST = 70  # bytes of a curve: three numbers of the header, four of its place, four points and a mean
NAMED = LIMIT - 4000  # for curves and their names; the rest is for marks and clocks
MARKS = 20
TEXT = 64
NAME = 32
CLOCK_ROWS = 64  # of all runs together
DETAIL_POINTS, DETAIL_LIMIT = 2000, 20_000  # of a curve, of all: what a page gets that has zoomed in
FRESH_SECONDS = 0.0015  # CPU time of an update after which curves show their new points with a later one
LEAST_FRESH = 4  # curves that show theirs in any case
QUIET = {"Pause", "Resume", "Step", "Stop", "SaveCheckpoint", "Evaluate", "Inspect", "Settle"}  # change no number


class Trace(NamedTuple):
    """A curve that is shown."""

    run: str
    metric: str
    panel: str
    group: str


class LivePlot(anywidget.AnyWidget):
    """Every metric of a run against the step, in panels, and other runs beside it.

    It is a sink: subscribe it to a trainer, and call `flush` (not too often) to show what is new. Events may come from
    one thread while another one flushes. The page has controls for the groups of panels, for smoothing and for a
    logarithmic axis; dragging zooms in, to the full resolution, and a double-click shows everything again.

    Attributes:
        folded: Groups of panels that are not shown: any of `overview`, `terms`, `diagnostics`, `optimisation`, `other`.
        smoothing: Time constant of the exponential smoothing as a share of the range that is shown, 0 to 0.2.
        log_axis: Whether values are shown on logarithmic axes.

    Example:
        A finished run beside the one that trains::

            trainer.view.plot.add_run("yesterday", yesterday.history)
    """

    _esm = SCRIPT + f"const COLOURS = {json.dumps(COLOURS)};\n" + (FOLDER / "live_plot.js").read_text(encoding="utf-8")
    _css = FOLDER / "widgets.css"
    snapshot = Bytes().tag(sync=True)
    library = Instance(PlotlyLibrary).tag(sync=True, **widget_serialization)
    folded = List(Unicode(), list(GROUPS[1:])).tag(sync=True)
    smoothing = Float(0.0, min=0.0, max=0.2).tag(sync=True)
    log_axis = Bool(False).tag(sync=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(library=plotly_library(), **kwargs)
        self._lock = threading.RLock()
        self._runs: dict[str, RunCurves] = {OWN_RUN: RunCurves()}
        self._terms: set[str] = set()
        self._places: dict[str, tuple[str, str]] = {}
        self._marks: deque[dict[str, Any]] = deque(maxlen=MARKS)
        self._newest = 0
        self._turn = 0
        self._complete = True
        self.on_msg(self._receive)

    # ------------------------------------------------------------------ what happens

    def __call__(self, event: events.Event) -> None:
        """Take one event: costs microseconds, sends nothing."""
        with self._lock:
            own = self._runs[OWN_RUN]
            if isinstance(event, events.StepEnded | events.MetricsLogged | events.EpochStarted):
                if event.step < self._newest:
                    own.go_back(event.step)
                self._newest = event.step
            if isinstance(event, events.MetricsLogged | events.Evaluated):
                self._learn_terms(event.metrics)
                own.add(event.step, event.metrics)
            if isinstance(event, events.MetricsLogged):
                own.clock.add(event.step, event.epoch, event.time)
            elif isinstance(event, events.EpochEnded) and "loss" in event.metrics:
                own.add(event.step, {"epoch_loss": event.metrics["loss"]})
            elif isinstance(event, events.CommandApplied) and event.error is None:
                if event.command["type"] not in QUIET:
                    self._marks.append({"step": event.step, "text": _in_words(event)})
            elif isinstance(event, events.StateChanged | events.RunEnded | events.RunFailed):
                self._complete = True  # there may be no later update

    def load(self, history: Any) -> None:
        """Show a history instead of the curves so far; what happens next is added to it.

        What was shown after the end of the history stays as an older, pale part.
        """
        with self._lock:
            self._learn_terms(history)
            self._runs[OWN_RUN].load(history)
            self._newest = self._runs[OWN_RUN].last
            self._complete = True

    def add_run(self, name: str, history: Any) -> None:
        """Show another run beside this one, or replace one that was added before.

        Args:
            name: What it is called in the chart.
            history: A `History`, or records: mappings with `step` and metrics, such as the lines of a metrics file.

        Raises:
            ValueError: The name is that of the run itself.
        """
        if name == OWN_RUN:
            raise ValueError(f"name must not be {OWN_RUN!r}, which is the run that the chart was made for")
        run = RunCurves()
        if hasattr(history, "steps"):
            run.load(history)
        else:
            run.add_records(history)
        with self._lock:
            taken = {other.colour for key, other in self._runs.items() if key != name}
            run.colour = next(number for number in range(len(taken) + 1) if number not in taken)
            self._learn_terms(run.curves)
            self._runs[name] = run
            self._complete = True
        self.flush()

    def remove_run(self, name: str) -> None:
        """Take a run out of the chart that `add_run` put there.

        Raises:
            ValueError: There is none of that name.
        """
        with self._lock:
            added = [key for key in self._runs if key != OWN_RUN]
            if name not in added:
                raise ValueError(f"no run {name!r} was added; added: {', '.join(added) or 'none'}")
            del self._runs[name]
        self.flush()

    def _learn_terms(self, metrics: Iterable[str]) -> None:
        """A record has the loss first, then its terms, then the norm of the gradient."""
        names = list(metrics)
        if "loss" in names and "grad_norm" in names:
            terms = names[names.index("loss") + 1 : names.index("grad_norm")]
            if not self._terms.issuperset(terms):
                self._terms.update(terms)
                self._places.clear()

    # ------------------------------------------------------------------ what is shown

    def flush(self) -> None:
        """Send the curves as they are now."""
        self.snapshot = self.packed()

    def packed(self) -> bytes:
        """Header length (uint32), JSON header, the clocks, and each curve as `Packed` has it."""
        with self._lock:
            end = math.inf if self._complete else time.thread_time() + FRESH_SECONDS
            traces = list(self._traces())
            shown = [trace for trace in traces if trace.group not in self.folded]
            left_out, shown = len(shown), _fitting(shown)
            left_out -= len(shown)
            runs = [name for name, run in self._runs.items() if run.curves]
            clocks = [self._runs[name].clock.packed(CLOCK_ROWS // max(len(runs), 1)) for name in runs]
            header = self._header(traces, shown, runs)
            header["left_out"] = left_out
            header["marks"] = list(self._marks)
            header["clocks"] = [[count, since] for count, since, _ in clocks]
            room = LIMIT - len(_compact(header)) - sum(len(data) for _, _, data in clocks) - 30 * len(shown)
            curves = [*self._old(shown, room // 4)]
            room -= sum(len(curve.data) + 30 for _, curve in curves)
            curves = [*self._current(shown, room, end), *((trace, curve) for trace, curve in curves)]
        old_from = len(shown)
        header["curves"] = [
            [shown.index(trace) if number >= old_from else number, curve.points, curve.means, int(number >= old_from)]
            for number, (trace, curve) in enumerate(curves)
        ]
        return _frame(header, [data for _, _, data in clocks] + [curve.data for _, curve in curves])

    def _traces(self) -> Iterator[Trace]:
        """All curves, group by group and panel by panel."""
        place = self._place_once
        found = [Trace(run, name, *place(name)) for run, one in self._runs.items() for name in one.curves]
        panels = dict.fromkeys([*PANELS.values(), *(trace.panel for trace in found)])
        order = {panel: number for number, panel in enumerate(panels)}
        groups = {group: number for number, group in enumerate(GROUPS)}
        yield from sorted(found, key=lambda trace: (groups[trace.group], order[trace.panel]))

    def _place_once(self, metric: str) -> tuple[str, str]:
        if metric not in self._places:
            self._places[metric] = self._place(metric)
        return self._places[metric]

    def _place(self, metric: str) -> tuple[str, str]:
        """Panel and group of a metric; what is measured on validation data is in the panel of its training metric."""
        name = metric.removeprefix("val_")
        if name in PANELS:
            return PANELS[name], "overview"
        panel = _cut(name.replace("_", " "))
        if name in self._terms:
            return panel, "terms"
        if any(word in name for word in OPTIMISED):
            return panel, "optimisation"
        return panel, "diagnostics" if any(word in name for word in DIAGNOSTIC) else "other"

    def _header(self, traces: list[Trace], shown: list[Trace], runs: list[str]) -> dict[str, Any]:
        panels = list(dict.fromkeys((trace.panel, trace.group) for trace in shown))
        places = {panel: number for number, panel in enumerate(panels)}
        metrics = {metric: number for number, metric in enumerate(dict.fromkeys(trace.metric for trace in shown))}
        numbers = {run: number for number, run in enumerate(runs)}
        counts = Counter(group for _, group in {(trace.panel, trace.group) for trace in traces})
        return {
            "uid": self.model_id,
            "groups": [[group, counts[group]] for group in GROUPS if group in counts],
            "panels": [[panel, GROUPS.index(group)] for panel, group in panels],
            "runs": [[_cut(name), self._runs[name].colour] for name in runs],
            "metrics": [_cut(name) for name in metrics],
            "traces": [
                [places[trace.panel, trace.group], metrics[trace.metric], numbers[trace.run]] for trace in shown
            ],
        }

    def _current(self, shown: list[Trace], room: int, end: float) -> list[tuple[Trace, Packed]]:
        """The curves in so many bytes; where they are many, those that had to wait longest are brought up to date."""
        limit = min(POINTS, max(4, room // max(len(shown), 1) // 12))  # means are half as many as points
        first, self._complete = self._turn % max(len(shown), 1), False
        packed: dict[Trace, Packed] = {}
        for number, trace in enumerate(shown[first:] + shown[:first]):
            stale = number >= LEAST_FRESH and time.thread_time() > end
            packed[trace] = self._runs[trace.run].packed(trace.metric, limit, stale=stale)
            self._turn += not stale
        return [(trace, packed[trace]) for trace in shown]

    def _old(self, shown: list[Trace], room: int) -> Iterator[tuple[Trace, Packed]]:
        """Parts that were given up, as long as there is room, the newest of each curve first."""
        parts = [(trace, list(self._runs[trace.run].old.get(trace.metric, ()))[::-1]) for trace in shown]
        for age in range(max((len(old) for _, old in parts), default=0)):
            for trace, old in parts:
                if age < len(old) and room >= OLD_POINTS * 8 + 30:
                    room -= len(old[age].data) + 30
                    yield trace, old[age]

    # ------------------------------------------------------------------ what a page asks for

    def _receive(self, _: Any, content: Any, __: Any) -> None:
        try:
            if content["event"] == "range":
                self._send_range(content["id"], float(content["from"]), float(content["to"]))
            elif content["event"] == "set":
                self._set(content["name"], content["value"])
        except Exception as error:
            self.send({"event": "error", "text": f"The kernel could not do this: {error}"})

    def _set(self, name: str, value: Any) -> None:
        if name not in ("folded", "smoothing", "log_axis"):
            raise ValueError(f"there is no setting {name!r}; there are folded, smoothing and log_axis")
        setattr(self, name, value)
        if name == "folded":
            with self._lock:
                self._complete = True
            self.flush()

    def _send_range(self, request: str, first: float, last: float) -> None:
        """Answer one page with a part of what is shown, as finely as a screen can show it."""
        with self._lock:
            shown = [trace for trace in self._traces() if trace.group not in self.folded]
            shown = _fitting(shown)
            limit = max(4, min(DETAIL_POINTS, DETAIL_LIMIT // max(len(shown), 1)))
            curves = [pack(self._runs[trace.run].curves[trace.metric].thinned(limit, first, last)) for trace in shown]
            runs = [name for name, run in self._runs.items() if run.curves]
            header = self._header(shown, shown, runs)
        header["curves"] = [[number, curve.points, curve.means, 0] for number, curve in enumerate(curves)]
        message = {"event": "range", "id": request, "from": first, "to": last}
        self.send(message, buffers=[_frame({**header, "clocks": []}, [curve.data for curve in curves])])


def _frame(header: Mapping[str, Any], parts: Iterable[bytes]) -> bytes:
    text = _compact(header)
    return b"".join([len(text).to_bytes(4, "little"), text, *parts])


def _compact(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header, separators=(",", ":")).encode()


def _fitting(traces: list[Trace]) -> list[Trace]:
    """As many as there is room for, with names and the fewest points."""
    room, metrics, panels, runs = NAMED, set[str](), set[str](), set[str]()
    for number, trace in enumerate(traces):
        room -= LEAST
        for name, known in ((trace.metric, metrics), (trace.panel, panels), (trace.run, runs)):
            if name not in known:
                known.add(name)
                room -= _size(name)
        if room < 0:
            return traces[:number]
    return traces


@lru_cache(4096)
def _size(name: str) -> int:
    """Bytes of a name in the header."""
    return len(json.dumps(_cut(name))) + 4


def _cut(name: str) -> str:
    return name if len(name) <= NAME else name[: NAME - 1] + "\u2026"


def _in_words(event: events.CommandApplied) -> str:
    """What was done, in at most `TEXT` characters."""
    command, result = event.command, event.result
    if command["type"] == "Set":
        return f"{result['name']}: {result['old']:.4g} to {result['new']:.4g}"[-TEXT:]
    told = [str(value) for value in command.values() if value is not None]
    return " ".join(told)[:TEXT]
