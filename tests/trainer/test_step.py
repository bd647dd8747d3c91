"""One update, against the same update written out by hand."""

from __future__ import annotations

import copy
import math
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jepa.data import MemoryLoader
from jepa.models import JEPA
from jepa.objectives import IJEPA, Draw, StatePair
from jepa.trainer import Callback, JEPATrainer, TrainerConfig, events
from jepa.trainer.step import TrainStep, to_device, wrap_distributed

CPU = torch.device("cpu")
MakeTrainer = Callable[..., JEPATrainer]


class Losses(Callback):
    """Every step's loss."""

    def __init__(self) -> None:
        self.values: list[Tensor] = []

    def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
        """Keep it."""
        self.values.append(event.loss)


def hand_written(model: JEPA, batches: list[Any], total: int, *, masked: bool) -> list[Tensor]:
    """The default recipe in plain PyTorch: fused AdamW, clip 1, warm-up 10 % and cosine to 1 %, EMA .99 to 1."""
    objective = IJEPA(model) if masked else StatePair(model)
    encoder, predictor, target = model.encoder, model.predictor, model.target.encoder
    parameters = [*encoder.parameters(), *predictor.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)
    warmup = round(0.1 * total)
    losses = []
    for step, batch in enumerate(batches):
        if step < warmup:
            rate = 1e-3 * (step + 1) / (warmup + 1)
        else:
            angle = math.pi * min((step - warmup) / (total - warmup - 1), 1.0)
            rate = 1e-5 + (1e-3 - 1e-5) * 0.5 * (1 + math.cos(angle))
        for group in optimizer.param_groups:
            group["lr"] = rate
        views = objective.views(batch, Draw(0, step))
        if masked:
            keys = {"context_mask": views["context_mask"], "target_mask": views["target_mask"]}
            out = model(views["images"], views["images"], **keys)
            prediction, context, wanted = out.prediction, out.context.mean(1), out.target
            weights = (0.0, 0.0)
        else:
            context = encoder(batch[0])
            prediction = predictor(context)
            with torch.no_grad():
                wanted = target(batch[1])
            weights = (1.0, 2.5)
        # The order of these lines is the order in which autograd sums gradients, which decides their last bit.
        distance = nn.functional.smooth_l1_loss(prediction, nn.functional.layer_norm(wanted, wanted.shape[-1:]))
        size = len(context)
        centred = context - context.mean(0)
        matrix = (centred.T @ centred) / size * (size / (size - 1))
        spread = torch.relu(1 - (matrix.diagonal() + 1e-4).sqrt()).mean()
        pairs = matrix.square().sum() - matrix.diagonal().square().sum()
        covariance = pairs / (matrix.numel() - len(matrix))
        loss = distance + torch.tensor(weights[0]) * spread + torch.tensor(weights[1]) * covariance
        loss.backward()
        nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        momentum = 0.99 + 0.01 * min(step / (total - 1), 1.0)
        with torch.no_grad():
            for average, source in zip(target.parameters(), encoder.parameters(), strict=True):
                average.lerp_(source, 1.0 - momentum)
        losses.append(loss.detach())
    return losses


@pytest.mark.parametrize("objective", ["state_pair", "ijepa"])
def test_the_default_recipe_equals_a_hand_written_loop_bit_for_bit(
    objective: str, make_trainer: MakeTrainer, make_model: Callable[..., JEPA], pairs: Any, images: Tensor
) -> None:
    model, seen = make_model(objective), Losses()
    twin = copy.deepcopy(model)
    twin.target._source = [twin.encoder]
    arrays = pairs if objective == "state_pair" else (images,)
    loader = MemoryLoader(*arrays, batch_size=8, shuffle=False)
    trainer = make_trainer(model, objective=objective, callbacks=[seen], config=TrainerConfig())
    trainer.train(loader, num_epochs=5)
    batches = [tuple(array[i : i + 8] for array in arrays) for i in range(0, 48, 8)]
    batches = batches if objective == "state_pair" else [batch[0] for batch in batches]
    expected = hand_written(twin, batches * 5, 30, masked=objective == "ijepa")
    assert [value.item() for value in seen.values] == [value.item() for value in expected]
    for (name, mine), theirs in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name


def make_step(objective: Any, **options: Any) -> tuple[TrainStep, torch.optim.Optimizer]:
    optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=0.1)
    hyper = {name: torch.tensor(spec.default) for name, spec in objective.hyper_parameters.items()}
    return TrainStep(objective, optimizer, CPU, hyper, **options), optimizer


