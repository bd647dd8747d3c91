"""The model: its forward, any module as its parts, and embeddings for later use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from jepa.data import MemoryLoader
from jepa.models import JEPA, Encoder, ImageTokenizer, JEPAOutput, MaskedPredictor, ModuleEncoder, Predictor


def conv_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 8))


def image_model(target: Any = "ema") -> JEPA:
    tokenizer = ImageTokenizer(8, 2)
    encoder = Encoder(16, depth=1, tokenizer=tokenizer)
    return JEPA(encoder, MaskedPredictor(16, tokenizer.grid, depth=1), target=target)


def test_the_documented_construction_uses_a_moving_average() -> None:
    model = JEPA(encoder=Encoder(hidden_dim=256), predictor=Predictor(hidden_dim=256))
    assert model.target.kind == "ema"
    out = model(torch.zeros(2, 256), torch.zeros(2, 256))
    assert isinstance(out, JEPAOutput)
    assert [part.shape for part in out] == [(2, 256)] * 3


@pytest.mark.parametrize("kind", ["ema", "stop_gradient", "shared"])
def test_forward_is_predictor_of_encoder_beside_the_target_branch(kind: str) -> None:
    model = JEPA(Encoder(8, 3, depth=1), Predictor(8, depth=1), target=kind)
    context, target = torch.randn(2, 5, 4, 3)
    model.encoder.embed.weight.data.normal_()
    out = model(context, target)
    torch.testing.assert_close(out.context, model.encoder(context))
    torch.testing.assert_close(out.prediction, model.predictor(model.encoder(context)))
    torch.testing.assert_close(out.target, model.target.encoder(target))
    assert out.target.requires_grad == (kind == "shared")
    same = torch.allclose(out.target, model.encoder(target))
    assert same == (kind != "ema"), "the average has not followed the encoder yet"


def test_masked_forward_equals_one_call_a_block() -> None:
    model = image_model()
    images = torch.randn(3, 1, 8, 8)
    context_mask = torch.stack([torch.randperm(16)[:5].sort().values for _ in range(3)])
    target_mask = torch.stack([torch.randperm(16)[:8].view(2, 4) for _ in range(3)])
    out = model(images, images, context_mask=context_mask, target_mask=target_mask)
    assert out.prediction.shape == out.target.shape == (3, 2, 4, 16)
    assert out.context.shape == (3, 5, 16)
    whole = model.target(images)
    for block in range(2):
        one = model(images, images, context_mask=context_mask, target_mask=target_mask[:, block])
        assert one.prediction.shape == (3, 4, 16)
        torch.testing.assert_close(out.prediction[:, block], one.prediction)
        torch.testing.assert_close(out.target[:, block], one.target)
        for sample in range(3):
            torch.testing.assert_close(one.target[sample], whole[sample, target_mask[sample, block]])


def test_a_prediction_never_sees_what_it_predicts() -> None:
    model = image_model()
    images = torch.randn(2, 1, 8, 8)
    masks = {"context_mask": torch.tensor([[0, 1, 4, 5]] * 2), "target_mask": torch.tensor([[10, 11, 14, 15]] * 2)}
    before = model(images, images, **masks)
    changed = images.clone()
    changed[:, :, 4:, 4:] = 9
    after = model(changed, changed, **masks)
    assert torch.equal(before.prediction, after.prediction)
    assert not torch.allclose(before.target, after.target)


def test_samples_stay_apart_through_the_whole_model() -> None:
    model = image_model()
    images = torch.randn(4, 1, 8, 8)
    masks = {
        "context_mask": torch.tensor([[0, 1, 4, 5]] * 4),
        "target_mask": torch.tensor([[[10, 11], [14, 15]]] * 4),
    }
    before = model(images, images, **masks)
    changed = images.clone()
    changed[1] = 50
    after = model(changed, changed, **masks)
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old[[0, 2, 3]], new[[0, 2, 3]])
    assert not torch.allclose(before.prediction[1], after.prediction[1])


@pytest.mark.parametrize(
    ("encoder", "shape"),
    [
        (nn.Linear(3, 8), (6, 3)),
        (nn.Linear(3, 8), (6, 5, 3)),
        (conv_net(), (6, 1, 8, 8)),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 8)), (6, 1, 8, 8)),
    ],
)
@pytest.mark.parametrize("kind", ["ema", "stop_gradient", "shared"])
def test_any_module_can_be_encoder_and_predictor(encoder: nn.Module, shape: tuple[int, ...], kind: str) -> None:
    model = JEPA(encoder, nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)), target=kind)
    out = model(torch.randn(shape), torch.randn(shape))
    assert out.prediction.shape == out.target.shape == out.context.shape
    out.prediction.sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
    assert model.embed(torch.randn(shape)).shape == (6, 8)


def test_parts_that_are_no_modules_or_of_two_widths_are_refused() -> None:
    with pytest.raises(TypeError, match=r"encoder must be an nn.Module, got function"):
        JEPA(lambda x: x, nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"predictor must be an nn.Module, got str"):
        JEPA(nn.Linear(2, 2), "none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="different hidden_dim: 8 and 16"):
        JEPA(Encoder(8, depth=1), Predictor(16, depth=1))
    with pytest.raises(ValueError, match=r"target must be one of .*got 'mean'"):
        JEPA(nn.Linear(2, 2), nn.Linear(2, 2), target="mean")  # type: ignore[arg-type]


def test_grids_of_two_sizes_are_refused_whoever_knows_the_encoders() -> None:
    own = Encoder(8, depth=1, tokenizer=ImageTokenizer(8, 2))
    adapted = ModuleEncoder(nn.Identity(), 8, returns="tokens", grid=(4, 4))
    for encoder in (own, adapted):
        with pytest.raises(ValueError, match=r"token grid is \(4, 4\), the predictor's \(2, 8\)"):
            JEPA(encoder, MaskedPredictor(8, (2, 8), depth=1))
        JEPA(encoder, MaskedPredictor(8, (4, 4), depth=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_bytes_are_embedded_in_the_precision_of_the_model(dtype: torch.dtype) -> None:
    model = image_model().to(dtype)
    images = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    embedding = model.embed(images)
    assert embedding.dtype == dtype
    assert torch.equal(embedding, model.embed((images.double() / 255).to(dtype)))


@pytest.mark.filterwarnings("error")
def test_a_prediction_that_would_be_broadcast_is_refused_with_both_shapes() -> None:
    model = JEPA(nn.Linear(3, 8), nn.Linear(8, 1))
    with pytest.raises(ValueError, match=r"predictor returned \(5, 1\), but the target embedding is \(5, 8\)"):
        model(torch.zeros(5, 3), torch.zeros(5, 3))

    class Narrow(nn.Module):
        def forward(self, context: Tensor, context_mask: Tensor, target_mask: Tensor) -> Tensor:
            return context[:, :1, :4]

    masked = JEPA(Encoder(8, 3, depth=1), Narrow())
    x, mask = torch.zeros(5, 4, 3), torch.zeros(5, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"predictor returned \(5, 1, 4\), but the target embedding is \(5, 1, 8\)"):
        masked(x, x, context_mask=mask, target_mask=mask)


def test_one_mask_without_the_other_is_refused() -> None:
    model = image_model()
    images, mask = torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, dtype=torch.int64)
    for name in ("context_mask", "target_mask"):
        with pytest.raises(ValueError, match="pass both context_mask and target_mask, or neither"):
            model(images, images, **{name: mask})


def test_masks_for_another_number_of_samples_are_refused() -> None:
    model = image_model()
    images, mask = torch.zeros(3, 1, 8, 8), torch.zeros(3, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"\(3, K\), got \(2, 1\)"):
        model(images, images, context_mask=mask[:2], target_mask=mask)


INPUTS = {
    "vectors": (lambda: JEPA(Encoder(8, 3, depth=1), Predictor(8, depth=1)), (10, 3), 1),
    "tokens": (lambda: JEPA(Encoder(8, 3, depth=1), Predictor(8, depth=1)), (10, 6, 3), 6),
    "images": (
        lambda: JEPA(Encoder(8, depth=1, tokenizer=ImageTokenizer(8, 4)), Predictor(8, depth=1)),
        (10, 1, 8, 8),
        4,
    ),
    "conv": (lambda: JEPA(conv_net(), nn.Linear(8, 8)), (10, 1, 8, 8), 1),
}


@pytest.mark.parametrize("which", ["context", "target"])
@pytest.mark.parametrize("kind", INPUTS)
def test_embeddings_are_equal_for_a_tensor_in_parts_and_over_loaders(kind: str, which: Any) -> None:
    make, shape, tokens = INPUTS[kind]
    model, x = make(), torch.randn(shape)
    for parameter in model.encoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # so that the two encoders differ
    encoded, embedded = model.encode(x, which=which), model.embed(x, which=which)
    assert encoded.shape == (10, tokens, 8)
    torch.testing.assert_close(embedded, encoded.mean(dim=1))
    encoder = model.encoder if which == "context" else model.target.encoder
    torch.testing.assert_close(encoded.squeeze(1) if tokens == 1 else encoded, encoder.eval()(x))
    labels = torch.arange(10)
    sources: dict[str, Any] = {
        "data loader": DataLoader(TensorDataset(x), batch_size=4),
        "labelled data loader": DataLoader(TensorDataset(x, labels), batch_size=4),
        "memory loader": MemoryLoader(x, batch_size=4, shuffle=False),
        "labelled memory loader": MemoryLoader(x, labels, batch_size=4, shuffle=False),
        "list of batches": [x[:3], [x[3:], labels]],
    }
    for name, source in sources.items():
        torch.testing.assert_close(model.encode(source, which=which), encoded, msg=name)
        torch.testing.assert_close(model.embed(source, which=which), embedded, msg=name)
    for batch_size in (1, 4, 10, 99):
        torch.testing.assert_close(model.encode(x, which=which, batch_size=batch_size), encoded)
        torch.testing.assert_close(model.embed(x, which=which, batch_size=batch_size), embedded)


def test_context_and_target_encoder_are_told_apart() -> None:
    model = JEPA(nn.Linear(3, 8), nn.Linear(8, 8))
    model.encoder.weight.data.zero_()
    model.encoder.bias.data.zero_()
    x = torch.randn(4, 3)
    assert not model.embed(x).any()
    assert model.embed(x, which="target").all()
    for method in (model.encode, model.embed):
        with pytest.raises(ValueError, match="which must be 'context' or 'target', got 'both'"):
            method(x, which="both")  # type: ignore[arg-type]


def test_embedding_happens_in_evaluation_mode_without_gradients_and_puts_every_mode_back() -> None:
    encoder = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.BatchNorm1d(8))
    model = JEPA(encoder, nn.Linear(8, 8))
    encoder[2].eval()  # a part that the user froze
    model.predictor.eval()
    modes = {name: part.training for name, part in model.named_modules()}
    x = torch.randn(20, 3)
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    first, second = model.embed(x), model.embed(x)
    assert torch.equal(first, second), "dropout was active"
    assert not first.requires_grad
    model.encode(DataLoader(TensorDataset(x), batch_size=5), which="target")
    assert {name: part.training for name, part in model.named_modules()} == modes
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in model.named_buffers())


def test_every_mode_is_put_back_when_the_encoder_fails() -> None:
    model = JEPA(Encoder(8, 3, depth=1), Predictor(8, depth=1))
    with pytest.raises(ValueError, match="Encoder takes"):
        model.embed(torch.zeros(4, 5))
    assert all(part.training for part in model.modules())


def test_bytes_are_scaled_to_one() -> None:
    model = JEPA(nn.Sequential(nn.Flatten(), nn.Linear(4, 8)), nn.Linear(8, 8))
    pixels = torch.randint(0, 256, (6, 1, 2, 2), dtype=torch.uint8)
    expected = model.embed(pixels.float() / 255)
    torch.testing.assert_close(model.embed(pixels), expected)
    torch.testing.assert_close(model.embed(MemoryLoader(pixels, batch_size=4, shuffle=False)), expected)
    torch.testing.assert_close(model.encode(pixels, batch_size=2).squeeze(1), expected)


def test_an_encoder_without_parameters_can_be_embedded() -> None:
    x = torch.randn(4, 3)
    assert torch.equal(JEPA(nn.Identity(), nn.Identity()).embed(x), x)


def test_empty_loaders_and_batches_without_a_tensor_are_errors() -> None:
    model = JEPA(nn.Linear(3, 8), nn.Linear(8, 8))
    for method in (model.encode, model.embed):
        with pytest.raises(ValueError, match="the loader gave no batch"):
            method([])
        with pytest.raises(TypeError, match="tuples that begin with one, got dict"):
            method([{"x": torch.zeros(2, 3)}])


def test_a_model_without_a_predictor_gives_embeddings_as_they_are_and_is_saved_without_one(tmp_path: Path) -> None:
    model = JEPA(Encoder(8, depth=1), target="shared")
    x = torch.randn(3, 8)
    out = model(x, x)
    assert torch.equal(out.prediction, out.context)
    assert "predictor" not in model.config()
    restored = JEPA.from_pretrained(model.save_pretrained(tmp_path))
    assert restored.predictor is None
    assert torch.equal(restored.embed(x), model.embed(x))
    with pytest.raises(ValueError, match="masks need a predictor that fills them in"):
        model(x, x, context_mask=torch.zeros(3, 1, dtype=torch.long), target_mask=torch.zeros(3, 1, dtype=torch.long))


def masks_of(batch: int, context: int = 5, blocks: tuple[int, int] = (3, 4)) -> dict[str, Tensor]:
    """Random masks over 16 tokens; blocks of one sample overlap."""
    return {
        "context_mask": torch.stack([torch.randperm(16)[:context] for _ in range(batch)]),
        "target_mask": torch.stack(
            [torch.stack([torch.randperm(16)[: blocks[1]] for _ in range(blocks[0])]) for _ in range(batch)]
        ),
    }


@pytest.mark.parametrize("kind", ["ema", "stop_gradient", "shared"])
@pytest.mark.parametrize("blocks", [(2, 3), (3, 5), (4, 9)], ids=["few", "as many as there are", "more"])
def test_targets_computed_alone_equal_the_full_computation_with_its_gradients(
    kind: Any, blocks: tuple[int, int]
) -> None:
    torch.manual_seed(1)
    model = image_model(kind).double()
    images, masks = torch.randn(3, 1, 8, 8, dtype=torch.float64), masks_of(3, blocks=blocks)
    out = model(images, images, **masks)
    whole = model.target.encoder(images)
    full = torch.stack([whole[sample, masks["target_mask"][sample]] for sample in range(3)])
    torch.testing.assert_close(out.target, full)
    assert out.target.requires_grad == (kind == "shared")
    weight = torch.randn_like(full)
    if kind == "shared":
        parameters = list(model.encoder.parameters())
        lean, other = (torch.autograd.grad((part * weight).sum(), parameters) for part in (out.target, full))
        for one, two in zip(lean, other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-12)


def test_the_target_branch_computes_each_wanted_token_once_in_its_last_block() -> None:
    model = image_model()
    images, seen = torch.randn(2, 1, 8, 8), []
    model.target.encoder.norm.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    target_mask = torch.tensor([[[0, 1, 2], [1, 2, 3]], [[5, 6, 7], [5, 6, 7]]])
    model(images, images, context_mask=torch.tensor([[8, 9]] * 2), target_mask=target_mask)
    assert seen == [4]


class Wrapped(nn.Module):
    """An encoder of a user's own: it knows masks, but not how to compute some outputs only."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Encoder(16, depth=1, tokenizer=ImageTokenizer(8, 2))

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        return self.inner(x, keep=keep)


