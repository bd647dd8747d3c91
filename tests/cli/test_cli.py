"""The command line: each command does its work, and each mistake costs one clear line."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from jepa.cli.__main__ import main
from jepa.config import DataConfig, load_config
from jepa.experiment import make_data
from jepa.files import read_lines
from tests.cli.tiny import STEPS, TINY

TINY_RUN = f"run: tiny{TINY}"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny configuration in the working folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config" / "train.yaml"
    path.parent.mkdir()
    path.write_text(TINY_RUN)
    return path


def train(*arguments: str) -> int:
    return main(["train", "--config", "config/train.yaml", "--device", "cpu", *arguments])


def checkpoint(name: str = "tiny", step: int = STEPS) -> Path:
    return Path("runs", name, "checkpoints", f"step-{step:08d}.pt")


def losses(name: str = "tiny") -> dict[int, float]:
    records = read_lines(Path("runs", name, "metrics", "train.jsonl"))
    return {record["step"]: record["loss"] for record in records if "loss" in record}


@pytest.mark.parametrize(("kind", "objective"), [("state_pair", "state_pair"), ("ijepa", "ijepa")])
def test_generated_configuration_trains_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str, objective: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["generate-config", "--kind", kind]) == 0
    assert "wrote config/train.yaml; train with: python -m jepa.cli train --config" in capsys.readouterr().out
    assert load_config("config/train.yaml").objective == objective
    assert train("--name", "a", "max_steps=3", "data.num_steps=200") == 0
    assert checkpoint("a", 3).is_file()


def test_generate_config_does_not_replace_a_file_unasked(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate-config"]) == 1
    assert capsys.readouterr().err == (
        "error: config/train.yaml exists; pass --force to replace it, or another --output\n"
    )
    assert config.read_text() == TINY_RUN
    assert main(["generate-config", "--force", "--output", str(config)]) == 0
    assert config.read_text() != TINY_RUN


def test_train_trains_and_evaluate_evaluates_its_checkpoint(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("training from step 0 to 12")
    assert lines[-1].startswith("finished at step 12")
    assert sorted(losses()) == list(range(1, STEPS + 1))
    assert all(np.isfinite(list(losses().values())))
    assert json.loads(Path("runs/tiny/status.json").read_text())["state"] == "finished"

    assert main(["evaluate", "--checkpoint", str(checkpoint()), "--data", "pendulum", "--device", "cpu"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    with pytest.raises(SystemExit):
        main(["evaluate", "--checkpoint", str(checkpoint())])
    assert "one of the arguments --data --config is required" in capsys.readouterr().err
    assert main(["evaluate", "--checkpoint", str(checkpoint()), "--config", str(config), "--device", "cpu"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == set(metrics)
    assert {"loss", "prediction", "variance", "embedding_std", "effective_rank"} <= set(metrics)
    assert all(np.isfinite(list(metrics.values())))


def test_evaluation_sees_other_rollouts_than_training() -> None:
    config = DataConfig(name="pendulum")
    trained, unseen = make_data(config).tensors, make_data(config, unseen=True).tensors
    assert [part.shape for part in unseen] == [part.shape for part in trained]
    assert not set(map(tuple, trained[0].tolist())) & set(map(tuple, unseen[0].tolist()))


def test_the_same_configuration_gives_the_same_run(config: Path) -> None:
    for name in ("a", "b"):
        assert train("--name", name) == 0
    assert losses("a") == losses("b")
    assert train("--name", "c", "trainer.seed=1") == 0
    assert losses("c") != losses("a")


def test_a_named_run_goes_on_where_it_ended(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train() == 0
    capsys.readouterr()
    assert train("num_epochs=3") == 0
    assert capsys.readouterr().out.startswith("training from step 12 to 18")
    assert sorted(losses()) == list(range(1, 19))
    assert train("num_epochs=4", "trainer.seed=5") == 1
    assert "run 'tiny' exists with other parameters (training.seed: was 0, now 5)" in capsys.readouterr().err


def test_options_choose_folder_and_loggers(config: Path) -> None:
    assert train("--runs-dir", "elsewhere", "--name", "b", "--logger", "jsonl", "--logger", "console") == 0
    lines = read_lines("elsewhere/b/logs/metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, STEPS + 1))
    assert not Path("runs").exists()


def test_own_arrays_and_no_validation(config: Path) -> None:
    np.save("images.npy", np.random.default_rng(0).integers(0, 255, (32, 1, 8, 8), dtype=np.uint8))
    assert main(["generate-config", "--kind", "ijepa", "--output", str(config), "--force"]) == 0
    assert (
        train("--name", "a", "data.name=images.npy", "data.batch_size=16", "data.val_fraction=0", "num_epochs=1") == 0
    )
    assert sorted(losses("a")) == [1, 2]
    assert main(["evaluate", "--checkpoint", str(checkpoint("a", 2)), "--data", "images.npy", "--device", "cpu"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["num_epoch=2"], r"config/train.yaml: unknown key 'num_epoch'; did you mean 'num_epochs'\?"),
        (["trainer.learning_rate=fast"], "trainer.learning_rate must be float, got 'fast'"),
        (["trainer.betas=[0.9"], r"'\[0.9' is not valid YAML"),
        (["num_epochs=0"], "num_epochs must be a positive whole number, got 0"),
        (["data.name=nothing.npy"], r"no file or folder nothing.npy \(looked from"),
        (["data.val_fraction=0.99"], "the loader is empty"),
        (["objective=state_pear"], r"unknown objective 'state_pear'; did you mean 'state_pair'\?"),
        (["objective_options.varience_weight=1"], "has no varience_weight; it declares variance_weight"),
        (["model.target=emma"], "target must be one of 'ema', 'stop_gradient', 'shared', got 'emma'"),
        (["model.encoder.type=Encodr"], r"unknown architecture 'Encodr'; did you mean 'Encoder'\?"),
        (["model.encoder.hidden_dimm=3"], "the arguments of Encoder do not fit: .*hidden_dimm"),
        (["--logger", "tensorbord"], r"unknown logger 'tensorbord'; did you mean 'tensorboard'\?"),
        (["data.name=digits"], r"objective 'state_pair' takes batches \(state_t, state_t1\).*got a tuple of 2"),
        (
            ["--distributed", "true"],
            "torchrun --nproc-per-node 2 -m jepa.cli train --config config/train.yaml --distributed true",
        ),
    ],
)
def test_a_mistake_ends_with_one_clear_line(
    config: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert train(*arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert re.search(message, error), error


def test_missing_and_damaged_files_are_named(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train() == 0
    capsys.readouterr()
    for size in (0, 100, checkpoint().stat().st_size - 1):
        shutil.copy(checkpoint(), "broken.pt")
        os.truncate("broken.pt", size)
        assert main(["evaluate", "--checkpoint", "broken.pt", "--data", "pendulum"]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: broken.pt is truncated or damaged ({size:,} bytes)")
        assert error.count("\n") == 1
    torch.save({"weights": torch.zeros(2)}, "other.pt")
    for arguments, message in [
        (["evaluate", "--checkpoint", "none.pt", "--data", "pendulum"], "error: no checkpoint at none.pt (looked from"),
        (
            ["evaluate", "--checkpoint", "other.pt", "--data", "pendulum"],
            "error: other.pt was not written by a",
        ),
        (["evaluate", "--checkpoint", str(checkpoint()), "--data", "none.npy"], "error: no file or folder none.npy"),
        (["evaluate", "--checkpoint", str(checkpoint()), "--data", "digits"], "error: objective 'state_pair' takes"),
        (["train", "--config", "none.yaml"], "error: no configuration at none.yaml"),
        (["batch", "none.ipynb"], "error: no notebook at none.ipynb"),
    ]:
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert error.startswith(message)
        assert error.count("\n") == 1


def test_wrong_usage_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in [
        ([], "the following arguments are required: COMMAND"),
        (["trian"], "invalid choice: 'trian'"),
        (["train"], "the following arguments are required: --config"),
        (["train", "--config", "c", "--distributed", "maybe"], "expected true or false, got 'maybe'"),
    ]:
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert all(command in text for command in ("train", "evaluate", "batch", "generate-config"))


def test_batch_lists_the_parameters_of_a_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    notebook = Path(__file__).parents[2] / "notebooks" / "00_quickstart.ipynb"
    assert main(["batch", str(notebook), "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "batch_size = 64  # per process" in lines
    assert any(line.startswith("num_epochs = ") for line in lines)
    assert main(["batch", str(notebook), "-p", "num_epoch", "2"]) == 1
    assert capsys.readouterr().err == "error: unknown parameter 'num_epoch'; did you mean 'num_epochs'?\n"


@pytest.mark.slow
def test_the_module_runs_as_a_program_and_an_interrupt_ends_it_with_a_checkpoint(config: Path) -> None:
    command = [sys.executable, "-m", "jepa.cli", "train", "--config", str(config), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(losses()) == list(range(1, STEPS + 1))

    done = subprocess.run([*command, "num_epoch=1"], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1

    with subprocess.Popen([*command, "--name", "b", "num_epochs=100000"], stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while len(losses("b")) < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.startswith("training stopped cleanly at step ")
    assert error.count("\n") == 1
    assert checkpoint("b", max(losses("b"))).is_file()


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.distributed
@pytest.mark.parametrize("flag", [["--distributed", "true"], pytest.param([], marks=pytest.mark.full)])
def test_torchrun_trains_on_all_processes_with_and_without_the_flag(
    config: Path, run_distributed: Run, flag: list[str]
) -> None:
    done = run_distributed("-m", "jepa.cli", "train", "--config", "config/train.yaml", "--device", "cpu", *flag)
    assert done.stdout.count("training from step 0 to 6") == 1, "one rank speaks, and takes half of the steps"
    assert sorted(losses()) == list(range(1, 7))
    (started,) = [line for line in read_lines("runs/tiny/journal.jsonl") if line["event"] == "RunStarted"]
    assert started["world_size"] == 2
    assert sorted(path.name for path in Path("runs").iterdir()) == ["tiny"]

    # Two processes with a batch of 8 see what one process with a batch of 16 sees.
    assert train("--name", "alone", "data.batch_size=16") == 0
    assert losses() == pytest.approx(losses("alone"), abs=1e-5)


@pytest.mark.distributed
def test_torchrun_with_a_mistake_fails_with_a_clear_line(config: Path, run_distributed: Run) -> None:
    arguments = ["-m", "jepa.cli", "train", "--config", "config/train.yaml", "num_epoch=3"]
    done = run_distributed(*arguments, check=False)
    assert done.returncode == 1
    assert "unknown key 'num_epoch'; did you mean 'num_epochs'?" in done.stderr
    assert 'Traceback (most recent call last):\n  File "/' not in done.stderr.split("unknown key")[0]
