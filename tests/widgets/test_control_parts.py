"""The parts of the panel, each alone: what it asks for, what it shows, and its own errors."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jepa_widgets import Answers, CheckpointList, HyperParameters, RunButtons, StatusLine

import jepa
from jepa.data.memory import MemoryLoader
from jepa.files import FileLock
from jepa.models import JEPA, Encoder, MaskedPredictor, Predictor, VideoTokenizer
from jepa.objectives import VJEPA, StatePair
from jepa.objectives.base import HyperParameter
from jepa.trainer import JEPATrainer, RemoteRun, RunHandle, control, create_trainer, events
from jepa.trainer.steering import SteeredRun

MakeTrainer = Callable[..., JEPATrainer]
WaitUntil = Callable[[Callable[[], Any]], None]


@pytest.fixture
def trainer(make_trainer: MakeTrainer, loader: MemoryLoader) -> JEPATrainer:
    """A trainer whose run is paused and has a checkpoint of its first step."""
    trainer = make_trainer(val_loader=loader)
    run = trainer.start(loader, max_steps=10**6, wait=False)
    run.pause().result(10)
    run.checkpoint().result(10)
    return trainer


@pytest.fixture
def run(trainer: JEPATrainer) -> RunHandle:
    return RunHandle(trainer)


def flushed(part: Any, wait_until: WaitUntil) -> Any:
    """The part when everything that it asked for has its answer."""

    def answered() -> bool:
        part.flush()
        return not part.waiting

    wait_until(answered)
    return part


def test_the_status_line_shows_state_and_step(trainer: JEPATrainer) -> None:
    assert ">paused</b>" in StatusLine(trainer).value
    assert f'step-count">{trainer.step}<' in StatusLine(trainer).value


def test_answers_show_what_was_done_and_a_traceback() -> None:
    answers = Answers()
    answers(events.CommandApplied(7, 0, {"type": "Pause"}, "panel"))
    answers(events.CheckpointSaved(6, 0, Path("step-00000006.pt"), 0.1))
    answers.flush()
    assert "last checkpoint: step 6" in answers.line.value
    answers(events.CommandApplied(3, 0, {"type": "Rewind", "checkpoint": "initial.pt"}, "panel", error="not there"))
    answers.flush()
    assert "last checkpoint: step 6" in answers.line.value
    back = {"path": "runs/a/checkpoints/step-00000003.pt"}
    answers(events.CommandApplied(3, 0, {"type": "Rewind", "checkpoint": 3}, "panel", back))
    answers.flush()
    assert "last checkpoint" not in answers.line.value
    assert "back at step-00000003.pt, what was set since then is undone" in answers.line.value
    answers(events.CommandApplied(3, 0, {"type": "Fork", "name": "b"}, "panel", {"path": "runs/b"}))
    answers.flush()
    assert "Fork took effect: goes on in b, the run it came from stays" in answers.line.value
    answers(events.CommandApplied(7, 0, {"type": "Pause"}, "panel"))
    answers(events.RunFailed(7, 0, ValueError("<x>"), "Traceback\nValueError: <x>"))
    answers.flush()
    assert "Pause took effect after step 7" in answers.line.value
    assert "<summary>ValueError: &lt;x&gt;</summary><pre>Traceback\n" in answers.error.value


def test_step_does_as_many_steps_as_its_field_says(trainer: JEPATrainer, wait_until: WaitUntil) -> None:
    buttons, step = RunButtons(trainer), trainer.step
    buttons.press("step", n="5")
    wait_until(lambda: trainer.step == step + 5 and trainer.state == "paused")


@pytest.mark.parametrize("text", ["0", "-1", "2.5", "many", ""])
def test_a_number_of_steps_that_is_none_is_an_error_of_the_buttons(trainer: JEPATrainer, text: str) -> None:
    buttons = RunButtons(trainer)
    buttons.press("step", n=text)
    assert buttons.error == f"the number of steps must be a whole number from 1 on, got {text!r}"
    buttons.press("pause")
    assert buttons.error == ""


def test_evaluate_is_there_with_validation_data_only(
    trainer: JEPATrainer, make_trainer: MakeTrainer, wait_until: WaitUntil
) -> None:
    buttons = RunButtons(trainer)
    assert "evaluate" in buttons.enabled
    buttons.press("evaluate")
    flushed(buttons, wait_until)
    assert "val_loss" in trainer.history
    with pytest.warns(UserWarning, match="another run of this process"):
        other = make_trainer()
    assert "there is no validation data" in RunButtons(other).unavailable["evaluate"]
    assert "evaluate" not in RunButtons(other).enabled


def test_every_hyper_parameter_has_a_row_with_range_and_unit(trainer: JEPATrainer) -> None:
    table, known = HyperParameters(trainer), trainer.hyper_parameters()
    assert [row["name"] for row in table.rows] == list(known)
    assert {"learning_rate", "weight_decay", "ema_momentum"} <= set(known)
    assert table.rows[0] == {
        "name": "learning_rate", "label": "learning rate", "range": "0 to 1000", "unit": known["learning_rate"][0].unit,
        "modes": ["scale", "hold", "schedule"], "folded": False,
    }  # fmt: skip
    assert table.values == {name: f"{value:.4g}" for name, (_, value) in known.items()}
    assert {row["name"]: row["modes"] for row in table.rows}["log_every"] == ["hold"]
    assert table.courses == trainer.courses()


@pytest.mark.parametrize("mode", ["scale", "hold"])
def test_an_edit_is_made_the_way_that_was_chosen(trainer: JEPATrainer, wait_until: WaitUntil, mode: str) -> None:
    table, seen = HyperParameters(trainer), []
    trainer.subscribe(seen.append)
    table.apply("ema_momentum", "0.9", mode)
    flushed(table, wait_until)
    (edit,) = [event for event in seen if isinstance(event, events.CommandApplied)]
    assert (edit.command["name"], edit.command["mode"], edit.source) == ("ema_momentum", mode, "panel")
    assert table.values["ema_momentum"] == "0.9"


def test_a_refused_edit_is_an_error_of_the_table(trainer: JEPATrainer, wait_until: WaitUntil) -> None:
    table = HyperParameters(trainer)
    table.apply("ema_momentum", "2")
    assert "ema_momentum must lie in [0, 1]" in flushed(table, wait_until).error


def test_checkpoints_are_listed_and_the_run_goes_back_to_one(
    trainer: JEPATrainer, run: RunHandle, wait_until: WaitUntil
) -> None:
    kept = trainer.step
    parts = CheckpointList(trainer)
    assert parts.files[-1] == "initial.pt"
    assert trainer.last_checkpoint.name in parts.files
    run.step(4).result(10)
    wait_until(lambda: trainer.step == kept + 4 and trainer.state == "paused")
    parts.rewind(trainer.run.checkpoints.file(kept).name)
    flushed(parts, wait_until)
    assert parts.error == ""
    assert trainer.step == kept


def test_a_run_branches_off_under_the_name_in_the_field(trainer: JEPATrainer, wait_until: WaitUntil) -> None:
    parts, folder = CheckpointList(trainer), trainer.run.path
    parts.fork("initial.pt", " ")
    assert parts.error == "a fork needs a name: type one into the field above, then press Fork"
    parts.fork("initial.pt", "branch")
    assert flushed(parts, wait_until).error == ""
    assert trainer.run.path == folder.parent / "branch"
    assert trainer.step == 0
    parts.fork("initial.pt", "branch")
    assert "there is already a run 'branch'" in flushed(parts, wait_until).error


def test_what_decides_the_views_is_folded_whatever_it_is_called() -> None:
    tokenizer = VideoTokenizer(4, 8, 2, channels=1)
    predictor = MaskedPredictor(8, tokenizer.grid, depth=1, num_mask_tokens=2)
    video = VJEPA(JEPA(Encoder(8, depth=1, tokenizer=tokenizer), predictor))
    pair = StatePair(JEPA(Encoder(8, 4, depth=1), Predictor(8, depth=1)))
    pair.hyper_parameters = {**pair.hyper_parameters, "margin_max": HyperParameter(1.0, 0.0, 2.0)}
    folded = {
        row["name"]: row["folded"]
        for objective in (video, pair)
        for row in HyperParameters(create_trainer(objective, run=False)).rows
    }
    assert {name for name, away in folded.items() if away} == set(video.view_parameters)
    assert "spatial_scale_0" in video.view_parameters
    assert folded["margin_max"] is False


def test_the_table_stays_while_a_run_elsewhere_cannot_be_read(trainer: JEPATrainer) -> None:
    table, before = HyperParameters(run := jepa.attach(trainer.run.path)), RunHandle(trainer).numbers()
    trainer.run.status_path.write_text("{torn")
    table.flush()
    assert run.numbers() == {}
    assert [row["name"] for row in table.rows] == list(table.values) == list(table.courses) == list(before)


def test_checkpoints_are_listed_when_their_folder_has_changed(
    trainer: JEPATrainer, run: RunHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[SteeredRun] = []
    monkeypatch.setattr(RunHandle, "checkpoint_files", lambda run: (listed.append(run), list_files(run))[1])
    list_files, folder = SteeredRun.checkpoint_files, trainer.run.checkpoints.path
    os.utime(folder, (0, 0))
    parts = CheckpointList(trainer)
    for _ in range(3):
        parts.flush()
    assert len(listed) == 1
    os.utime(folder)  # what changes right after it may bear the same time
    for _ in range(3):
        parts.flush()
    assert len(listed) == 4
    os.utime(folder, (0, 0))
    parts.flush()
    run.step(1).result(10)
    run.checkpoint().result(10)
    parts.flush()
    assert parts.files == run.checkpoint_files()
    assert parts.files[0] == trainer.last_checkpoint.name


def test_a_look_that_nobody_asked_for_comes_too_late_in_silence(make_trainer: MakeTrainer) -> None:
    buttons = RunButtons(make_trainer())
    buttons.ask(control.Glance())
    buttons.flush()
    assert (buttons.waiting, buttons.error) == (False, "")
    buttons.ask(control.Inspect())
    buttons.flush()
    assert "came too late" in buttons.error


@pytest.fixture
def far(tmp_path: Path) -> Iterator[tuple[RemoteRun, FileLock]]:
    """A run elsewhere that listens and never answers, and the lock whose end is that of its process."""
    folder = tmp_path / "far"
    (folder / "control" / "answers").mkdir(parents=True)
    (folder / "control" / "session.json").write_text(json.dumps({"id": "one", "moved_to": None}))
    (folder / "status.json").write_text(json.dumps({"state": "running", "step": 3, "pid": 4711, "host": "elsewhere"}))
    lock = FileLock(folder / ".lock")
    assert lock.acquire()
    yield jepa.attach(folder), lock
    lock.release()


def test_what_was_asked_of_a_process_that_is_gone_is_taken_back(
    far: tuple[RemoteRun, FileLock], monkeypatch: pytest.MonkeyPatch, wait_until: WaitUntil
) -> None:
    monkeypatch.setattr("jepa.trainer.remote.ALIVE_SECONDS", 0.0)
    monkeypatch.setattr("jepa.trainer.remote.SILENT_SECONDS", 0.1)
    run, lock = far
    buttons = RunButtons(run)
    buttons.press("pause")
    assert buttons.waiting
    lock.release()
    assert "Pause() came too late: process 4711 on elsewhere is gone" in flushed(buttons, wait_until).error
    assert [path.name for path in run.path.glob("control/*.json")] == ["session.json"]


@pytest.mark.parametrize("make", [RunButtons, HyperParameters, CheckpointList])
@pytest.mark.parametrize("message", [{"event": "other"}, {}, "pause", None])
def test_other_messages_ask_for_nothing(trainer: JEPATrainer, make: Any, message: object) -> None:
    part = make(trainer)
    part._handle_custom_msg(message, [])
    assert not part.waiting