class Spread(nn.Module):
    """A predictor of a user's own: one row of targets at a time."""

    def forward(self, context: Tensor, context_mask: Tensor, target_mask: Tensor) -> Tensor:
        assert len(context) == len(context_mask) == len(target_mask)
        assert target_mask.ndim == 2
        return context.mean(1, keepdim=True) * target_mask.unsqueeze(-1)


def test_modules_that_declare_nothing_are_called_the_plain_way() -> None:
    model = JEPA(Wrapped(), Spread())
    images, masks = torch.randn(3, 1, 8, 8), masks_of(3)
    out = model(images, images, **masks)
    whole = model.target.encoder(images)
    for sample in range(3):
        torch.testing.assert_close(out.target[sample], whole[sample, masks["target_mask"][sample]])
        expected = out.context[sample].mean(0) * masks["target_mask"][sample].unsqueeze(-1)
        torch.testing.assert_close(out.prediction[sample], expected)


def test_masks_without_a_predictor_are_refused() -> None:
    model = JEPA(Encoder(16, depth=1, tokenizer=ImageTokenizer(8, 2)))
    with pytest.raises(ValueError, match=r"masks need a predictor .*MaskedPredictor"):
        model(torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 8), **masks_of(2))


def test_an_encoder_and_a_predictor_of_different_grids_are_refused() -> None:
    encoder = Encoder(16, depth=1, tokenizer=ImageTokenizer(8, 2))
    with pytest.raises(ValueError, match=r"grid is \(4, 4\), the predictor's \(2, 8\); build .*grid=\(4, 4\)"):
        JEPA(encoder, MaskedPredictor(16, (2, 8)))


def test_a_half_precision_model_trains_and_its_targets_embed() -> None:
    model = image_model().bfloat16()
    images, masks = torch.randn(3, 1, 8, 8).bfloat16(), masks_of(3)
    out = model(images, images, **masks)
    assert [part.dtype for part in out] == [torch.bfloat16] * 3
    out.prediction.float().square().sum().backward()
    for which in ("context", "target"):
        assert model.embed(images, which=which).shape == (3, 16)  # type: ignore[arg-type]
