"""What a step of I-JEPA costs against the published math, written out here as its authors compute it.

Both train the same weights on the same masks. CPU time on one thread; the loops take turns, each turn is compared with
the published one's turn beside it, and the median counts (see `test_step_cost.py`).
Axes: B batch, N tokens, C context tokens, K target blocks, M tokens of a block, D features.
"""

from __future__ import annotations

import copy
import math
import random
import statistics
import time
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa.config.schema import TrainerConfig
from jepa.models import JEPA, MaskedPredictor, vit
from jepa.models.layers import Block
from jepa.models.positions import sincos_positions
from jepa.models.tokenizers import ImageTokenizer
from jepa.objectives import IJEPA, Draw
from jepa.objectives.base import Views
from jepa.trainer.create import make_optimizer
from jepa.trainer.step import TrainStep

Report = Callable[[str, str, list[str], list[list[str]]], None]
BATCH, SIZE, PATCH, DIM = 32, 96, 8, 192
DEPTH, NARROW_DIM, NARROW_DEPTH = 6, 96, 3
MOMENTUM = 0.996


def make_objective() -> IJEPA:
    torch.manual_seed(0)
    encoder = vit("tiny", ImageTokenizer(SIZE, PATCH, channels=3), depth=DEPTH)
    sizes = {"predictor_dim": NARROW_DIM, "depth": NARROW_DEPTH, "num_heads": 3}
    return IJEPA(JEPA(encoder, MaskedPredictor(DIM, (12, 12), **sizes)))


class Published:
    """The published computation over the modules of a model: nothing is left out, nothing is fused."""

    def __init__(self, objective: IJEPA, precision: str) -> None:
        self.model = copy.deepcopy(objective.model)
        self.precision = precision
        trained = [p for p in self.model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3)
        self.table = sincos_positions((12, 12), DIM).unsqueeze(0)
        self.narrow_table = sincos_positions((12, 12), NARROW_DIM).unsqueeze(0)

    def step(self, views: Views) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            loss = self.loss(views["images"], views["context_mask"], views["target_mask"])
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            pairs = zip(self.model.target.encoder.parameters(), self.model.encoder.parameters(), strict=True)
            for slow, fast in pairs:
                slow.data.mul_(MOMENTUM).add_((1.0 - MOMENTUM) * fast.detach().data)
        return loss.detach()

    def loss(self, images: Tensor, context_mask: Tensor, target_mask: Tensor) -> Tensor:
        blocks = target_mask.unbind(1)
        with torch.no_grad():
            wanted = self.encode(self.model.target.encoder, images, None)
            wanted = F.layer_norm(wanted, (DIM,))
            wanted = torch.cat([picked(wanted, block) for block in blocks])
        context = self.encode(self.model.encoder, images, context_mask)
        return F.smooth_l1_loss(self.predict(context, context_mask, blocks), wanted)

    def encode(self, encoder: nn.Module, images: Tensor, mask: Tensor | None) -> Tensor:
        weight = encoder.embed.weight.view(DIM, 3, PATCH, PATCH)
        x = F.conv2d(images, weight, encoder.embed.bias, stride=PATCH).flatten(2).transpose(1, 2) + self.table
        x = x if mask is None else picked(x, mask)
        for block in encoder.blocks:
            x = plain_block(block, x)
        return encoder.norm(x)

    def predict(self, context: Tensor, context_mask: Tensor, blocks: tuple[Tensor, ...]) -> Tensor:
        predictor = self.model.predictor
        assert predictor is not None
        table = self.narrow_table.expand(len(context), -1, -1)
        x = predictor.embed(context) + picked(table, context_mask)
        asked = torch.cat([picked(table, block) for block in blocks]) + predictor.mask_tokens.unsqueeze(0)
        x = torch.cat([x.repeat(len(blocks), 1, 1), asked], dim=1)
        for block in predictor.blocks:
            x = plain_block(block, x)
        return predictor.proj(predictor.norm(x)[:, context.shape[1] :])


def picked(x: Tensor, index: Tensor) -> Tensor:
    return torch.gather(x, 1, index.unsqueeze(-1).repeat(1, 1, x.shape[-1]))


def plain_block(block: Block, x: Tensor) -> Tensor:
    normed = block.norm1(x)
    batch, tokens, dim = normed.shape
    heads = block.attn.num_heads
    q, k, v = block.attn.qkv(normed).reshape(batch, tokens, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
    weights = ((q @ k.transpose(-2, -1)) * (dim // heads) ** -0.5).softmax(dim=-1)
    x = x + block.attn.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, dim))
    return x + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))


