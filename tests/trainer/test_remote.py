"""A run is steered from another process through its folder, and no file there does anything else to it."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import jepa
from jepa.data import MemoryLoader
from jepa.files import atomic_path, read_lines
from jepa.trainer import JEPATrainer, RemoteRun, events
from jepa.trainer.mailbox import ANSWER_SECONDS, LARGEST_BYTES, Mailbox, parse_command

MakeTrainer = Callable[..., JEPATrainer]
WaitUntil = Callable[..., None]
Letter = Callable[..., dict[str, Any] | None]
LONG = 10**6
SECONDS = 60

SCRIPT = """
import sys
import torch
from jepa import JEPA, Encoder, Predictor, create_trainer
from jepa.data import MemoryLoader

torch.set_num_threads(1)
states = torch.randn(48, 4, generator=torch.Generator().manual_seed(7))
loader = MemoryLoader(states, states.roll(1, dims=1), batch_size=8)
model = JEPA(Encoder(8, 4, depth=1), Predictor(8, depth=1))
silent = {"live_plot": False, "control_panel": False, "progress": False, "device": "cpu"}
trainer = create_trainer(model, run="far", val_loader=loader, log_every=1, **silent)
trainer.train(loader, max_steps=int(sys.argv[1]))
"""


@pytest.fixture
def far(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A script that trains the run `runs/far` in a process of its own."""
    script = tmp_path / "far.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(jepa.__file__).parents[1])}
    command = [sys.executable, str(script), str(LONG)]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, stderr=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def attached(far: subprocess.Popen[str], tmp_path: Path, wait_until: WaitUntil) -> RemoteRun:
    """A handle to it, once it trains."""
    folder = tmp_path / "runs" / "far"

    def trains() -> bool:
        assert far.poll() is None, far.communicate()[1]
        return (folder / "journal.jsonl").exists() and jepa.attach(folder).status().step > 3

    wait_until(trains, SECONDS)
    return jepa.attach("far", tmp_path / "runs")


def test_a_run_in_another_process_is_paused_edited_stepped_resumed_and_stopped(
    attached: RemoteRun, far: subprocess.Popen[str], wait_until: WaitUntil
) -> None:
    run = attached
    told: list[events.Event] = []
    run.subscribe(told.append)
    pausing = run.pause()
    assert pausing.result(SECONDS) == {}
    held = run.status().step
    assert (run.state, pausing.step) == ("paused", held)
    edited = run.set("learning_rate", 0.125, "hold").result(SECONDS)
    assert edited["new"] == 0.125
    assert run.status().learning_rate == 0.125
    evaluation = run.evaluate()
    evaluation.result(SECONDS)
    assert math.isfinite(evaluation.value["val_loss"])
    run.step(3).result(SECONDS)
    wait_until(lambda: run.state == "paused" and run.status().step == held + 3)
    kept = run.checkpoint().result(SECONDS)
    assert Path(kept["path"]) == run.path / "checkpoints" / f"step-{held + 3:08}.pt"
    run.rewind(held + 3).result(SECONDS)
    assert (run.state, run.status().step) == ("paused", held + 3)
    with pytest.raises(ValueError, match="learning_rate must lie in"):
        run.set("learning_rate", -1.0).result(SECONDS)
    run.resume().result(SECONDS)
    assert asyncio.run(run.until(step=held + 5, timeout=SECONDS)) >= held + 5
    run.stop().result(SECONDS)
    history = run.wait(SECONDS)
    assert (far.wait(SECONDS), run.state) == (0, "stopped")
    assert history.steps("learning_rate")[held : held + 3] == [held + 1, held + 2, held + 3]
    assert history["learning_rate"][held : held + 3] == [0.125] * 3
    applied = [line for line in read_lines(run.path / "journal.jsonl") if line["event"] == "CommandApplied"]
    assert [line["source"] for line in applied] == ["remote"] * 8
    wait_until(lambda: any(isinstance(event, events.RunEnded) for event in told))
    run.unsubscribe(told.append)
    commands = [event for event in told if isinstance(event, events.CommandApplied)]
    assert [event.command["type"] for event in commands] == [
        "Pause", "Set", "Evaluate", "Step", "SaveCheckpoint", "Rewind", "Set", "Resume", "Stop",
    ]  # fmt: skip
    assert [event.error is None for event in commands] == [True] * 6 + [False] + [True] * 2
    logged = {event.step: event.metrics for event in told if isinstance(event, events.MetricsLogged)}
    assert logged[held + 1]["learning_rate"] == 0.125
    measured = [event.metrics for event in told if isinstance(event, events.Evaluated) and event.step == held]
    assert evaluation.value in measured
    assert [event.state for event in told if isinstance(event, events.StateChanged)][-1] == "stopped"
    assert not list((run.path / "control").rglob("*.json")), "all was answered, read and put away"
    with pytest.raises(RuntimeError, match=r"Pause\(\) came too late: the run is stopped"):
        run.pause().result(SECONDS)


