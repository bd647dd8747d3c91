"""Sizes of masks that are changed while training: checked before, exact afterwards, and never what the run is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import jepa
from jepa.data import MemoryLoader
from jepa.models import JEPA, Encoder, VideoTokenizer
from jepa.models.predictor import MaskedPredictor
from jepa.objectives import IJEPA, VJEPA, Draw, Objective
from jepa.trainer import Callback, JEPAEvaluator, JEPATrainer, events
from jepa.trainer.control import Command, Rewind, Set, Stop
from tests.comparison import assert_same
from tests.trainer.test_trainer import everything

MakeTrainer = Callable[..., JEPATrainer]
EDITS = {
    4: [Set("target_scale_max", 0.5, "schedule"), Set("context_scale_min", 0.3)],
    6: [Set("aspect_ratio_min", 0.25, "hold"), Set("target_scale_min", 0.05)],
}


class At(Callback):
    """Asks for commands after certain steps, the first time that they are reached."""

    def __init__(self, commands: dict[int, list[Any]]) -> None:
        self.commands = dict(commands)

    def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
        for command in self.commands.pop(event.step, ()):
            trainer.submit(command)


@pytest.fixture
def data(images: Tensor) -> MemoryLoader:
    """Six batches of 8 an epoch."""
    return MemoryLoader(images, batch_size=8)


@pytest.fixture
def make_ijepa(make_trainer: MakeTrainer, make_model: Any) -> MakeTrainer:
    def make(commands: dict[int, list[Command]] | None = None, seed: int = 0, **options: Any) -> JEPATrainer:
        objective = IJEPA(make_model("ijepa", seed=seed), target_scale=(0.1, 0.2))
        return make_trainer(objective, callbacks=[At(commands or {})], log_every=4, **options)

    return make


def scales(trainer: JEPATrainer) -> dict[str, float]:
    return {name: trainer.hyper_parameters()[name][1] for name in trainer.objective.view_parameters}


def mask_sizes(objective: Objective, images: Tensor) -> list[tuple[int, ...]]:
    return [tuple(objective.views(images, Draw(0, number))["target_mask"].shape) for number in range(20)]


def test_what_is_set_is_what_is_drawn(make_ijepa: MakeTrainer, data: MemoryLoader, images: Tensor) -> None:
    trainer = make_ijepa()
    before = mask_sizes(trainer.objective, images)
    run = trainer.start(data, max_steps=10**6, wait=False)
    run.pause().result(30)
    done = run.set("target_scale_max", 0.6).result(30)
    assert (done["old"], done["new"], done["course"]) == (0.2, 0.6, "held")
    run.set("target_scale_min", 0.6).result(30)
    assert {size[-1] for size in mask_sizes(trainer.objective, images)} <= {8, 9, 10, 12}  # 0.6 of 16 tokens, rounded
    for name, limits in {"target_scale_min": 0.1, "target_scale_max": 0.2}.items():
        run.set(name, limits).result(30)
    assert mask_sizes(trainer.objective, images) == before


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([("target_scale_min", 0.3)], r"target_scale_min must not lie above target_scale_max, got 0\.3 and 0\.2; set"),
        ([("aspect_ratio_max", 0.5)], r"aspect_ratio_min must not lie above aspect_ratio_max, got 0\.75 and 0\.5"),
        ([("target_scale_max", 1.0)], r"a target block may cover 16 of the 16 tokens .* as context; use target_scale"),
        ([("target_scale_max", 1.0, "schedule")], "a target block may cover 16 of the 16 tokens"),
        ([("target_scale_max", 1.5)], r"target_scale_max must lie in \[0, 1\], got 1\.5"),
        ([("target_scale_min", 0.0)], r"target_scale must satisfy 0 < low <= high <= 1, got \(0\.0, 0\.2\)"),
        (
            [("target_scale_max", 0.6), ("target_scale_max", 0.3, "schedule"), ("target_scale_min", 0.4)],
            r"must not lie above target_scale_max, got 0\.4 and 0\.3",
        ),
        ([("target_scale", 0.3)], "target_scale"),
    ],
)
def test_what_could_not_be_drawn_now_or_later_is_refused_before_anything_changes(
    make_ijepa: MakeTrainer, data: MemoryLoader, images: Tensor, edits: list[tuple[Any, ...]], message: str
) -> None:
    trainer = make_ijepa()
    run = trainer.start(data, max_steps=100, wait=False)
    run.pause().result(30)
    for edit in edits[:-1]:
        run.set(*edit).result(30)
    before = scales(trainer), trainer.courses(), mask_sizes(trainer.objective, images)
    with pytest.raises(ValueError, match=message):
        run.set(*edits[-1]).result(30)
    assert (scales(trainer), trainer.courses(), mask_sizes(trainer.objective, images)) == before


def test_edits_outlive_an_interruption_to_the_bit(make_ijepa: MakeTrainer, data: MemoryLoader) -> None:
    plain = make_ijepa()
    plain.train(data, num_epochs=3)
    whole = make_ijepa(EDITS)
    whole.train(data, num_epochs=3)
    assert whole.history["loss"] != plain.history["loss"]
    for stop in (5, 10):
        make_ijepa({**EDITS, stop: [Stop()]}, run=f"part{stop}").train(data, num_epochs=3)
        part = make_ijepa({6: EDITS[6]} if stop == 5 else {}, seed=1, run=f"part{stop}")
        part.train(data, num_epochs=3)
        assert_same(everything(part), everything(whole))
        assert scales(part) == scales(whole)
    assert whole.courses()["target_scale_max"] == "cosine to 0.5 at step 18"
    assert scales(whole)["target_scale_max"] == 0.5
    assert scales(whole)["target_scale_min"] == 0.05


def test_a_replay_and_an_evaluation_use_what_was_set(
    make_ijepa: MakeTrainer, data: MemoryLoader, images: Tensor, tmp_path: Path
) -> None:
    first = make_ijepa(EDITS, run="first")
    first.train(data, num_epochs=2)
    again = jepa.replay(tmp_path / "runs" / "first", loader=data, device="cpu")
    assert again.equal
    assert first.last_checkpoint is not None
    evaluator = JEPAEvaluator.from_checkpoint(first.last_checkpoint, device="cpu")
    assert mask_sizes(evaluator.objective, images) == mask_sizes(first.objective, images)
    assert mask_sizes(make_ijepa().objective, images) != mask_sizes(first.objective, images)


def test_going_back_takes_back_what_was_set_since(make_ijepa: MakeTrainer, data: MemoryLoader) -> None:
    whole = make_ijepa(run="whole")
    whole.train(data, num_epochs=3)
    detour = make_ijepa({**EDITS, 14: [Rewind("initial.pt")]}, run="detour")
    detour.train(data, num_epochs=3)
    assert detour.step == 18
    assert_same(detour.objective.state_dict(), whole.objective.state_dict())
    assert scales(detour) == scales(whole)


def test_videos_have_a_scale_for_each_group_of_blocks(make_trainer: MakeTrainer) -> None:
    def make(**options: Any) -> JEPATrainer:
        torch.manual_seed(0)
        encoder = Encoder(8, depth=1, tokenizer=VideoTokenizer(4, 8, 2, channels=1))
        model = JEPA(encoder, MaskedPredictor(8, (2, 4, 4), depth=1, num_mask_tokens=2))
        return make_trainer(VJEPA(model), **options)

    videos = MemoryLoader(torch.rand(16, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), batch_size=4)
    edits: list[Any] = [Set("temporal_scale_min", 0.5), Set("spatial_scale_0", 0.4), Set("spatial_scale_1", 1.0)]
    whole = make(callbacks=[At({2: edits})])
    whole.train(videos, num_epochs=2)
    assert scales(whole)["spatial_scale_0"] == 0.4
    assert scales(whole)["spatial_scale_1"] == 0.7, "blocks of whole frames that last through the clip leave nothing"
    make(run="part", callbacks=[At({2: edits, 5: [Stop()]})]).train(videos, num_epochs=2)
    part = make(run="part")
    part.train(videos, num_epochs=2)
    assert_same(everything(part), everything(whole))


def test_ranks_draw_their_rows_of_the_same_masks(make_ijepa: MakeTrainer, images: Tensor) -> None:
    objective = make_ijepa().objective
    usual = {name: spec.default for name, spec in objective.view_parameters.items()}
    objective.set_view_parameters({**usual, "target_scale_max": 0.6, "context_scale_min": 0.5})
    whole = objective.views(images[:8], Draw(0, 3))
    for rank in range(2):
        rows = slice(4 * rank, 4 * rank + 4)
        part = objective.views(images[rows], Draw(0, 3, rank, 2))
        assert all(torch.equal(part[name], whole[name][rows]) for name in ("context_mask", "target_mask"))


def test_another_trainer_of_the_same_objective_draws_what_it_says(
    make_ijepa: MakeTrainer, make_trainer: MakeTrainer, data: MemoryLoader
) -> None:
    first = make_ijepa({2: [Set("target_scale_max", 0.6, "hold")]})
    first.train(data, max_steps=4)
    assert first.objective.masks.target_scale == (0.1, 0.6)  # type: ignore[attr-defined]
    second = make_trainer(first.objective)
    assert scales(second)["target_scale_max"] == 0.2
    assert second.objective.masks.target_scale == (0.1, 0.2)  # type: ignore[attr-defined]


def test_a_checkpoint_from_before_these_numbers_undoes_their_edits(make_ijepa: MakeTrainer, data: MemoryLoader) -> None:
    trainer = make_ijepa({2: [Set("target_scale_max", 0.6, "hold")]})
    old = {name: kept for name, kept in trainer.rates.state_dict().items() if "scale" not in name}
    trainer.train(data, max_steps=4)
    trainer.rates.load_state_dict(old)
    assert scales(trainer)["target_scale_max"] == 0.2
    assert trainer.objective.masks.target_scale == (0.1, 0.2)  # type: ignore[attr-defined]