def images(seed: int = 0) -> Tensor:
    return torch.randn(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def ours(objective: IJEPA, precision: str) -> Callable[[int], Tensor]:
    optimizer = make_optimizer(objective, TrainerConfig())
    hyper = {name: torch.tensor(spec.default) for name, spec in objective.hyper_parameters.items()}
    step = TrainStep(objective, optimizer, torch.device("cpu"), hyper, precision=precision)
    batch = images()
    return lambda turn: step([batch], [Draw(0, turn)], ema_momentum=MOMENTUM, clip=None).loss


def published(objective: IJEPA, precision: str) -> Callable[[int], Tensor]:
    model, batch = Published(objective, precision), images()
    return lambda turn: model.step(objective.views(batch, Draw(0, turn)))


@pytest.mark.benchmark
def test_loss_and_gradients_equal_the_published_computation() -> None:
    objective = make_objective()
    other = Published(objective, "fp32")
    views = objective.views(images(), Draw(0, 0))
    hyper = {name: torch.tensor(spec.default) for name, spec in objective.hyper_parameters.items()}
    mine = objective(views, hyper).loss
    theirs = other.loss(views["images"], views["context_mask"], views["target_mask"])
    assert mine.item() == pytest.approx(theirs.item(), rel=1e-6)
    mine.backward()
    theirs.backward()
    gradients = [
        (name, a.grad, b.grad)
        for (name, a), b in zip(objective.model.named_parameters(), other.model.parameters(), strict=True)
        if a.requires_grad
    ]
    largest = max(math.sqrt(float(b.square().mean())) for _, _, b in gradients if b is not None)
    for name, a, b in gradients:
        assert a is not None, name
        assert b is not None, name
        error = float((a - b).norm() / (b.norm() + 1e-3 * largest * math.sqrt(b.numel())))
        assert error < 1e-5, (name, error)


class Race:
    """The two computations in one precision, taking turns."""

    def __init__(self, precision: str) -> None:
        self.loops = {
            "published": published(make_objective(), precision),
            "jepa-lab": ours(make_objective(), precision),
        }
        self.seconds: dict[str, list[float]] = {name: [] for name in self.loops}
        for step in self.loops.values():
            step(0)  # a warm-up

    def run(self, turns: int) -> None:
        for turn in range(turns):
            for name in random.Random(turn).sample(list(self.loops), len(self.loops)):
                start = time.process_time()
                self.loops[name](turn + 1)
                self.seconds[name].append(time.process_time() - start)

    def ratio(self) -> float:
        pairs = zip(self.seconds["jepa-lab"], self.seconds["published"], strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])


@pytest.mark.benchmark
def test_a_step_costs_less_than_the_published_computation(report: Report) -> None:
    exact, rough = Race("fp32"), Race("bf16")
    exact.run(8)
    if exact.ratio() > 0.87:  # the neighbours were loud
        exact.run(8)
    rough.run(4)
    base, units = exact.median("published"), product_ratio()
    share = rough.ratio() * rough.median("published") / base
    rows = [
        ["published, fp32", f"{base * 1e3:.0f}", "1.00"],
        ["jepa-lab, fp32", f"{exact.median('jepa-lab') * 1e3:.0f}", f"{exact.ratio():.2f}"],
        ["published, bf16", f"{rough.median('published') * 1e3:.0f}", f"{rough.median('published') / base:.2f}"],
        ["jepa-lab, bf16", f"{rough.median('jepa-lab') * 1e3:.0f}", f"{share:.2f}"],
        ["(a matrix product in bf16, times fp32)", "", f"{units:.2f}"],
    ]
    title = (
        f"An I-JEPA step, {BATCH} images of {SIZE} px, patches of {PATCH}, "
        f"{DIM} features x {DEPTH} blocks, predictor {NARROW_DIM} x {NARROW_DEPTH}"
    )
    report("ijepa_step", title, ["step", "CPU ms", "times the published one in fp32"], rows)
    assert exact.ratio() < 0.92  # the goal is .85; loud neighbours are allowed for
    assert rough.ratio() < 0.97
    if units < 0.25:  # bf16 is only faster where the processor has matrix units for it; the goal is .40
        assert share < 0.5


def product_ratio() -> float:
    """Time of a matrix product in bfloat16 over that in float32."""
    times: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    for _ in range(15):
        for dtype, own in times.items():
            a, b = torch.ones(2304, 192, dtype=dtype), torch.ones(192, 768, dtype=dtype)
            start = time.process_time()
            a @ b
            own.append(time.process_time() - start)
    return statistics.median(times[torch.bfloat16]) / statistics.median(times[torch.float32])