def test_a_ticket_says_that_the_process_is_gone_instead_of_waiting_for_ever(
    attached: RemoteRun, far: subprocess.Popen[str], wait_until: WaitUntil
) -> None:
    run = attached
    run.pause().result(SECONDS)
    far.send_signal(signal.SIGSTOP)  # it hears nothing, and answers nothing, until it is killed
    waiting = run.set("learning_rate", 0.125)
    with pytest.raises(TimeoutError, match=r"was not answered within 0\.1 s"):
        waiting.result(0.1)
    far.kill()
    far.wait(SECONDS)
    with pytest.raises(RuntimeError, match=f"came too late: process {far.pid} on .* is gone"):
        waiting.result(SECONDS)
    assert run.ended
    assert run.state == "interrupted"
    assert run.wait(SECONDS).last_step > 0
    with pytest.raises(RuntimeError, match="is gone"):
        run.resume().result(SECONDS)


# ---------------------------------------------------------------------- what may lie in the folder


@pytest.fixture
def live(
    make_trainer: MakeTrainer, make_gate: Callable[[int], Any], loader: MemoryLoader, wait_until: WaitUntil
) -> JEPATrainer:
    """A trainer that listens, paused at step 3."""
    gate = make_gate(1)
    trainer = make_trainer(run="near", log_every=1, callbacks=[gate])
    run = trainer.start(loader, max_steps=LONG, wait=False)
    assert gate.reached.wait(SECONDS)
    run.step(2)
    gate.opened.set()
    wait_until(lambda: trainer.state == "paused")
    return trainer


@pytest.fixture
def mailbox(live: JEPATrainer) -> Mailbox:
    """Its mailbox."""
    assert live.run is not None
    return Mailbox(live.run.path)


@pytest.fixture
def answer_to(mailbox: Mailbox, wait_until: WaitUntil) -> Callable[..., dict[str, Any]]:
    """`answer_to(name)`: what the run answers to what lies there under this name."""

    def answer(name: str) -> dict[str, Any]:
        wait_until(lambda: mailbox.read_answer(name) is not None)
        wait_until(lambda: not os.path.lexists(mailbox.path / name))
        return mailbox.read_answer(name) or {}

    return answer


def letter(mailbox: Mailbox, command: Any) -> str:
    return json.dumps({"session": mailbox.session()["id"], "command": command})


