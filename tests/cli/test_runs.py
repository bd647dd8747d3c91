"""Runs are seen and gone on with from their folders alone, however they ended."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from jepa.cli.__main__ import main
from jepa.cli.resume import last_start
from jepa.cli.runs import in_words, printable
from jepa.config import RunConfig, load_config, load_experiment
from jepa.files import FileLock, read_lines
from jepa.trainer import create_trainer
from jepa.trainer.checkpoint import read_checkpoint
from jepa.trainer.listing import list_runs
from tests.cli.tiny import STEPS, TINY

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a tiny configuration."""
    monkeypatch.chdir(tmp_path)
    Path("train.yaml").write_text(TINY)
    return tmp_path


def train(name: str, *overrides: str) -> int:
    return main(["train", "--config", "train.yaml", "--device", "cpu", "--name", name, *overrides])


def told(run: str, **changes: Any) -> dict[str, Any]:
    """What `status.json` says; with `changes`, as if the run had ended otherwise."""
    path = Path("runs", run, "status.json")
    status = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(status))
    return status


def steps(run: str) -> list[int]:
    return [line["step"] for line in read_lines(Path("runs", run, "metrics", "train.jsonl")) if "loss" in line]


def starts(run: str) -> list[dict[str, Any]]:
    return [line for line in read_lines(Path("runs", run, "journal.jsonl")) if line["event"] == "RunStarted"]


def assert_same_state(run: str, other: str, step: int) -> None:
    """Model, target and optimizer are equal bit for bit."""
    first, second = (read_checkpoint(Path("runs", name, "checkpoints", f"step-{step:08d}.pt")) for name in (run, other))
    for part in ("objective_state", "optimizer"):
        found, expected = flat(first[part]), flat(second[part])
        assert found.keys() == expected.keys()
        assert len(found) > 5
        assert [key for key in found if not torch.equal(found[key], expected[key])] == []


