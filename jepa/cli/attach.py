"""`attach`: a run that trains in another process, watched or steered through its folder."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

from jepa.cli.runs import in_words, printable
from jepa.trainer import RemoteRun, attach, events
from jepa.trainer.control import Command, Evaluate, Fork, Pause, Resume, Rewind, SaveCheckpoint, Set, Step, Stop
from jepa.trainer.status import Status

SHOWN = ("loss", "val_loss", "learning_rate", "effective_rank", "steps_per_second")
LOOK_SECONDS = 0.2


def checkpoint_of(text: str) -> str | int:
    """A checkpoint by its step or its file name."""
    return int(text) if text.isdecimal() else text


def set_from(name: str, value: str, mode: Any = "scale") -> Set:
    """A number by its name, and what it shall be; the run checks both, and the mode."""
    return Set(name, float(value), mode)


COMMANDS: dict[str, tuple[str, int, Callable[..., Command]]] = {
    "pause": ("", 0, Pause),
    "resume": ("", 0, Resume),
    "step": ("[N]", 0, lambda n="1": Step(int(n))),
    "set": ("NAME VALUE [scale|hold|schedule]", 2, set_from),
    "checkpoint": ("", 0, SaveCheckpoint),
    "evaluate": ("", 0, Evaluate),
    "rewind": ("STEP|FILE", 1, lambda checkpoint: Rewind(checkpoint_of(checkpoint))),
    "fork": ("NAME [STEP|FILE]", 1, lambda name, origin=None: Fork(name, origin and checkpoint_of(origin))),
    "stop": ("", 0, Stop),
}
"""Name to what it takes, how much of that it needs, and how it is made."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    usages = ", ".join(f"{name} {takes}".rstrip() for name, (takes, _, _) in COMMANDS.items())
    parser.add_argument("run", help="name or path of the run, see: python -m jepa.cli runs")
    parser.add_argument("words", nargs="*", metavar="COMMAND", help=f"{usages}; without one, the run is followed")
    parser.add_argument("--runs-dir", default="runs", help="folder of the runs")
    parser.add_argument("--timeout", type=float, default=None, help="seconds to wait for the answer")


def run(options: argparse.Namespace) -> int:
    """Send a command and print the answer, or follow the run until it ends."""
    command = command_of(options.words) if options.words else None
    one = attach(options.run, options.runs_dir)
    if command is None:
        follow(one)
        return 0
    ticket = one.submit(command)
    result = ticket.result(options.timeout)
    print(f"{options.words[0]} applied at step {ticket.step}{said(result)}{said(ticket.value)}")
    return 0


def command_of(words: list[str]) -> Command:
    """The command that the words say.

    Raises:
        ValueError: There is no such command, or it takes something else.
    """
    name, *arguments = words
    if name not in COMMANDS:
        raise ValueError(f"the command must be one of {', '.join(COMMANDS)}, got {name!r}")
    takes, least, make = COMMANDS[name]
    most = len(takes.split())
    if not least <= len(arguments) <= most:
        raise ValueError(f"{name} takes {takes or 'nothing more'}, got {' '.join(arguments) or 'nothing'}")
    return make(*arguments)


def said(values: object) -> str:
    """What an answer holds, as the end of a line."""
    return f" {printable(json.dumps(values), 2000)}" if values else ""


def follow(one: RemoteRun) -> None:
    """One line a record, until the run ends; an interrupt leaves the run alone."""
    print(state_line(one.name, one.status()), flush=True)
    if one.ended:
        return
    one.subscribe(print_event)
    try:
        while not one.ended:
            time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"run {one.name} goes on; to end it: attach {one.name} stop") from error
    finally:
        one.unsubscribe(print_event)
    print(state_line(one.name, one.status()), flush=True)


def state_line(name: str, status: Status) -> str:
    """What a run is doing."""
    left = "" if status.seconds_left is None else f", {in_words(status.seconds_left)} left"
    error = f": {status.error}" if status.error else ""
    return printable(f"{name}: {status.state} at step {status.step} of {status.total_steps or '?'}{left}{error}", 1000)


def print_event(event: events.Event) -> None:
    """A line about what is worth one."""
    if isinstance(event, events.MetricsLogged | events.Evaluated):
        names = [name for name in SHOWN if name in event.metrics] or list(event.metrics)
        text = "  ".join(f"{name} {event.metrics[name]:.4g}" for name in names)
    elif isinstance(event, events.CommandApplied):
        outcome = f"refused: {event.error}" if event.error else f"applied{said(event.result)}"
        text = f"{event.command.get('type')} of {event.source} {outcome}"
    elif isinstance(event, events.CheckpointSaved):
        text = f"wrote {event.path.name}"
    elif isinstance(event, events.StateChanged):
        text = event.state
    else:
        return
    print(f"step {event.step:>6}  {printable(text, 1000)}", flush=True)
