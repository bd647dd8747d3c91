"""The ways of runs, drawn from their folders alone: what counts, what was given up, what branched off, who did it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jepa import JEPA, Encoder, JEPATrainer, Predictor, create_trainer
from jepa.data import MemoryLoader
from jepa.figures import branches_figure, to_png
from jepa.files import read_lines
from jepa.trainer import Callback, events, fork_run
from jepa.trainer.control import Fork, Pause, Resume, Rewind, Set, Stop
from jepa.trainer.journal import Journal

Make = Callable[..., JEPATrainer]


class At(Callback):
    """Asks for commands after certain steps."""

    def __init__(self, commands: dict[int, list[Any]]) -> None:
        self.commands = commands

    def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
        for command in self.commands.pop(event.step, ()):
            trainer.submit(command, source="panel")


@pytest.fixture
def loader() -> MemoryLoader:
    states = torch.randn(48, 4, generator=torch.Generator().manual_seed(7))
    return MemoryLoader(states, states.roll(1, 0), batch_size=8)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(run: str = "monday", commands: dict[int, list[Any]] | None = None) -> JEPATrainer:
        model = JEPA(Encoder(8, 4, depth=1), Predictor(8, depth=1))
        silent: dict[str, Any] = {"live_plot": False, "control_panel": False, "progress": False, "device": "cpu"}
        callbacks = [At(commands or {})]
        return create_trainer(model, run=run, runs_dir=tmp_path, callbacks=callbacks, log_every=1, **silent)

    return build


def curve(figure: Any, name: str) -> dict[int, float]:
    (trace,) = [trace for trace in figure.data if trace.name == name]
    return dict(zip(trace.x, trace.y, strict=True))


def texts(figure: Any, kind: str) -> dict[int, str]:
    traces = [trace for trace in figure.data if trace.name == kind]
    return {x: text for trace in traces for x, text in zip(trace.x, trace.text, strict=True)}


def test_a_plain_run_is_one_line(make: Make, loader: MemoryLoader, tmp_path: Path) -> None:
    history = make().train(loader, num_epochs=2)
    figure = branches_figure(tmp_path / "monday", title="a run")
    (trace,) = figure.data
    assert (trace.name, list(trace.x)) == ("monday", list(range(1, 13)))
    assert list(trace.y) == history["loss"]
    assert (figure.layout.yaxis.title.text, figure.layout.title.text) == ("loss", "a run")


def test_what_a_rewind_gave_up_is_pale_and_begins_on_the_line(make: Make, loader: MemoryLoader, tmp_path: Path) -> None:
    asked = {8: [Set("learning_rate", 0.3), Pause(), Resume()], 15: [Rewind("step-00000006.pt")]}
    history = make(commands=asked).train(loader, num_epochs=3)
    figure = branches_figure(tmp_path / "monday")
    counted, lost = curve(figure, "monday"), curve(figure, "monday, given up")
    assert list(counted.values()) == history["loss"]
    assert list(lost) == list(range(6, 16)), "from where it went back to"
    assert lost[6] == counted[6]
    assert lost[12] != counted[12]
    solid, pale = figure.data[:2]
    assert solid.line.color == pale.line.color
    assert (pale.opacity < solid.opacity, pale.line.width < solid.line.width) == (True, True)
    (command,) = texts(figure, "command").values()
    assert command.startswith("monday, step 8<br>learning_rate: 0.00")
    assert "-&gt; 0.3 (asked for by panel)<br>Pause (asked for by panel)<br>Resume" in command
    ended = texts(figure, "ended, went back")
    assert ended == {15: "monday, step 15<br>Rewind step-00000006.pt (asked for by panel): back to step 6"}


def test_a_killed_and_a_stopped_run_say_so(make: Make, loader: MemoryLoader, tmp_path: Path) -> None:
    make(commands={10: [Stop()]}).train(loader, num_epochs=3)
    journal = tmp_path / "monday" / "journal.jsonl"
    lines = [line for line in read_lines(journal) if line["step"] < 10]  # a kill says nothing
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "monday" / "checkpoints" / "step-00000010.pt").unlink()
    with pytest.warns(UserWarning, match="planned for 18 steps, and now for 12"):
        make().train(loader, num_epochs=2)
    history = make().train(loader, num_epochs=3)
    figure = branches_figure(tmp_path / "monday")
    assert list(curve(figure, "monday").values()) == history["loss"]
    assert list(curve(figure, "monday, given up")) == [6, 7, 8, 9, 10]
    assert texts(figure, "ended, went back") == {
        10: "monday, step 10<br>killed, then on from step 6",
        12: "monday, step 12<br>finished, then on from step 12",
    }


def test_a_fork_has_a_colour_of_its_own_and_begins_on_its_parents_line(
    make: Make, loader: MemoryLoader, tmp_path: Path
) -> None:
    asked = {14: [Fork("tuesday"), Set("learning_rate", 0.3)], 16: [Fork("wednesday", "step-00000014.pt")]}
    make(commands=asked).train(loader, num_epochs=4)
    make("monday").train(loader, num_epochs=4)
    for passed in ("monday", "tuesday", "wednesday"):
        figure = branches_figure(tmp_path / passed)
        lines = [trace for trace in figure.data if trace.mode == "lines"]
        assert [trace.name for trace in lines] == ["monday", "tuesday", "wednesday"]
        assert len({trace.line.color for trace in lines}) == 3
    parent, fork, grandchild = (curve(figure, name) for name in ("monday", "tuesday", "wednesday"))
    assert min(fork) == min(grandchild) == 14
    assert fork[14] == parent[14] == grandchild[14]
    assert fork[16] != parent[16] == grandchild[16], "it forked where nothing had been set yet"
    picture = np.asarray(Image.open(io.BytesIO(to_png(figure))).convert("RGB")).astype(int)
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)):
        assert (np.abs(picture - colour).max(axis=2) < 40).sum() > 100, "not in the picture"
    assert texts(figure, "branched off")[14].startswith("wednesday, step 14<br>off &#x27;tuesday&#x27;")


def test_a_fork_begins_where_it_branched_off_also_on_a_way_that_was_given_up_later(
    make: Make, loader: MemoryLoader, tmp_path: Path
) -> None:
    trainer = make(commands={7: [Set("learning_rate", 0.3)]})
    trainer.train(loader, num_epochs=3)
    fork_run(tmp_path / "monday", "tuesday", 12)
    make("tuesday").train(loader, num_epochs=4)
    trainer.rewind(6)
    trainer.train(loader, max_steps=20)
    figure = branches_figure(tmp_path / "monday")
    lost = curve(figure, "monday, given up")
    assert curve(figure, "tuesday")[12] == lost[12] != curve(figure, "monday")[12]


def test_what_counts_is_what_the_journal_says(make: Make, loader: MemoryLoader, tmp_path: Path) -> None:
    asked = {9: [Rewind("step-00000006.pt")], 15: [Rewind("step-00000012.pt")], 17: [Rewind("initial.pt")]}
    trainer = make(commands=asked)
    trainer.train(loader, num_epochs=3)
    trainer.rewind(12)
    trainer.train(loader, num_epochs=4)
    path = tmp_path / "monday"
    spans = Journal.read(path / "journal.jsonl").led_to()
    starts = [(line["segment"], line["step"]) for line in spans if "continues" in line]
    ends = [step for _, step in starts[1:]] + [24]
    wanted = {
        record["step"]: record["loss"]
        for (number, _), end in zip(starts, ends, strict=True)
        for record in read_lines(path / "metrics" / "train.jsonl")
        if record["segment"] == number and record["step"] <= end and "loss" in record
    }
    assert curve(branches_figure(path), "monday") == wanted
    assert list(wanted) == list(range(1, 25))


def test_long_runs_are_thinned_and_keep_their_peaks(tmp_path: Path) -> None:
    write(tmp_path / "a", [START], [{"segment": 0, "step": s, "loss": 9.0 * (s == 777)} for s in range(20_000)])
    (trace,) = branches_figure(tmp_path / "a", points=100).data
    assert len(trace.x) <= 101
    assert dict(zip(trace.x, trace.y, strict=True))[777] == 9


START = {"tick": 0, "segment": 0, "step": 0, "event": "RunStarted", "continues": None, "run": "x"}
RECORDS = [{"segment": 0, "step": step, "loss": 1.0, "epoch": 0} for step in range(1, 5)]


def write(path: Path, journal: list[Any], metrics: list[Any]) -> None:
    (path / "metrics").mkdir(parents=True)
    (path / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in journal))
    (path / "metrics" / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))


@pytest.mark.parametrize("name", ["../away", "/etc", ".hidden", "..", "", "linked", "gone", 3, None, "itself"])
def test_a_parent_is_a_plain_folder_beside_a_fork_or_nothing(name: Any, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for place in (tmp_path / "away", runs / ".hidden", tmp_path / "elsewhere"):
        write(place, [START], RECORDS)
    (runs / "linked").symlink_to(tmp_path / "elsewhere")
    branched = {**START, "event": "Branched", "parent": name, "step": 2, "origin": {"run": "x", "tick": 1}}
    write(runs / "itself", [branched], RECORDS)
    figure = branches_figure(runs / "itself")
    assert [trace.name for trace in figure.data if trace.mode == "lines"] == ["itself"]


def test_a_torn_journal_and_odd_records_do_not_hide_the_rest(tmp_path: Path) -> None:
    odd = [{"segment": 7, "step": 1, "loss": 2.0}, {"segment": "x", "step": 1, "loss": 2.0}, {"step": 9, "loss": None}]
    write(tmp_path / "a", [{"no": "tick"}, START], [*RECORDS, *odd])
    with (tmp_path / "a" / "journal.jsonl").open("a") as file:
        file.write('{"tick": 1, "ev')
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "journal.jsonl").write_bytes(b"\xff\xfe")
    (tmp_path / "file").touch()
    (trace,) = branches_figure(tmp_path / "a").data
    assert list(trace.x) == [1, 2, 3, 4]


def test_a_run_without_a_record_is_an_empty_figure(tmp_path: Path) -> None:
    write(tmp_path / "a", [START], [])
    assert len(branches_figure(tmp_path / "a").data) == 0


def test_what_cannot_be_drawn_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a", [START], RECORDS)
    with pytest.raises(ValueError, match="no run here has recorded 'los'; there are loss"):
        branches_figure(tmp_path / "a", metric="los")
    with pytest.raises(FileNotFoundError, match=r"none is not the folder of a run: it has no journal\.jsonl"):
        branches_figure(tmp_path / "none")
    with pytest.raises(ValueError, match="no run was passed"):
        branches_figure()