def put(mailbox: Mailbox, name: str, content: str | bytes) -> None:
    """A whole file at once, as a run may look at any moment."""
    with atomic_path(mailbox.path / name, durable=False) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.mark.parametrize(
    ("command", "refusal"),
    [
        ({"type": "Settle", "number": 1}, "type must be one of Pause, Resume, Step"),
        ({"type": "EditedByHand", "checkpoint": "x.pt"}, "type must be one of"),
        ({"type": ["Pause"]}, "type must be one of"),
        ("Pause", "a command is a mapping"),
        ({"type": "Pause", "after": 3}, "Pause has no fields, got 'after'"),
        ({"type": "Step", "n": True}, "n of Step must be int, got bool"),
        ({"type": "Step", "n": 0}, "n must be at least 1"),
        ({"type": "Set", "name": "learning_rate"}, "Set needs name, value, mode, got name"),
        ({"type": "Set", "name": "learning_rate", "value": "1"}, "value of Set must be int or float, got str"),
        ({"type": "Set", "name": "learning_rate", "value": math.nan}, "must be a finite number"),
        ({"type": "Set", "name": "learning_rate", "value": 10**400}, "too large"),
        ({"type": "Set", "name": "learning_rate", "value": 1, "mode": "soft"}, "mode must be 'scale'"),
        ({"type": "Rewind", "checkpoint": "../../secret.pt"}, "this run has no checkpoint"),
        ({"type": "Fork", "name": "../outside"}, "a fork is named by a plain name"),
        ({"type": "SaveCheckpoint", "path": "/tmp/outside.pt"}, "inside of the run's folder"),
        ({"type": "SaveCheckpoint", "path": "../outside.pt"}, "inside of the run's folder"),
        ({"type": "SaveCheckpoint", "path": "out/outside.pt"}, "inside of the run's folder"),
        ({"type": "SaveCheckpoint", "path": "checkpoints/initial.pt"}, "not into checkpoints/"),
        ({"type": "SaveCheckpoint", "path": "journal.jsonl"}, "a new file"),
        ({"type": "SaveCheckpoint", "path": "a\0b.pt"}, "null"),
    ],
)
def test_a_command_that_the_run_does_not_take_from_outside_is_refused(
    live: JEPATrainer,
    mailbox: Mailbox,
    answer_to: Callable[..., dict[str, Any]],
    tmp_path: Path,
    command: Any,
    refusal: str,
) -> None:
    (mailbox.run / "out").symlink_to(tmp_path)
    put(mailbox, "one.json", letter(mailbox, command))
    answer = answer_to("one.json")
    assert refusal in answer["text"]
    assert (live.state, live.step) == ("paused", 3)
    assert not list(tmp_path.rglob("outside*"))


