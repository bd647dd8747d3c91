"""What every objective promises, checked for each that is registered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset, default_collate

import jepa.objectives
from jepa.diagnostics import effective_rank, embedding_std
from jepa.models import JEPA, Encoder, Predictor
from jepa.objectives import OBJECTIVES, Draw, HyperParameter, Losses, Objective, StatePair
from jepa.trainer import create_trainer
from jepa.trainer.step import TrainStep

BATCH = 16
FIRST = Draw(seed=0, batch=0)


@pytest.fixture(params=sorted(OBJECTIVES))
def cls(request: pytest.FixtureRequest) -> type[Objective]:
    return OBJECTIVES[request.param]


def example(cls: type[Objective], seed: int = 0) -> tuple[Objective, Any]:
    torch.manual_seed(seed)
    return cls.example()


def batch_of(data: Any, size: int = BATCH, seed: int = 0) -> Any:
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    return default_collate([data[index] for index in order[:size].tolist()])


def active(name: str, spec: HyperParameter) -> float:
    """A value at which the term cannot be overlooked."""
    return spec.default or min(spec.high, 0.5)


def hyper_of(objective: Objective) -> dict[str, Tensor]:
    return {name: torch.tensor(active(name, spec)) for name, spec in objective.hyper_parameters.items()}


def losses_of(objective: Objective, batch: Any, draw: Draw = FIRST) -> Losses:
    return objective(objective.views(batch, draw), hyper_of(objective))


def test_every_file_of_the_folder_is_registered_under_a_name_of_its_own() -> None:
    folder = Path(jepa.objectives.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "base", "multi_view"}
    registered = {cls.__module__.removeprefix("jepa.objectives.") for cls in OBJECTIVES.values()}
    assert registered == files
    assert all(cls.name == name for name, cls in OBJECTIVES.items())
    assert {cls.__name__ for cls in OBJECTIVES.values()} <= set(jepa.objectives.__all__)


def test_it_says_what_it_takes_and_what_it_trains_with(cls: type[Objective]) -> None:
    objective, data = example(cls)
    assert cls.layout
    assert cls.__doc__
    assert set(cls.targets) <= {"ema", "stop_gradient", "shared"}
    assert objective.model.target.kind in cls.targets
    assert objective.samples(batch_of(data)) == BATCH
    with pytest.raises(TypeError, match=f"objective {cls.name!r} takes batches .*; got a mapping with keys 'nothing'"):
        objective.views({"nothing": None}, Draw(0, 0))


def test_the_loss_is_finite_and_its_parts_are_detached(cls: type[Objective]) -> None:
    objective, data = example(cls)
    losses = losses_of(objective, batch_of(data))
    assert losses.loss.shape == ()
    assert torch.isfinite(losses.loss)
    assert losses.loss.requires_grad
    assert losses.terms
    for name, term in losses.terms.items():
        assert term.shape == (), name
        assert torch.isfinite(term), name
        assert not term.requires_grad, name
    assert losses.embedding.ndim == 2
    assert len(losses.embedding) == BATCH
    assert not losses.embedding.requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_of_another_precision_takes_the_same_data(cls: type[Objective], dtype: torch.dtype) -> None:
    objective, data = example(cls)
    objective.to(dtype)
    losses = losses_of(objective, batch_of(data))
    losses.loss.backward()
    assert losses.loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.isfinite(losses.loss)
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters() if p.grad is not None)


def test_gradients_reach_every_trainable_parameter_and_never_a_moving_average(cls: type[Objective]) -> None:
    objective, data = example(cls)
    losses_of(objective, batch_of(data)).loss.backward()
    for name, parameter in objective.named_parameters():
        if name.startswith("model.target."):
            assert not parameter.requires_grad, name
            assert parameter.grad is None, name
        else:
            assert parameter.requires_grad, name
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name


def test_a_trainer_updates_every_trainable_parameter_and_never_a_moving_average(cls: type[Objective]) -> None:
    objective, _ = example(cls)
    trainer = create_trainer(objective, run=False)
    updated = [id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]]
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    assert len(updated) == len(set(updated))
    expected = {name for name in names.values() if not name.startswith("model.target.")}
    assert {names[one] for one in updated} == expected


def test_a_last_batch_of_one_sample_does_not_end_a_run(cls: type[Objective]) -> None:
    objective, data = example(cls)
    trainer = create_trainer(objective, run=False)
    trainer.train(DataLoader(Subset(data, range(9)), batch_size=4), num_epochs=2)
    assert trainer.step == 6


def test_the_same_seed_and_draw_give_the_same_loss_whatever_else_draws(cls: type[Objective]) -> None:
    objective, data = example(cls)
    batch = batch_of(data)
    first = losses_of(objective, batch, Draw(3, 4))
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = losses_of(objective, batch, Draw(3, 4))
    assert torch.equal(first.loss, again.loss)
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    twin, _ = example(cls)
    assert torch.equal(losses_of(twin, batch, Draw(3, 4)).loss, first.loss), "the same seed builds the same model"


def test_every_hyper_parameter_changes_the_loss(cls: type[Objective]) -> None:
    objective, data = example(cls)
    views = objective.views(batch_of(data), Draw(0, 0))
    usual = objective(views, hyper_of(objective)).loss
    for name, spec in objective.hyper_parameters.items():
        assert spec.low <= spec.default <= spec.high
        more = {**hyper_of(objective), name: torch.tensor(active(name, spec) * 1.5)}
        assert not torch.equal(objective(views, more).loss, usual), name


def other_value(name: str, values: dict[str, float]) -> tuple[dict[str, float], float]:
    """Values with room for another one of that name, and this one."""
    if name.endswith("_max"):
        low = name.replace("_max", "_min")
        values = {**values, low: values[low] / 4}
        return values, (values[low] + values[name]) / 2
    return values, values[name] / 2


def test_every_view_parameter_changes_the_loss_and_comes_back(cls: type[Objective]) -> None:
    objective, data = example(cls)
    batch, draws = batch_of(data, 4), [Draw(0, number) for number in range(12)]

    def losses(values: dict[str, float]) -> list[float]:
        objective.set_view_parameters(values)
        return [float(losses_of(objective, batch, draw).loss.detach()) for draw in draws]

    usual = {name: spec.default for name, spec in objective.view_parameters.items()}
    first = [float(losses_of(objective, batch, draw).loss.detach()) for draw in draws]
    assert losses(usual) == first
    config = objective.config()
    for name, spec in objective.view_parameters.items():
        assert spec.low <= spec.default <= spec.high
        assert spec.unit
        roomy, other = other_value(name, usual)
        objective.check_view_parameters(usual, {**roomy, name: other})
        assert losses({**roomy, name: other}) != losses(roomy), name
    assert objective.config() == config, "what a run is does not change with what is set in it"
    assert losses(usual) == first


def test_state_and_arguments_make_a_trip_to_files_and_back(cls: type[Objective], tmp_path: Path) -> None:
    objective, data = example(cls)
    for parameter in objective.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    torch.save(objective.state_dict(), tmp_path / "state.pt")
    other, _ = example(cls, seed=1)
    arguments = json.loads(json.dumps(objective.config()))
    restored = cls(other.model, **{k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()})
    batch = batch_of(data)
    assert not torch.equal(losses_of(restored, batch).loss, losses_of(objective, batch).loss)
    restored.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(losses_of(restored, batch).loss, losses_of(objective, batch).loss)
    assert restored.config() == objective.config()


def train(objective: Objective, data: Any, steps: int, precision: str = "fp32") -> list[float]:
    """Train as a run does; the losses."""
    parameters = [p for p in objective.parameters() if p.requires_grad]
    hyper = {name: torch.tensor(spec.default) for name, spec in objective.hyper_parameters.items()}
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    step = TrainStep(objective, optimizer, torch.device("cpu"), hyper, precision=precision)
    losses = []
    for number, batch in enumerate(endless(data, steps)):
        losses.append(step([batch], [Draw(0, number)], ema_momentum=0.996, clip=None).loss)
        assert torch.isfinite(losses[-1]), f"step {number}"
    return [float(loss) for loss in losses]


def collapse_numbers(objective: Objective, data: Any, steps: int = 200) -> tuple[float, float]:
    """Train, then embedding deviation and effective rank over a fixed batch."""
    train(objective, data, steps)
    hyper = {name: torch.tensor(spec.default) for name, spec in objective.hyper_parameters.items()}
    views = objective.views(batch_of(data, 256, seed=12345), Draw(0, 0))
    with torch.no_grad():
        embedding = objective(views, hyper).embedding
    return float(embedding_std(embedding)), float(effective_rank(embedding))


def endless(data: Any, steps: int, size: int = 64) -> Iterator[Any]:
    for number in range(steps):
        yield batch_of(data, size, seed=number)


# Over 256 fixed samples: a collapse leaves a deviation below 0.02 or one or two directions; both were measured.
SMALLEST_DEVIATION, SMALLEST_RANK = 0.05, 4.0


@pytest.mark.slow
def test_it_does_not_collapse_on_the_data_it_declares(cls: type[Objective]) -> None:
    deviation, rank = collapse_numbers(*example(cls))
    assert deviation > SMALLEST_DEVIATION
    assert rank > SMALLEST_RANK


def test_the_default_model_with_the_default_trainer_does_not_collapse() -> None:
    _, data = example(StatePair)
    model = JEPA(encoder=Encoder(32, 3, depth=1), predictor=Predictor(32, depth=1))
    create_trainer(model, run=False).train(DataLoader(data, batch_size=64, shuffle=True), max_steps=200)
    states = data[:256][0]
    for which in ("context", "target"):
        embedding = model.embed(states, which=which)
        assert embedding_std(embedding) > SMALLEST_DEVIATION
        assert effective_rank(embedding) > SMALLEST_RANK


BF16_TOLERANCE = 0.05  # of the mean loss over a quarter of the run


@pytest.mark.slow
@pytest.mark.parametrize("steps", [20, pytest.param(200, marks=pytest.mark.full)])
def test_the_loss_in_bf16_follows_the_loss_in_fp32(cls: type[Objective], steps: int) -> None:
    exact, half = (
        torch.tensor(train(*example(cls), steps, precision)).view(4, -1).mean(1) for precision in ("fp32", "bf16")
    )
    assert not torch.equal(exact, half), "bf16 changed nothing"
    torch.testing.assert_close(half, exact, rtol=BF16_TOLERANCE, atol=0)


def test_a_collapse_would_be_seen() -> None:
    objective, data = example(StatePair)
    model = JEPA(objective.model.encoder, objective.model.predictor, target="shared")
    deviation, _ = collapse_numbers(StatePair(model, variance_weight=0.0, covariance_weight=0.0), data)
    assert deviation < SMALLEST_DEVIATION


RANKS = """
import copy
import torch
from torch.utils.data import default_collate
from jepa import distributed
from jepa.objectives import OBJECTIVES, Draw
from jepa.trainer.step import wrap_distributed