def flat(value: Any, name: str = "") -> dict[str, torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return {name: value}
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return {key: tensor for at, part in parts for key, tensor in flat(part, f"{name}.{at}").items()}


@pytest.fixture
def launch() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`launch(*arguments)` starts this Python; whatever of its family is left is ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        with Path("output.log").open("a") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            started.append(
                subprocess.Popen([sys.executable, *arguments], env=environment, stdout=log, stderr=log, text=True)
            )
        return started[-1]

    yield start
    for process in started:
        kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL to a process and all that it has started."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    process.kill()
    for one in family:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait(10)
    psutil.wait_procs(family, timeout=10)


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert process.poll() is None, Path("output.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ---------------------------------------------------------------------- what a run keeps


def test_a_run_keeps_its_whole_configuration_after_overrides() -> None:
    assert train("a", "trainer.learning_rate=0.002", "max_steps=3") == 0
    experiment = load_experiment("runs/a")
    wanted = load_config("train.yaml", ["trainer.learning_rate=0.002", "max_steps=3", "run=a"])
    assert experiment.config == wanted
    assert (experiment.world_size, experiment.device) == (1, "cpu")
    kept = Path("runs/a/experiment.yaml").read_text()
    assert all(f"{name}:" in kept for name in RunConfig.__dataclass_fields__)

    assert train("a", "trainer.learning_rate=0.002") == 0  # goes on, to another total
    assert Path("runs/a/experiment.yaml").read_text() == kept
    assert last_start(Path("runs/a").absolute(), experiment) == (1, STEPS), "it was last trained to another total"


def test_a_run_of_anothers_parameters_gets_no_configuration_of_ours() -> None:
    assert train("a", "max_steps=3") == 0
    Path("runs/a/experiment.yaml").unlink()
    assert train("a", "trainer.learning_rate=0.002") == 1
    assert not Path("runs/a/experiment.yaml").exists()


# ---------------------------------------------------------------------- runs


def test_runs_are_shown_as_a_table_that_ends_with_what_can_be_done(capsys: Captured) -> None:
    for name, state in [("first", "finished"), ("the-second", "running")]:
        assert train(name) == 0
        told(name, state=state, step=9, time=time.time() - 200)
    Path("runs/empty").mkdir()
    os.utime("runs/empty", (0, 0))
    capsys.readouterr()
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "state", "step", "age", "loss", "val", "loss", "effective", "rank"]
    assert [line.split()[:5] for line in lines[1:3]] == [
        ["the-second", "interrupted", "9/12", "3", "min"],
        ["first", "finished", "9/12", "3", "min"],
    ]
    assert lines[3].split()[:2] == ["empty", "unreadable"]
    assert len({line.index("/12") for line in lines[1:3]}) == 1, "the columns are not aligned"
    assert "empty: no run: it has neither status.json nor journal.jsonl" in lines
    assert lines[-1] == "resume 1 of them: python -m jepa.cli resume the-second"
    for folder in ("runs/", "runs/the-second"):
        assert main(["runs", folder]) == 0
        assert capsys.readouterr().out.splitlines()[-1].endswith("resume runs/the-second")


def test_runs_as_json_are_complete_and_valid(capsys: Captured) -> None:
    assert train("a") == 0
    with Path("runs/a/metrics/train.jsonl").open("a") as file:
        file.write('{"step":12,"loss":NaN}\n')
    capsys.readouterr()
    assert main(["runs", "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (run["name"], run["state"], run["step"], run["total_steps"]) == ("a", "finished", STEPS, STEPS)
    assert run["path"] == str(Path("runs/a").absolute())
    assert run["metrics"]["loss"] is None
    assert run["metrics"]["val_loss"] > 0


def test_where_there_are_no_runs_it_says_how_to_begin_one(capsys: Captured) -> None:
    assert main(["runs", "nowhere"]) == 0
    assert capsys.readouterr().out.startswith("no runs in nowhere (looked from ")
    assert main(["runs", "nowhere", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_old_runs_are_shown_when_asked_for(capsys: Captured) -> None:
    for number in range(25):
        Path("runs", f"run-{number}").mkdir(parents=True)
        Path("runs", f"run-{number}", "config.yaml").touch()
    assert main(["runs"]) == 0
    out = capsys.readouterr().out
    assert out.count("interrupted") == 20
    assert "5 older ones are not shown; see them with --all" in out
    assert main(["runs", "--all"]) == 0
    assert capsys.readouterr().out.count("interrupted") == 25


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (7200, "2 h"), (86_400 * 2, "2 days")],
)
def test_ages_are_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_names_and_errors_do_nothing_to_a_terminal() -> None:
    assert printable("a\x1b[2Jb\nc") == "a [2Jb c"
    assert len(printable("x" * 1000)) < 210


# ---------------------------------------------------------------------- resume


@pytest.mark.slow
def test_a_killed_run_is_seen_as_interrupted_and_resumed_as_if_nothing_had_happened(
    launch: Callable[..., subprocess.Popen[str]], capsys: Captured
) -> None:
    overrides = ["num_epochs=100", "trainer.checkpoint_every=10"]
    command = ["-m", "jepa.cli", "train", "--config", "train.yaml", "--device", "cpu", "--name", "killed", *overrides]
    job = launch(*command)
    wait_for(lambda: list(Path("runs/killed/checkpoints").glob("step-*.pt")), job)
    assert main(["resume", "killed"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: run 'killed' is running in process {job.pid} on "), error
    kill(job)

    (run,) = list_runs()
    assert (run.state, run.total_steps, run.resumable) == ("interrupted", 600, True)
    Path("train.yaml").unlink()
    assert main(["resume", "killed"]) == 0
    begun = [line["step"] for line in starts("killed")]
    assert begun[0] == 0 < begun[1] < 600
    assert list_runs()[0].state == "finished"

    Path("train.yaml").write_text(TINY)
    assert train("undisturbed", *overrides) == 0
    assert_same_state("killed", "undisturbed", 600)


@pytest.mark.distributed
def test_a_killed_run_of_two_processes_is_resumed_on_two(launch: Callable[..., subprocess.Popen[str]]) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "jepa.cli", "train", "--config", "train.yaml", "--device", "cpu", "num_epochs=100"]
    job = launch(*command, "--name", "killed")
    wait_for(lambda: list(Path("runs/killed/checkpoints").glob("step-*.pt")), job)
    kill(job)
    (run,) = list_runs()
    assert (run.state, run.total_steps) == ("interrupted", 300)
    assert load_experiment("runs/killed").world_size == 2

    again = launch("-m", "jepa.cli", "resume", "killed")
    assert again.wait(120) == 0, Path("output.log").read_text()
    assert "trained by 2 processes: " in Path("output.log").read_text()
    begun = starts("killed")
    assert [line["world_size"] for line in begun] == [2, 2]
    assert begun[1]["step"] > 0
    assert list_runs()[0].state == "finished"

    assert launch(*command, "--name", "undisturbed").wait(120) == 0, Path("output.log").read_text()
    assert_same_state("killed", "undisturbed", 300)


def test_a_stopped_run_goes_on_to_the_total_it_had_last(capsys: Captured) -> None:
    assert train("a", "max_steps=7") == 0
    (start,) = starts("a")
    line = {**start, "tick": 99, "step": 7, "continues": 99, "total_steps": STEPS}  # stopped before its next step
    with Path("runs/a/journal.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    told("a", state="stopped")
    shutil.move("runs/a", "elsewhere")  # the folder is all that counts
    capsys.readouterr()
    assert main(["resume", "elsewhere", "--device", "auto"]) == 0
    assert capsys.readouterr().out.startswith("training from step 7 to 12")
    assert not Path("runs/a").exists()


def test_a_finished_run_is_left_alone(capsys: Captured) -> None:
    assert train("a") == 0
    before = {path: path.read_bytes() for path in Path("runs/a").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(["resume", "a"]) == 0
    assert capsys.readouterr().out == "run 'a' is finished, at step 12 of 12; there is nothing to resume\n"
    assert {path: path.read_bytes() for path in Path("runs/a").rglob("*") if path.is_file()} == before


def test_a_live_run_is_refused_with_who_trains_it(capsys: Captured) -> None:
    assert train("a") == 0
    told("a", state="paused", pid=4568, host="node-3")
    lock = FileLock("runs/a/.lock")
    assert lock.acquire()
    assert main(["resume", "a"]) == 1
    lock.release()
    assert capsys.readouterr().err == (
        "error: run 'a' is paused in process 4568 on node-3 (step 12 of 12); stop that one first, it ends with a "
        "checkpoint\n"
    )


def test_a_notebooks_run_says_how_to_go_on_with_it(capsys: Captured) -> None:
    assert train("a") == 0
    Path("runs/a/experiment.yaml").unlink()
    assert main(["resume", "a"]) == 0, "it is finished"
    told("a", state="stopped")
    capsys.readouterr()
    assert main(["resume", "a"]) == 1
    error = capsys.readouterr().err
    assert "create_trainer(..., run='a')" in error
    assert "trainer.train(loader, num_epochs=...)" in error
    assert main(["runs"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] in error


def test_an_unknown_name_is_answered_with_the_nearest(capsys: Captured) -> None:
    assert train("digits-small") == 0
    for asked, answer in [("digit-small", "did you mean 'digits-small'?"), ("zzz", "there are: digits-small")]:
        capsys.readouterr()
        assert main(["resume", asked]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: no run {asked!r} in runs (looked from ")
        assert error.endswith(f"{answer}\n")


def test_a_damaged_status_does_not_keep_a_run_from_being_resumed() -> None:
    assert train("a") == 0
    Path("runs/a/status.json").write_text("")
    assert list_runs()[0].state == "unreadable"
    with pytest.warns(UserWarning, match="nothing to do: the run is at step 12 of 12"):
        assert main(["resume", "a"]) == 0
    assert list_runs()[0].state == "finished"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("world_size: 1", "world_sise: 1", "unknown key 'world_sise'; did you mean 'world_size'?"),
        ("world_size: 1", "world_size: many", "world_size must be int, got 'many'"),
        ("world_size: 1", "world_size: 0", "world_size must be at least 1, got 0"),
        ("type: Predictor", "type: os.system", "unknown architecture 'os.system'"),
        ("name: pendulum", "name: gymnasium:evil:Env-v0", "code that a module outside of the run's folder provides"),
        ("device: cpu", "device: cuda", "the run was begun on cuda, which is not here"),
        ("config:", "config: !!python/object/apply:os.system ['touch done']\nother:", "is not valid YAML"),
    ],
)
def test_a_stored_configuration_is_read_strictly_and_runs_no_code(
    capsys: Captured, old: str, new: str, message: str
) -> None:
    assert train("a") == 0
    told("a", state="stopped")
    path = Path("runs/a/experiment.yaml")
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    capsys.readouterr()
    if "cuda" in new and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert main(["resume", "a"]) == 1
    assert message in capsys.readouterr().err
    assert not Path("done").exists()


def test_what_is_stored_does_not_choose_where_is_written() -> None:
    assert train("a", "max_steps=7") == 0
    path = Path("runs/a/experiment.yaml")
    path.write_text(path.read_text().replace("run: a", "run: ../outside"))
    told("a", state="stopped")
    with pytest.warns(UserWarning, match="nothing to do"):
        assert main(["resume", "a"]) == 0
    assert not Path("outside").exists()
    assert sorted(path.name for path in Path("runs").iterdir()) == ["a"]


@pytest.mark.parametrize("name", ["journal.jsonl", "metrics", "checkpoints", "experiment.yaml"])
def test_a_folder_with_a_link_that_leads_out_is_refused(name: str, capsys: Captured) -> None:
    assert train("a") == 0
    told("a", state="stopped")
    shutil.move(Path("runs/a", name), "outside")
    Path("runs/a", name).symlink_to(Path("outside").absolute())
    capsys.readouterr()
    assert main(["resume", "a"]) == 1
    error = capsys.readouterr().err
    assert f"{name} is a symbolic link to " in error
    assert "outside of the run's folder" in error


def test_a_run_folder_that_the_user_has_linked_can_be_resumed() -> None:
    assert train("a") == 0
    shutil.move("runs", "disk")
    Path("runs").symlink_to("disk")
    Path("runs/b").symlink_to(Path("disk/a").absolute())
    assert main(["resume", "a"]) == main(["resume", "b"]) == main(["resume", "disk/../runs/a"]) == 0


def test_a_trainer_inside_a_batch_is_not_resumed_alone(capsys: Captured) -> None:
    assert train("a") == 0
    shutil.move("runs/a", "runs/trainer-2")
    Path("runs/batch").mkdir()
    shutil.move("runs/trainer-2", "runs/batch/trainer-2")
    Path("runs/batch/batch.json").write_text("{}")
    assert main(["resume", "batch/trainer-2"]) == 1
    assert "trainer-2 is a trainer inside the batch run batch, which goes on as a whole" in capsys.readouterr().err


def test_a_batch_without_its_notebook_or_with_a_foreign_one_is_not_executed(capsys: Captured, folder: Path) -> None:
    run = folder / "runs" / "a"
    run.mkdir(parents=True)
    request = {"notebook": str(folder / "evil.ipynb"), "parameters": {}, "nproc_per_node": 1, "status": "stopped"}
    for content, message in [
        (request, "keeps no copy of its notebook; go on with the command that began it"),
        ({"status": "stopped"}, "is damaged: it has no notebook, parameters, nproc_per_node"),
    ]:
        (run / "batch.json").write_text(json.dumps(content))
        assert main(["resume", "a"]) == 1
        assert message in capsys.readouterr().err
    (run / "source.ipynb").symlink_to(folder / "evil.ipynb")
    assert main(["resume", "a"]) == 1
    assert "source.ipynb is a symbolic link to " in capsys.readouterr().err


def test_runs_of_trainers_that_were_made_by_hand_keep_no_configuration(folder: Path) -> None:
    from jepa.models import Encoder

    trainer = create_trainer(Encoder(8, 4, depth=1), run="a", device="cpu", progress=False)
    states = torch.randn(16, 4)
    trainer.train([(states, states)], num_epochs=1)
    assert not (folder / "runs" / "a" / "experiment.yaml").exists()
    assert list_runs()[0].origin == "notebook"