@pytest.mark.parametrize(
    ("content", "refusal"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe{", "codec can't decode"),
        (b"[" * 60_000, "nested too deeply"),
        (b'{"command": {"type": "Stop"}}', "session and command, and nothing else"),
        (b'{"session": 1, "command": {"type": "Stop"}}', "session must be str"),
        (b" " * (LARGEST_BYTES + 1), "larger than 65536 bytes"),
    ],
)
def test_a_file_that_holds_no_command_is_refused(
    live: JEPATrainer, mailbox: Mailbox, answer_to: Callable[..., dict[str, Any]], content: bytes, refusal: str
) -> None:
    put(mailbox, "one.json", content)
    assert refusal in answer_to("one.json")["text"]
    assert live.state == "paused"


def test_what_is_no_regular_file_is_not_opened(
    live: JEPATrainer, mailbox: Mailbox, answer_to: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    stop = tmp_path / "stop.json"
    stop.write_text(letter(mailbox, {"type": "Stop"}))
    (mailbox.path / "link.json").symlink_to(stop)
    (mailbox.path / "device.json").symlink_to("/dev/zero")
    os.mkfifo(mailbox.path / "pipe.json")
    for name in ("link.json", "device.json", "pipe.json"):
        assert answer_to(name)["text"] == "it is no regular file"
    assert live.state == "paused"
    assert stop.exists()


def test_foreign_names_are_passed_over_and_said_once(
    live: JEPATrainer,
    mailbox: Mailbox,
    answer_to: Callable[..., dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in ("stop me.json", "stop.txt", f"{'s' * 65}.json", ".stop.json", "stop.json.json"):
        put(mailbox, name, letter(mailbox, {"type": "Stop"}))
    (mailbox.path / "folder.json").mkdir()
    for name in ("one.json", "two.json"):  # they have been looked at by then, twice
        put(mailbox, name, letter(mailbox, {"type": "Resume"} if name == "two.json" else "none"))
        answer_to(name)
    assert live.state == "running"
    said = [record.getMessage() for record in caplog.records if "passed over" in record.getMessage()]
    assert len(said) == 5
    assert "'stop me.json' among the commands to run near is passed over" in "".join(said)


def test_commands_of_before_the_start_and_of_an_earlier_part_are_refused(
    make_trainer: MakeTrainer, loader: MemoryLoader, wait_until: WaitUntil, tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / "again"
    (folder / "control").mkdir(parents=True)
    mailbox = Mailbox(folder)
    (folder / "control" / "early.json").write_text('{"session": "", "command": {"type": "Stop"}}')
    trainer = make_trainer(run="again", log_every=1)
    run = trainer.start(loader, max_steps=LONG, wait=False)
    wait_until(lambda: mailbox.read_answer("early.json") is not None)
    session = mailbox.session()["id"]
    run.stop().result(SECONDS)
    run.wait(SECONDS)
    assert mailbox.session() == {}
    put(mailbox, "late.json", json.dumps({"session": session, "command": {"type": "Stop"}}))
    run = trainer.restart()
    wait_until(lambda: mailbox.read_answer("late.json") is not None)
    for name in ("early.json", "late.json"):
        answer = mailbox.read_answer(name) or {}
        assert answer["error"] == "RuntimeError"
        assert "Stop() came too late: the part of the run that it was meant for has ended; the run is" in answer["text"]
    assert run.state == "running"


def test_answers_that_nobody_fetched_are_swept(make_trainer: MakeTrainer, loader: MemoryLoader, tmp_path: Path) -> None:
    mailbox = Mailbox(tmp_path / "runs" / "swept")
    mailbox.answers.mkdir(parents=True)
    for name, age in (("old.json", 2 * ANSWER_SECONDS), ("new.json", 0.0)):
        (mailbox.answers / name).write_text("{}")
        then = time.time() - age
        os.utime(mailbox.answers / name, (then, then))
    make_trainer(run="swept").train(loader, max_steps=1)
    assert [path.name for path in mailbox.answers.iterdir()] == ["new.json"]


def test_a_run_trains_on_where_nobody_can_be_heard(
    make_trainer: MakeTrainer, loader: MemoryLoader, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "runs" / "deaf"
    folder.mkdir(parents=True)
    (folder / "control").symlink_to(tmp_path)
    trainer = make_trainer(run="deaf")
    trainer.train(loader, max_steps=2)
    assert trainer.state == "finished"
    assert "run deaf cannot be steered from another process" in caplog.text
    assert not (tmp_path / "session.json").exists()


# ---------------------------------------------------------------------- following


def test_a_handle_follows_a_fork_and_one_made_later_does_not(
    live: JEPATrainer, tmp_path: Path, wait_until: WaitUntil
) -> None:
    run = jepa.attach(tmp_path / "runs" / "near")
    told: list[events.Event] = []
    run.subscribe(told.append)
    assert run.fork("child").result(SECONDS) == {"path": str(tmp_path / "runs" / "child")}
    run.step(2).result(SECONDS)
    wait_until(lambda: run.status().step == 5)
    assert (run.name, run.state) == ("child", "paused")
    wait_until(lambda: any(isinstance(event, events.MetricsLogged) and event.step == 5 for event in told))
    other = jepa.attach(tmp_path / "runs" / "near")
    assert (other.name, other.state) == ("near", "stopped")
    with pytest.raises(RuntimeError, match="the run went on in 'child'; ask it there"):
        other.pause().result(SECONDS)
    run.stop().result(SECONDS)
    assert run.wait(SECONDS).steps("loss") == [1, 2, 3, 4, 5]
    run.unsubscribe(told.append)
    (tmp_path / "runs" / "near" / "journal.jsonl").write_text('{"tick": 0, "event": "RunStarted", "run": "another"}\n')
    assert run.history.steps("loss") == [4, 5], "what bears the name of its parent now is another run"


def test_history_leaves_out_what_was_given_up(live: JEPATrainer, tmp_path: Path, wait_until: WaitUntil) -> None:
    run = jepa.attach(tmp_path / "runs" / "near")
    run.checkpoint().result(SECONDS)
    run.step(4).result(SECONDS)
    wait_until(lambda: run.status().step == 7)
    run.rewind(3).result(SECONDS)
    run.set("learning_rate", 0.5, "hold").result(SECONDS)
    run.step(2).result(SECONDS)
    wait_until(lambda: run.status().step == 5)
    history = run.history
    assert history.steps("loss") == [1, 2, 3, 4, 5]
    assert history["loss"] == live.history["loss"]
    assert history["learning_rate"][3:] == [0.5, 0.5]


def test_a_failed_run_says_so(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    states = torch.full((8, 4), math.nan)
    trainer = make_trainer(run="failed", log_every=1)
    with pytest.raises(RuntimeError, match="the loss is nan"):
        trainer.train(MemoryLoader(states, states, batch_size=8), max_steps=3)
    run = jepa.attach(tmp_path / "runs" / "failed")
    for ask in (run.pause, run.wait):
        with pytest.raises(RuntimeError, match="run 'failed' failed at step 1: NonFiniteLossError: the loss is nan"):
            ask()


def test_a_sink_that_fails_ends_its_own_follower_only(
    live: JEPATrainer, tmp_path: Path, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    run = jepa.attach(tmp_path / "runs" / "near")
    told: list[events.Event] = []

    def fails(event: events.Event) -> None:
        raise ZeroDivisionError

    run.subscribe(fails)
    run.subscribe(told.append)
    left: list[events.Event] = []
    run.subscribe(left.append)
    run.unsubscribe(left.append)
    run.step(1).result(SECONDS)
    wait_until(lambda: "failed (ZeroDivisionError()) and gets no more events" in caplog.text)
    wait_until(lambda: any(isinstance(event, events.MetricsLogged) for event in told))
    assert left == []
    for sink in (fails, told.append):
        run.unsubscribe(sink)
    wait_until(lambda: not any(thread.name == "jepa-follow-near" for thread in threading.enumerate()))


def test_a_follower_ends_with_the_run_and_goes_on_with_it(
    live: JEPATrainer, tmp_path: Path, wait_until: WaitUntil
) -> None:
    run = jepa.attach(tmp_path / "runs" / "near")
    told: list[events.Event] = []
    run.subscribe(told.append)
    run.stop().result(SECONDS)
    wait_until(lambda: not any(thread.name == "jepa-follow-near" for thread in threading.enumerate()))
    assert any(isinstance(event, events.RunEnded) for event in told)
    step = live.step
    live.restart().step(2).result(SECONDS)
    wait_until(lambda: live.state == "paused" and run.state == "paused")
    wait_until(lambda: any(isinstance(event, events.MetricsLogged) and event.step == live.step for event in told))
    assert live.step > step
    run.unsubscribe(told.append)
    assert not any(thread.name == "jepa-follow-near" for thread in threading.enumerate())


def test_a_thread_that_looks_slowly_does_not_undo_what_another_one_has_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, child = (Mailbox(tmp_path / name) for name in ("parent", "child"))
    for mailbox in (parent, child):
        mailbox.run.mkdir()
    parent.open("first part")
    run = RemoteRun(parent.run)
    session, seen = run._mailbox.session, threading.Event()
    other = threading.Thread(target=lambda: (run._follow(), seen.set()))

    def read_slowly() -> dict[str, Any]:
        found = session()
        if threading.current_thread() is not other:
            parent.open("second part")
            other.start()
            seen.wait(0.3)  # in vain: the other one waits for this one
        return found

    monkeypatch.setattr(run._mailbox, "session", read_slowly)
    run._follow()
    other.join(SECONDS)
    monkeypatch.undo()
    child.open("second part")
    parent.leave("second part", "child")
    assert run.name == "child"


def test_every_verb_comes_back_from_its_data() -> None:
    data = {"type": "Set", "name": "learning_rate", "value": 1, "mode": "hold"}
    assert parse_command(data).as_data() == {**data, "value": 1.0}
    path = {"type": "SaveCheckpoint", "path": "mine.pt"}
    assert parse_command(path).as_data() == path


def test_importing_jepa_takes_no_front_end_and_no_plotting() -> None:
    heavy = "{'plotly', 'matplotlib', 'pandas', 'IPython', 'papermill'}"
    code = f"import jepa, sys; jepa.attach; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