SHARE = 6  # samples a rank


def as_double(batch):
    if isinstance(batch, (list, tuple)):
        return [as_double(part) for part in batch]
    if batch.dtype == torch.uint8:
        return batch.double() / 255
    return batch.double() if batch.is_floating_point() else batch


def rows(batch, part):
    return [rows(one, part) for one in batch] if isinstance(batch, (list, tuple)) else batch[part]


prepared, alone = {}, {}
for name, cls in OBJECTIVES.items():  # before there are ranks
    torch.manual_seed(0)
    objective, data = cls.example()
    objective.double()
    batch = as_double(default_collate([data[index] for index in range(2 * SHARE)]))
    hyper = {key: torch.tensor(spec.default or min(spec.high, 0.5)) for key, spec in objective.hyper_parameters.items()}
    prepared[name] = copy.deepcopy(objective), batch, hyper
    losses = objective(objective.views(batch, Draw(5, 7)), hyper)
    losses.loss.backward()
    alone[name] = losses.loss.detach(), {key: p.grad for key, p in objective.named_parameters()}

distributed.init(world_size=2, backend="gloo")
rank = distributed.rank()
for name, (objective, batch, hyper) in prepared.items():
    wrapped = wrap_distributed(objective, torch.device("cpu"))
    mine = rows(batch, slice(rank * SHARE, (rank + 1) * SHARE))
    losses = wrapped(objective.views(mine, Draw(5, 7, rank, 2)), hyper)
    losses.loss.backward()
    expected, gradients = alone[name]
    mean = distributed.all_reduce_mean(losses.loss.detach())
    assert losses.loss.dtype == torch.float64
    torch.testing.assert_close(mean, expected, rtol=1e-9, atol=0)
    largest = 0.0
    for key, parameter in objective.named_parameters():
        if gradients[key] is None:
            assert parameter.grad is None, key
            continue
        error = (parameter.grad - gradients[key]).abs().max() / gradients[key].abs().max()
        largest = max(largest, float(error))
        assert error < 1e-9, (name, key, float(error))
    print(f"{name}: rank {rank} agrees, relative error of the gradients {largest:.1e}")
