"""The files through which another process steers a run: commands, answers, and who listens.

::

    <run>/control/
      session.json          there while a run listens: its `id`, and `moved_to`, the folder it went on in by a fork
      <id>.json             a command, and the session that it is meant for
      answers/<id>.json     what came of it, for as long as nobody has read it, an hour at most

Whoever may write into the folder may steer the run, and do nothing else with it: what a file says is checked, and only
small regular files are read.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from jepa.files import open_regular, write_text
from jepa.trainer.control import (
    Command,
    Evaluate,
    Fork,
    Pause,
    Resume,
    Rewind,
    SaveCheckpoint,
    Set,
    Step,
    Stop,
)

FOLDER = "control"
SESSION = "session.json"
LARGEST_BYTES = 64 << 10
ANSWER_SECONDS = 3600.0
DAMAGE = (OSError, ValueError, TypeError, OverflowError, RecursionError)
"""What reading a file that holds anything at all can lead to."""

FIELDS: dict[type[Command], dict[str, tuple[type, ...]]] = {
    Pause: {},
    Resume: {},
    Step: {"n": (int,)},
    Stop: {},
    SaveCheckpoint: {"path": (str, type(None))},
    Set: {"name": (str,), "value": (int, float), "mode": (str,)},
    Evaluate: {},
    Rewind: {"checkpoint": (str, int)},
    Fork: {"name": (str,), "checkpoint": (str, int, type(None))},
}
"""The commands that a run takes from another process, with the types of what they hold."""

COMMANDS = {kind.__name__: kind for kind in FIELDS}
NAME = re.compile(r"[A-Za-z0-9-]{1,64}\.json")


def parse_command(data: Any) -> Command:
    """A command from its data, as `Command.as_data` gives it.

    Raises:
        ValueError: It is none that a run takes from another process, or holds something else than that command does.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"a command is a mapping with a type, got {type(data).__name__}")
    kind = COMMANDS.get(data["type"]) if isinstance(data.get("type"), str) else None
    if kind is None:
        raise ValueError(f"type must be one of {', '.join(COMMANDS)}, got {str(data.get('type'))[:40]!r}")
    given = {str(name): value for name, value in data.items() if name != "type"}
    for name, value in given.items():
        allowed = FIELDS[kind].get(name)
        if allowed is None:
            raise ValueError(f"{kind.__name__} has {', '.join(FIELDS[kind]) or 'no fields'}, got {name[:40]!r}")
        if isinstance(value, bool) or not isinstance(value, allowed):
            names = " or ".join("null" if one is type(None) else one.__name__ for one in allowed)
            raise ValueError(f"{name} of {kind.__name__} must be {names}, got {type(value).__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} of {kind.__name__} must be a finite number, got {value}")
    if kind is Set and "value" in given:
        given["value"] = float(given["value"])
    if kind is SaveCheckpoint and given.get("path") is not None:
        given["path"] = Path(given["path"])
    try:
        return kind(**given)
    except TypeError as error:
        raise ValueError(
            f"{kind.__name__} needs {', '.join(FIELDS[kind])}, got {', '.join(given) or 'none'}"
        ) from error


class Mailbox:
    """The control files of one run folder, for both sides.

    Args:
        run: The run folder.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.path = run / FOLDER
        self.answers = self.path / "answers"

    # ------------------------------------------------------------------ the run's side

    def open(self, session: str) -> None:
        """Say that a run listens, and sweep what nobody fetched.

        Raises:
            OSError: The folder cannot be written, or is a symbolic link, which could lead out of the run.
        """
        for folder in (self.path, self.answers):
            if folder.is_symlink():
                raise OSError(f"{folder} is a symbolic link, and is not written through")
            folder.mkdir(exist_ok=True)
        write_text(self.path / SESSION, json.dumps({"id": session, "moved_to": None}), durable=False)
        self.sweep()

    def leave(self, session: str, moved_to: str) -> None:
        """Say where the run of this session goes on."""
        if self.session().get("id") == session:
            write_text(self.path / SESSION, json.dumps({"id": session, "moved_to": moved_to}), durable=False)

    def close(self, session: str) -> None:
        """Say that the run of this session does not listen any more."""
        if self.session().get("id") == session:
            (self.path / SESSION).unlink(missing_ok=True)

    def waiting(self) -> list[str]:
        """Names of all that lies where commands do, oldest first."""
        found: list[tuple[int, str]] = []
        with suppress(FileNotFoundError), os.scandir(self.path) as entries:
            for entry in entries:
                if entry.name not in (SESSION, self.answers.name) and not entry.name.startswith("."):
                    with suppress(FileNotFoundError):
                        found.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name))
        return [name for _, name in sorted(found)]

    def read_command(self, name: str) -> tuple[Command, str]:
        """A command, and the session that it is meant for.

        Raises:
            ValueError: It is no regular file, too large, or no command.
            OSError: It cannot be read.
        """
        try:
            letter = json.loads(read_small(self.path / name))
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
        if not isinstance(letter, dict) or letter.keys() != {"session", "command"}:
            raise ValueError("a file here holds a mapping with session and command, and nothing else")
        if not isinstance(letter["session"], str):
            raise ValueError(f"session must be str, got {type(letter['session']).__name__}")
        return parse_command(letter["command"]), letter["session"]

    def answer(self, name: str, answer: Mapping[str, Any]) -> None:
        """Answer the command of this file name, and take it away."""
        write_text(self.answers / name, json.dumps(answer), durable=False)
        (self.path / name).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove answers, and what is left of files being written, that are older than an hour."""
        for folder, pattern in ((self.answers, "*"), (self.path, ".*.tmp")):
            for path in folder.glob(pattern):
                with suppress(OSError):
                    if time.time() - path.lstat().st_mtime > ANSWER_SECONDS:
                        path.unlink()

    # ------------------------------------------------------------------ the other side

    def session(self) -> dict[str, Any]:
        """Who listens: `id` and `moved_to`; empty if nobody says so."""
        found = _mapping(self.path / SESSION)
        sane = isinstance(found.get("id"), str) and isinstance(found.get("moved_to"), str | None)
        return found if sane else {}

    def post(self, command: Command, session: str) -> str:
        """Write a command for a session; returns its file name.

        Raises:
            OSError: It cannot be written.
        """
        name = f"{time.time_ns():020d}-{secrets.token_hex(4)}.json"
        letter = {"session": session, "command": command.as_data()}
        write_text(self.path / name, json.dumps(letter), durable=False)
        return name

    def withdraw(self, name: str) -> None:
        """Take back a command that nobody has answered."""
        (self.path / name).unlink(missing_ok=True)

    def read_answer(self, name: str) -> dict[str, Any] | None:
        """What came of a command, `None` if that is not known yet."""
        answer = _mapping(self.answers / name)
        return answer or None

    def discard_answer(self, name: str) -> None:
        """Remove an answer that was read."""
        with suppress(OSError):
            (self.answers / name).unlink()


def read_small(path: Path) -> bytes:
    """A regular file of at most 64 kB.

    Raises:
        ValueError: It is something else, or larger.
        OSError: It cannot be read.
    """
    with open_regular(path) as file:
        content = file.read(LARGEST_BYTES + 1)
    if len(content) > LARGEST_BYTES:
        raise ValueError(f"it is larger than {LARGEST_BYTES} bytes")
    return content


def _mapping(path: Path) -> dict[str, Any]:
    """The mapping that a file holds; empty if there is none."""
    with suppress(*DAMAGE):
        found = json.loads(read_small(path))
        if isinstance(found, dict):
            return found
    return {}
