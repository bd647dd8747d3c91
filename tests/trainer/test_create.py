"""The composition root: good defaults, clear errors, and no file before training starts."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from jepa.data import MemoryLoader
from jepa.files import read_lines
from jepa.models import JEPA, Encoder, ImageTokenizer, Predictor
from jepa.objectives import IJEPA, OBJECTIVES, StatePair
from jepa.trainer import JEPATrainer, TrainerConfig, create_trainer, events
from jepa.trainer.create import make_optimizer

MakeTrainer = Callable[..., JEPATrainer]
MakeModel = Callable[..., JEPA]


def test_the_optimizer_is_fused_and_decays_neither_biases_nor_norms(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(learning_rate=5e-4, weight_decay=0.3)
    optimizer = trainer.optimizer
    assert type(optimizer) is torch.optim.AdamW
    decayed, plain = optimizer.param_groups
    assert all(group["fused"] is True and group["betas"] == (0.9, 0.95) for group in (decayed, plain))
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    names = {id(parameter): name for name, parameter in trainer.objective.named_parameters()}
    norms = {id(p) for m in trainer.model.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()}
    own = {names[id(p)] for p in plain["params"]}
    assert own == {n for i, n in names.items() if (n.endswith("bias") or i in norms) and ".target." not in n}
    together = {names[id(p)] for p in [*decayed["params"], *plain["params"]]}
    assert together == {name for name, p in trainer.objective.named_parameters() if p.requires_grad}
    assert not any(".target." in name for name in together)


def test_a_model_without_trainable_parameters_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match="the model has no trainable parameter: every requires_grad is False"):
        create_trainer(make_model().requires_grad_(False), run=False, device="cpu")


def test_a_group_that_would_be_empty_is_left_out() -> None:
    optimizer = make_optimizer(nn.Linear(3, 3, bias=False), TrainerConfig())
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05]


def test_options_are_fields_of_the_configuration(make_trainer: MakeTrainer) -> None:
    config = TrainerConfig(learning_rate=0.5, seed=3)
    trainer = make_trainer(config=config, seed=4)
    assert (trainer.config.learning_rate, trainer.config.seed) == (0.5, 4)
    assert config.seed == 3
    parameters = inspect.signature(create_trainer).parameters
    assert {field.name for field in fields(TrainerConfig)} <= set(parameters)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_training_starts_from_the_options_of_the_objectives_paper(name: str) -> None:
    cls = OBJECTIVES[name]
    objective, _ = cls.example()
    trainer = create_trainer(objective, run=False, device="cpu", seed=5)
    assert trainer.config == TrainerConfig(**{**cls.paper, "seed": 5})
    own = TrainerConfig(learning_rate=0.5)
    assert create_trainer(objective, config=own, run=False, device="cpu").config == own


@pytest.mark.parametrize("total", [30, 300, 3000])
def test_the_schedules_of_ijepas_paper_fit_a_run_of_any_length(total: int) -> None:
    objective, _ = IJEPA.example()
    trainer = create_trainer(objective, run=False, device="cpu")
    trainer.rates.plan(total)
    warm, last = round(total * 40 / 300), total - 1
    rates = [trainer.rates.learning_rate(step) for step in range(total)]
    assert rates[0] == pytest.approx(2e-4 + 8e-4 / (warm + 1))
    assert rates[warm] == max(rates) == pytest.approx(1e-3)
    assert rates[last] == pytest.approx(1e-6)
    assert rates[:warm] == sorted(rates[:warm])
    assert rates[warm:] == sorted(rates[warm:], reverse=True)
    momenta = [trainer.rates.ema_momentum(step) for step in (0, last // 2, last)]
    assert momenta == pytest.approx([0.996, 0.996 + 0.004 * (last // 2) / last, 1.0])
    decays = []
    for step in (0, last):
        trainer.rates.apply(step)
        decays.append(trainer.optimizer.param_groups[0]["weight_decay"])
    assert decays == pytest.approx([0.04, 0.4])
    assert trainer.optimizer.param_groups[1]["weight_decay"] == 0.0


def test_an_encoder_alone_gets_the_usual_parts_of_the_objective(make_trainer: MakeTrainer) -> None:
    encoder = Encoder(16, depth=1, tokenizer=ImageTokenizer(8, 2))
    trainer = make_trainer(encoder, objective="ijepa")
    assert trainer.model.encoder is encoder
    assert trainer.model.predictor.grid == (4, 4)
    with pytest.raises(ValueError, match="Sequential does not say how wide its embeddings are"):
        make_trainer(nn.Sequential(nn.Linear(3, 3)))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"learning_rat": 1.0}, "unknown training option 'learning_rat'; did you mean 'learning_rate'?"),
        ({"lr": 1.0}, "unknown training option 'lr'; did you mean 'learning_rate'?"),
        ({"num_epochs": 1}, "'num_epochs' is no training option; it is said in trainer.train"),
        ({"batch_size": 1}, "'batch_size' is no training option; it is said in the loader"),
        ({"learning_rate": -1.0}, r"learning_rate must lie in \[0, 1000\], got -1.0"),
        ({"precision": "fp16"}, r"precision must be one of \('fp32', 'bf16'\), got 'fp16'"),
        ({"objective": "ijepe"}, "unknown objective 'ijepe'; did you mean 'ijepa'"),
        ({"logger": "jsonll"}, "unknown logger 'jsonll'; did you mean 'jsonl'"),
        ({"world_size": 2}, "world_size=2 needs distributed=True and processes that torchrun started"),
    ],
)
def test_bad_options_are_named(
    options: dict[str, Any], sentence: str, make_model: MakeModel, make_trainer: MakeTrainer
) -> None:
    with pytest.raises(ValueError, match=sentence):
        make_trainer(make_model(), **options)


def test_distributed_outside_torchrun_gives_the_command_to_type(make_trainer: MakeTrainer) -> None:
    with pytest.raises(RuntimeError, match=r"type: torchrun --nproc-per-node 2 your_script.py"):
        make_trainer(distributed=True)


def test_something_that_is_no_model_is_refused(make_trainer: MakeTrainer) -> None:
    with pytest.raises(TypeError, match="expected a JEPA, an encoder or an Objective, got dict"):
        make_trainer({})


def test_an_objective_may_be_passed_instead_of_a_model(make_trainer: MakeTrainer, make_model: MakeModel) -> None:
    objective = StatePair(make_model(), variance_weight=2.0)
    trainer = make_trainer(objective)
    assert trainer.objective is objective
    assert trainer.hyper_parameters()["variance_weight"][1] == 2.0


def test_no_file_is_written_before_training(
    make_model: MakeModel, loader: MemoryLoader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = create_trainer(make_model(), device="cpu")
    other = create_trainer(make_model(), device="cpu", run="mine")
    path = create_trainer(make_model(), device="cpu", run=tmp_path / "deep" / "run")
    assert list(tmp_path.iterdir()) == []
    assert trainer.run is not None
    assert trainer.run.path.parent == tmp_path / "runs"
    assert other.run is not None
    assert other.run.path == tmp_path / "runs" / "mine"
    assert path.run is not None
    assert path.run.path == tmp_path / "deep" / "run"
    trainer.train(loader, num_epochs=1)
    assert [folder.name for folder in (tmp_path / "runs").iterdir()] == [trainer.run.name]


def test_without_a_run_folder_nothing_is_ever_written(
    make_trainer: MakeTrainer, loader: MemoryLoader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_trainer(run=False).train(loader, num_epochs=2)
    assert list(tmp_path.iterdir()) == []


def test_unnamed_runs_are_fresh(make_trainer: MakeTrainer, make_model: MakeModel, loader: MemoryLoader) -> None:
    first, second = make_trainer(run=None), make_trainer(make_model(), run=None)
    first.train(loader, num_epochs=1)
    second.train(loader, num_epochs=1)
    assert first.run is not None
    assert second.run is not None
    assert first.run.path != second.run.path
    assert second.step == 6


def test_the_folder_of_a_batch_goes_to_the_first_unnamed_trainer(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JEPA_RUN", str(tmp_path / "batch"))
    monkeypatch.setattr("jepa.trainer.create._unnamed_in_batch", 0)
    folders = [make_trainer(run=run).run for run in (None, "named", None)]
    assert [folder.path for folder in folders if folder] == [
        tmp_path / "batch",
        tmp_path / "runs" / "named",
        tmp_path / "batch" / "trainer-2",
    ]


def test_loggers_by_name_object_and_callable(
    make_trainer: MakeTrainer, loader: MemoryLoader, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[tuple[dict[str, float], int]] = []
    seen: list[events.Event] = []

    class Tracker:
        def log(self, metrics: dict[str, float], step: int) -> None:
            rows.append((metrics, step))

    trainer = make_trainer(run="logs", logger=["console", "jsonl", Tracker(), seen.append], log_every=3)
    history = trainer.train(loader, num_epochs=1)
    lines = read_lines(trainer.run.path / "logs" / "metrics.jsonl")  # type: ignore[union-attr]
    assert [line["loss"] for line in lines] == history["loss"]
    assert [step for _, step in rows] == [1, 3, 6]
    assert [metrics["loss"] for metrics, _ in rows] == history["loss"]
    assert any(isinstance(event, events.RunEnded) for event in seen)
    assert "loss" in capsys.readouterr().out


def test_views_that_were_asked_for_do_not_end_a_batch_untrained(
    make_model: MakeModel, make_trainer: MakeTrainer, loader: MemoryLoader
) -> None:
    trainer = make_trainer(make_model(), control_panel=True)
    assert trainer.view is not None
    trainer.start(loader, num_epochs=1)
    assert trainer.state == "finished"


def test_options_of_the_objective_have_a_place_of_their_own(make_model: MakeModel) -> None:
    trainer = create_trainer(make_model("ijepa"), "ijepa", objective_options={"variance_weight": 2.0}, run=False)
    assert trainer.hyper_parameters()["variance_weight"][1] == 2.0
    with pytest.raises(ValueError, match=r"variance_weight is an option of the objective: pass objective_options=\{"):
        create_trainer(make_model("ijepa"), "ijepa", variance_weight=2.0, run=False)
    with pytest.raises(ValueError, match=r"built already: pass variance_weight to IJEPA"):
        create_trainer(IJEPA(make_model("ijepa")), objective_options={"variance_weight": 2.0}, run=False)


def test_a_run_stays_below_its_folder(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match=r"without '\.\.', got '\.\./a'"):
        create_trainer(make_model(), run="../a")


def test_ijepa_says_which_predictor_it_needs() -> None:
    tokenizer = ImageTokenizer(8, 2)
    model = JEPA(Encoder(8, depth=1, tokenizer=tokenizer), Predictor(8, depth=1))
    with pytest.raises(ValueError, match=r"needs MaskedPredictor\(hidden_dim, grid=\(4, 4\)\), got a Predictor"):
        create_trainer(model, "ijepa")