"""


@pytest.mark.distributed
def test_two_ranks_get_the_gradients_of_one_with_the_whole_batch(run_distributed: Any) -> None:
    done = run_distributed(RANKS)
    assert done.stdout.count("agrees") == 2 * len(OBJECTIVES), done.stdout


def test_losses_of_the_samples_average_to_the_term_that_they_are_of(cls: type[Objective]) -> None:
    objective, data = example(cls)
    views = objective.views(batch_of(data), FIRST)
    with torch.no_grad():
        alone, losses = objective.sample_losses(views), objective(views, hyper_of(objective))
    assert alone is not None
    assert alone.shape == (BATCH,)
    assert len(alone.unique()) == BATCH
    torch.testing.assert_close(alone.mean(), losses.terms[cls.sample_term], rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["state_pair", "action_conditioned", "ijepa", "vjepa"])
def test_a_sample_has_the_same_loss_without_the_others(name: str) -> None:
    objective, data = example(OBJECTIVES[name])
    views = objective.views(batch_of(data), FIRST)
    with torch.no_grad():
        together = objective.sample_losses(views)
        assert together is not None
        for row in (0, BATCH - 1):
            only = {key: view if key == "directions" else view[row : row + 1] for key, view in views.items()}
            torch.testing.assert_close(objective(only, hyper_of(objective)).terms["prediction"], together[row])
