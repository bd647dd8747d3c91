"""What must hold on every device: the CPU here, CUDA where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jepa.data import MemoryLoader
from jepa.models import JEPA, Encoder, ImageTokenizer
from jepa.models.predictor import MaskedPredictor
from jepa.trainer import JEPATrainer, create_trainer

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def build(device: str, **options: object) -> tuple[JEPATrainer, MemoryLoader]:
    torch.manual_seed(0)
    tokenizer = ImageTokenizer(8, 2)
    model = JEPA(Encoder(16, depth=1, tokenizer=tokenizer), MaskedPredictor(16, tokenizer.grid, depth=1))
    images = torch.randint(256, (96, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    silent = {"live_plot": False, "control_panel": False, "progress": False, "run": False}
    trainer = create_trainer(model, "ijepa", device=device, **{**silent, **options})  # type: ignore[arg-type]
    return trainer, MemoryLoader(images, batch_size=16)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_happens_on_the_device(device: str, precision: str) -> None:
    trainer, loader = build(device, precision=precision, log_every=1)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    history = trainer.train(loader, num_epochs=2)
    assert {parameter.device.type for parameter in trainer.model.parameters()} == {device}
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    assert all(torch.isfinite(torch.tensor(history["loss"])))
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    assert trainer.model.embed(loader.arrays[0][:4], which="target").device.type == device


@pytest.mark.parametrize("device", DEVICES)
def test_masks_are_drawn_on_the_device_and_again_for_the_same_draw(device: str) -> None:
    trainer, loader = build(device)
    trainer.train(loader, max_steps=3)
    assert trainer.last_draw is not None
    batch = next(iter(loader))
    views = trainer.objective.views(batch.to(device), trainer.last_draw)
    again = trainer.objective.views(batch.to(device), trainer.last_draw)
    for name in ("context_mask", "target_mask"):
        assert views[name].device.type == device
        assert torch.equal(views[name], again[name])


@pytest.mark.parametrize("device", DEVICES)
def test_a_checkpoint_continues_on_the_device(device: str, tmp_path: Path) -> None:
    whole, loader = build(device)
    whole.train(loader, num_epochs=3)
    first, loader = build(device)
    first.train(loader, num_epochs=3, max_steps=7)
    first.save_checkpoint(tmp_path / "seven.pt")
    second, loader = build(device)
    second.load_checkpoint(tmp_path / "seven.pt")
    second.train(loader, num_epochs=3)
    assert second.step == whole.step
    assert {state["exp_avg"].device.type for state in second.optimizer.state.values()} == {device}
    assert all(torch.isfinite(parameter).all() for parameter in second.model.parameters())