@pytest.mark.parametrize("sizes", [[8, 8, 8], [12, 8, 4]])
def test_accumulated_batches_equal_one_large_batch(
    sizes: list[int], make_model: Callable[..., JEPA], pairs: Any
) -> None:
    draws = [Draw(0, number) for number in range(3)]
    states = []
    for parts in (sizes, [24]):
        objective = StatePair(make_model(), variance_weight=0.0, covariance_weight=0.0).double()
        step, _ = make_step(objective)
        data = [part.double()[:24].split(parts) for part in pairs]
        for _ in range(4):
            result = step(list(zip(*data, strict=True)), draws[: len(parts)], ema_momentum=0.9, clip=0.5)
        states.append((result.loss, result.grad_norm, result.terms["prediction"], objective.state_dict()))
    (loss, norm, term, weights), (whole_loss, whole_norm, whole_term, whole) = states
    torch.testing.assert_close((loss, norm, term), (whole_loss, whole_norm, whole_term), rtol=2e-6, atol=0)
    torch.testing.assert_close(weights, whole, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("clip", "expected"), [(0.01, 0.01), (None, None)])
def test_the_gradient_is_clipped_and_its_norm_before_that_reported(
    clip: float | None, expected: float | None, make_model: Callable[..., JEPA], pairs: Any
) -> None:
    objective = StatePair(make_model())
    step, optimizer = make_step(objective)
    before = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]
    result = step([tuple(p[:8] for p in pairs)], [Draw(0, 0)], ema_momentum=0.9, clip=clip)
    after = [p.detach() for group in optimizer.param_groups for p in group["params"]]
    moved = torch.cat([(a - b).flatten() for a, b in zip(after, before, strict=True)]).norm() / 0.1
    if expected is None:
        assert moved.item() == pytest.approx(result.grad_norm.item(), rel=1e-3)
        assert moved > 0.02
    else:
        assert result.grad_norm > expected
        assert moved.item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("types", [[torch.float32] * 3, [torch.float32, torch.float64, torch.float32]])
@pytest.mark.parametrize(("scale", "largest"), [(1.0, 0.5), (0.01, 0.5), (1.0, None), (float("nan"), 0.5)])
def test_clipping_gives_the_numbers_that_torch_gives(
    types: list[torch.dtype], scale: float, largest: float | None, make_model: Callable[..., JEPA]
) -> None:
    weights = [nn.Parameter(torch.zeros(n, 3, dtype=kind)) for n, kind in enumerate(types, start=1)]
    gradients = [scale * torch.randn_like(weight) for weight in weights]
    parameters = [*weights, nn.Parameter(torch.zeros(2))]  # the last one gets no gradient
    step = TrainStep(StatePair(make_model()), torch.optim.SGD(parameters, lr=0.1), CPU, {})
    norms: list[Tensor] = []
    clipped: list[list[Any]] = []
    for clip in (step._clip, lambda most: nn.utils.clip_grad_norm_(parameters, most or math.inf)):
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient.clone()
        norms.append(clip(largest))
        clipped.append([weight.grad for weight in weights])
    torch.testing.assert_close(norms[0], norms[1], rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(clipped[0], clipped[1], rtol=0, atol=0, equal_nan=True)


def test_gradients_are_gone_after_the_step_and_the_target_has_none(make_model: Callable[..., JEPA], pairs: Any) -> None:
    objective = StatePair(make_model())
    step, _ = make_step(objective)
    old = [p.clone() for p in objective.model.target.encoder.parameters()]
    step([tuple(p[:8] for p in pairs)], [Draw(0, 0)], ema_momentum=0.25, clip=None)
    assert all(parameter.grad is None for parameter in objective.parameters())
    model = objective.model
    for before, average, source in zip(old, model.target.encoder.parameters(), model.encoder.parameters(), strict=True):
        torch.testing.assert_close(average, 0.25 * before + 0.75 * source)


def test_bf16_computes_in_bf16_and_keeps_fp32_weights(make_model: Callable[..., JEPA], pairs: Any) -> None:
    results = {}
    for precision in ("fp32", "bf16"):
        objective = StatePair(make_model())
        kinds: set[torch.dtype] = set()
        objective.model.encoder.embed.register_forward_hook(lambda m, i, out, kinds=kinds: kinds.add(out.dtype))
        step, _ = make_step(objective, precision=precision)
        results[precision] = step([tuple(p[:8] for p in pairs)], [Draw(0, 0)], ema_momentum=0.9, clip=1.0).loss
        assert kinds == {torch.bfloat16 if precision == "bf16" else torch.float32}
        assert {p.dtype for p in objective.parameters()} == {torch.float32}
    assert results["bf16"] != results["fp32"]
    torch.testing.assert_close(results["bf16"], results["fp32"], rtol=0.05, atol=0.0)


Point = namedtuple("Point", "x y")


def test_only_tensors_of_a_nested_batch_move() -> None:
    x = torch.ones(2)
    batch = {"a": [x, "text", 3], "b": Point(x, (x, None))}
    moved = to_device(batch, torch.device("meta"))
    assert moved["a"][0].device.type == "meta"
    assert moved["a"][1:] == ["text", 3]
    assert isinstance(moved["b"], Point)
    assert moved["b"].y[0].device.type == "meta"
    assert moved["b"].y[1] is None
    assert to_device(x, CPU) is x


def test_wrapping_without_a_process_group_says_so(make_model: Callable[..., JEPA]) -> None:
    with pytest.raises((RuntimeError, ValueError), match=r"[Pp]rocess group"):
        wrap_distributed(StatePair(make_model()), CPU)
