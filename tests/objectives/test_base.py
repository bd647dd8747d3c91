"""The contract of objectives: hyper-parameters, draws, and finding them by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from jepa.models import JEPA, Encoder, Predictor
from jepa.objectives import IJEPA, OBJECTIVES, Draw, HyperParameter, Objective, StatePair, VICReg, get_objective


def model(target: str = "ema") -> JEPA:
    return JEPA(Encoder(8, 3, depth=1), Predictor(8, depth=1), target=target)  # type: ignore[arg-type]


def test_objectives_are_found_by_name_and_the_nearest_is_named() -> None:
    assert get_objective("state_pair") is StatePair
    assert get_objective("ijepa") is IJEPA
    with pytest.raises(ValueError, match="unknown objective 'i_jepa'; did you mean 'ijepa'"):
        get_objective("i_jepa")
    with pytest.raises(ValueError, match=f"unknown objective 'xyz'; known: {', '.join(OBJECTIVES)}"):
        get_objective("xyz")


def test_a_hyper_parameter_takes_its_limits_and_nothing_beyond() -> None:
    spec = HyperParameter(0.5, 0.0, 2.0)
    assert [spec.check("weight", value) for value in (0, 1.5, 2)] == [0.0, 1.5, 2.0]
    for value in (-0.1, 2.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=rf"weight must lie in \[0, 2\], got {value:g}"):
            spec.check("weight", value)


def test_weights_change_this_objective_only_and_are_kept_by_its_config() -> None:
    objective = StatePair(model(), variance_weight=3)
    assert objective.config() == {"normalization": "mean", "variance_weight": 3.0, "covariance_weight": 2.5}
    assert StatePair.hyper_parameters["variance_weight"].default == 1.0
    assert StatePair(model(), **objective.config()).config() == objective.config()


def test_weights_that_are_unknown_or_out_of_range_are_refused() -> None:
    with pytest.raises(
        TypeError,
        match="has no variance_wieght; it declares variance_weight, covariance_weight, normalization; did you mean "
        "'variance_weight'",
    ):
        StatePair(model(), variance_wieght=1.0)
    with pytest.raises(TypeError, match=r"'vicreg' has no projecton_dim; .*; did you mean 'projection_dim'"):
        VICReg(JEPA(Encoder(8, 3, depth=1), target="shared"), projecton_dim=3)
    with pytest.raises(TypeError, match=r"'state_pair' has no zzz; it declares [a-z_, ]*$"):
        StatePair(model(), zzz=1.0)
    with pytest.raises(ValueError, match=r"variance_weight must lie in \[0, 1000\], got -1"):
        StatePair(model(), variance_weight=-1.0)


def test_a_target_the_objective_cannot_train_with_is_refused() -> None:
    encoder = Encoder(8, 3, depth=1)
    message = (
        r"'ijepa' trains with target 'ema', got a model with target='shared'; build it with JEPA\(..., target='ema'\)"
    )
    with pytest.raises(ValueError, match=message):
        IJEPA(JEPA(encoder, Predictor(8, depth=1), target="shared"))


def test_an_objective_that_fills_no_slot_cannot_be_built() -> None:
    with pytest.raises(TypeError, match="abstract"):
        type("Empty", (Objective,), {})(model())


def test_a_draw_is_a_function_of_seed_and_batch_and_the_same_on_every_rank() -> None:
    def numbers(draw: Draw) -> list[int]:
        return torch.randint(2**31, (4,), generator=draw.generator()).tolist()

    first = numbers(Draw(0, 5))
    assert numbers(Draw(0, 5)) == first
    assert numbers(Draw(0, 5, rank=3, world_size=4)) == first
    distinct = {tuple(numbers(Draw(seed, batch))) for seed in range(20) for batch in range(50)}
    assert len(distinct) == 1000
    assert numbers(Draw(-1, 2**40)) == numbers(Draw(-1, 2**40))


def test_draws_for_different_purposes_have_numbers_of_their_own() -> None:
    found = [torch.rand(3, generator=Draw(0, 5).generator("cpu", *purpose)) for purpose in ((), ("",), ("a",), ("b",))]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert not torch.equal(found[2], found[3])
    assert torch.equal(torch.rand(3, generator=Draw(0, 5, 1, 2).generator(purpose="a")), found[2])


def test_ranks_share_out_the_rows_of_the_global_batch() -> None:
    rows = [list(range(12))[Draw(0, 0, rank, 3).rows(4)] for rank in range(3)]
    assert [index for part in rows for index in part] == list(range(12))
    assert Draw(0, 0, 1, 3).global_size(4) == 12


def test_samples_are_counted_by_the_first_part_of_a_batch() -> None:
    objective = StatePair(JEPA(nn.Linear(2, 2), nn.Linear(2, 2)))
    assert objective.samples((torch.zeros(5, 2), torch.zeros(5, 2))) == 5
    assert objective.samples(torch.zeros(7, 2)) == 7


# Accumulation


def in_float64(batch: Any) -> Any:
    if isinstance(batch, list):
        return [in_float64(part) for part in batch]
    if batch.dtype == torch.uint8:
        return batch.double() / 255
    return batch.double() if batch.is_floating_point() else batch


def rows_of(batch: Any, rows: slice) -> Any:
    return [rows_of(part, rows) for part in batch] if isinstance(batch, list) else batch[rows]


def gradient(objective: Objective, losses: list[Tensor]) -> Tensor:
    """Of the mean of losses, all parameters in one row."""
    objective.zero_grad()
    torch.stack(losses).mean().backward()
    return torch.cat([p.grad.flatten() for p in objective.parameters() if p.grad is not None])


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_two_accumulated_batches_equal_one_of_both_unless_the_objective_says_not(name: str, weighted: bool) -> None:
    torch.manual_seed(0)
    objective, data = OBJECTIVES[name].example()
    objective.double()
    whole = in_float64(default_collate([data[index] for index in range(16)]))
    batch = whole if isinstance(whole, list) else [whole]
    hyper = {key: torch.tensor(spec.default or min(spec.high, 0.5)) for key, spec in objective.hyper_parameters.items()}
    statistics = objective.batch_statistics
    terms = () if isinstance(statistics, bool) else statistics
    assert set(terms) <= set(hyper)
    if not weighted:
        hyper.update({key: torch.tensor(0.0) for key in terms})

    def loss(part: Any, draw: Draw) -> Tensor:
        return objective(objective.views(part if isinstance(whole, list) else part[0], draw), hyper).loss

    at_once = gradient(objective, [loss(batch, Draw(0, 0))])
    halves = [rows_of(batch, slice(8 * half, 8 * half + 8)) for half in (0, 1)]
    accumulated = gradient(objective, [loss(half, Draw(0, 0, rank, 2)) for rank, half in enumerate(halves)])
    difference = float((accumulated - at_once).abs().max() / at_once.abs().max())
    if statistics is True or (terms and weighted):
        assert difference > 1e-4
    else:
        assert difference < 1e-9
