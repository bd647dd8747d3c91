"""Encoders of other libraries: what is found out about them, dropping tokens, training steps, and files."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa.models import JEPA, MaskedPredictor, ModuleEncoder, Predictor, as_encoder
from jepa.objectives import IJEPA, Draw, StatePair

IMAGES = torch.rand(2, 3, 8, 8)


class Patches(nn.Module):
    """Patch embedding with the attributes that timm documents."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.img_size, self.grid_size = (8, 8), (4, 4)
        self.proj = nn.Conv2d(3, dim, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class TimmLike(nn.Module):
    """A vision transformer with timm's interface: class token, `norm_pre`, `blocks`, and a classifier as `forward`."""

    def __init__(self, dim: int = 8, blocks: nn.Module | None = None, prefix: int = 1) -> None:
        super().__init__()
        self.num_features = self.embed_dim = dim
        self.num_prefix_tokens = prefix
        self.patch_embed = Patches(dim)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.randn(1, 17, dim))
        self.norm_pre = nn.Identity()
        layer = nn.TransformerEncoderLayer(dim, 2, 16, dropout=0.1, batch_first=True, norm_first=True)
        self.blocks = blocks or nn.Sequential(layer, copy.deepcopy(layer))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 10)

    def forward_features(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), self.patch_embed(x)], dim=1)
        return self.norm(self.blocks(self.norm_pre(tokens + self.pos_embed)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x)[:, 0])


class Rolling(nn.Module):
    """Looks at neighbours in the sequence, so the order of tokens matters."""

    def forward(self, x: Tensor) -> Tensor:
        return x + x.roll(1, dims=1)


class ByPosition(nn.Module):
    """A bias for each place in the sequence, as relative positions and windows have."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(17, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


def test_a_model_with_timms_interface_gives_its_patch_tokens() -> None:
    model = TimmLike().eval()
    encoder = as_encoder(model)
    assert (encoder.hidden_dim, encoder.grid, encoder.prefix, encoder.no_masks) == (8, (4, 4), 1, "")
    assert torch.equal(encoder(IMAGES), model.forward_features(IMAGES)[:, 1:])
    assert "grid=(4, 4), masks=True" in repr(encoder)


def test_kept_tokens_are_what_the_blocks_make_of_them_alone() -> None:
    model = TimmLike().eval()
    keep = torch.tensor([[0, 5, 7], [15, 2, 3]])
    out = as_encoder(model)(IMAGES, keep=keep)
    tokens = model.patch_embed(IMAGES) + model.pos_embed[:, 1:]
    for sample in range(2):
        seen = torch.cat([(model.cls_token + model.pos_embed[:, :1])[0], tokens[sample, keep[sample]]])
        torch.testing.assert_close(out[sample], model.norm(model.blocks(seen.unsqueeze(0)))[0, 1:])
    assert not model.norm_pre._forward_hooks, "nothing stays behind"


def test_what_is_hidden_changes_nothing() -> None:
    encoder = as_encoder(TimmLike()).eval()
    keep = torch.tensor([[0, 1, 4], [0, 1, 4]])
    before = encoder(IMAGES, keep=keep)
    changed = IMAGES.clone()
    changed[:, :, 4:, 4:] += 9  # the last quarter: tokens 10, 11, 14, 15
    assert torch.equal(before, encoder(changed, keep=keep))
    assert not torch.allclose(encoder(IMAGES), encoder(changed))


def test_parameters_that_the_output_does_not_need_are_frozen_and_modes_are_kept() -> None:
    model = TimmLike()
    model.blocks.eval()
    encoder = as_encoder(model)
    assert {name for name, one in model.named_parameters() if not one.requires_grad} == {"head.weight", "head.bias"}
    assert model.training
    assert not model.blocks.training
    assert all(parameter.grad is None for parameter in model.parameters())
    encoder(IMAGES).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    frozen = as_encoder(TimmLike().requires_grad_(False))
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def masked(encoder: ModuleEncoder) -> IJEPA:
    assert encoder.grid is not None
    return IJEPA(JEPA(encoder, MaskedPredictor(encoder.hidden_dim, encoder.grid, depth=1)), min_keep=2)


def train(objective: Any, batch: Any) -> None:
    weights = {name: torch.tensor(spec.default) for name, spec in objective.hyper_parameters.items()}
    losses = objective(objective.views(batch, Draw(0, 0)), weights)
    losses.loss.backward()
    assert torch.isfinite(losses.loss)
    for name, parameter in objective.model.encoder.named_parameters():
        assert not parameter.requires_grad or parameter.grad is not None, name


def test_it_trains_with_masks() -> None:
    train(masked(as_encoder(TimmLike())), IMAGES)
    model = IJEPA.model_for(as_encoder(TimmLike()))
    assert isinstance(model.predictor, MaskedPredictor)
    assert model.predictor.grid == (4, 4)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (TimmLike(blocks=Rolling()), "the blocks of TimmLike depend on the order of its tokens"),
        (TimmLike(blocks=ByPosition()), "TimmLike fails when tokens are hidden from it"),
        (nn.Sequential(nn.Conv2d(3, 8, 2, 2)), "Sequential mixes neighbours before any token could be hidden"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 8)), "Sequential gives one vector an input"),
        (nn.Sequential(Patches(8)), "the token grid of Sequential is not known: pass as_encoder"),
    ],
)
def test_where_tokens_cannot_be_hidden_masks_are_refused_with_the_reason_and_what_works(
    model: nn.Module, why: str
) -> None:
    encoder = as_encoder(model, IMAGES)
    for refuse in (lambda: IJEPA(JEPA(encoder, MaskedPredictor(8, (4, 4)))), lambda: IJEPA.model_for(encoder)):
        with pytest.raises(ValueError, match=f"{why}.*'lejepa', 'vicreg' or 'state_pair'"):
            refuse()
    with pytest.raises(ValueError, match=why):
        encoder(IMAGES, keep=torch.zeros(2, 3, dtype=torch.int64))
    train(StatePair(JEPA(encoder, Predictor(8, depth=1))), (IMAGES, IMAGES))


def test_a_grid_makes_tokens_of_any_module_but_not_a_place_to_drop_them() -> None:
    encoder = as_encoder(nn.Sequential(Patches(8)), IMAGES, grid=(4, 4))
    assert encoder.grid == (4, 4)
    assert "has no part called norm_pre or embeddings" in encoder.no_masks
    with pytest.raises(ValueError, match=r"grid=\(5, 4\) has 20 tokens, but Sequential returns 16"):
        as_encoder(nn.Sequential(Patches(8)), IMAGES, grid=(5, 4))
    with pytest.raises(ValueError, match=r"has 15 tokens, but TimmLike returns 17, 1 of them in front"):
        as_encoder(TimmLike(), grid=(5, 3))


@pytest.mark.parametrize("last", [False, True])
def test_feature_maps_become_tokens_row_by_row(last: bool) -> None:
    class Maps(nn.Module):
        output_fmt = "NHWC" if last else "NCHW"

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 4, 4)

        def forward(self, x: Tensor) -> Tensor:
            maps = self.conv(x)
            return maps.permute(0, 2, 3, 1) if last else maps

    model = Maps()
    x = torch.rand(2, 3, 8, 12)
    encoder = as_encoder(model, x)
    maps = model.conv(x)
    assert (encoder.hidden_dim, encoder.grid) == (6, (2, 3))
    torch.testing.assert_close(encoder(x)[:, 4], maps[:, :, 1, 1])
    torch.testing.assert_close(as_encoder(model, x, output="vector")(x), maps.mean((2, 3)))
    with pytest.raises(ValueError, match=r"returns maps of \(2, 3\), not of grid=\(3, 2\)"):
        as_encoder(model, x, grid=(3, 2))


def test_the_output_is_what_was_decided_at_construction() -> None:
    model = TimmLike().eval()
    vector = as_encoder(model, output="vector")
    assert vector.grid is None
    torch.testing.assert_close(vector(IMAGES), model.forward_features(IMAGES)[:, 1:].mean(1))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    assert as_encoder(flat, IMAGES)(IMAGES).shape == (2, 5)
    assert as_encoder(flat, IMAGES).hidden_dim == 5
    with pytest.raises(ValueError, match=r"returns \(2, 5\), one vector an input: use output='vector'"):
        as_encoder(flat, IMAGES, output="tokens")
    with pytest.raises(ValueError, match="output must be one of 'auto', 'tokens', 'vector', got 'token'"):
        as_encoder(flat, IMAGES, output="token")  # type: ignore[arg-type]


def test_the_size_of_an_example_is_read_where_timm_keeps_it() -> None:
    class Convolutional(nn.Module):
        pretrained_cfg = {"input_size": (3, 8, 16)}

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 4, 4)

        def forward_features(self, x: Tensor) -> Tensor:
            return F.relu(self.conv(x))

    assert as_encoder(Convolutional()).grid == (2, 4)
    with pytest.raises(ValueError, match="Linear does not say how large its inputs are: pass an example"):
        as_encoder(nn.Linear(3, 4))


def test_outputs_that_are_no_embeddings_are_errors() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return x, x

    with pytest.raises(TypeError, match="Pair returned a tuple; an encoder returns a tensor, or an object with last"):
        as_encoder(Pair(), IMAGES)
    with pytest.raises(ValueError, match=r"Identity returns \(2, 3, 8, 8, 1\); an encoder returns \(B, D\)"):
        as_encoder(nn.Identity(), IMAGES.unsqueeze(-1))


def test_an_input_of_another_size_is_an_error_when_tokens_are_dropped() -> None:
    encoder = as_encoder(TimmLike())
    encoder.module.pos_embed = nn.Parameter(torch.randn(1, 5, 8))
    with pytest.raises(ValueError, match=r"expected 17 tokens of 'norm_pre', got \(2, 5, 8\)"):
        encoder(IMAGES[..., :4, :4], keep=torch.zeros(2, 3, dtype=torch.int64))


def test_files_ask_for_the_module_and_restore_its_weights(tmp_path: Path) -> None:
    model = JEPA(as_encoder(TimmLike()), MaskedPredictor(8, (4, 4), depth=1)).eval()
    folder = model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"modules of your own; build and pass them: .*encoder=\.\.\."):
        JEPA.from_pretrained(folder)
    restored = JEPA.from_pretrained(folder, encoder=as_encoder(TimmLike())).eval()
    assert torch.equal(restored.encoder(IMAGES), model.encoder(IMAGES))
    assert torch.equal(restored.target.encoder(IMAGES), model.target.encoder(IMAGES))


SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 8,
    "patch_size": 2,
    "num_channels": 3,
}


@pytest.fixture(scope="module")
def transformers() -> Any:
    return pytest.importorskip("transformers")


@pytest.mark.parametrize(
    ("name", "prefix", "unused"),
    [
        ("ViT", 1, {"pooler.dense.weight", "pooler.dense.bias"}),
        ("IJepa", 0, set()),
        ("Dinov2", 1, {"embeddings.mask_token"}),
        ("Dinov2WithRegisters", 5, {"embeddings.mask_token"}),
    ],
)
def test_vision_models_of_transformers_train_with_masks(
    transformers: Any, name: str, prefix: int, unused: set[str]
) -> None:
    model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**SMALL)).eval()
    encoder = as_encoder(model)
    assert (encoder.hidden_dim, encoder.grid, encoder.prefix, encoder.no_masks) == (16, (4, 4), prefix, "")
    assert {key for key, parameter in model.named_parameters() if not parameter.requires_grad} == unused
    hidden = model(pixel_values=IMAGES).last_hidden_state
    assert torch.equal(encoder(IMAGES), hidden[:, prefix:])
    train(masked(encoder), IMAGES)


def test_rotary_and_convolutional_models_of_transformers_say_why_they_take_no_masks(transformers: Any) -> None:
    rotary = as_encoder(transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**SMALL)))
    assert rotary.grid == (4, 4)
    assert "DINOv3ViTModel fails when tokens are hidden from it" in rotary.no_masks
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1])
    encoder = as_encoder(transformers.ResNetModel(config), torch.rand(2, 3, 32, 32))
    assert (encoder.hidden_dim, encoder.grid) == (8, (4, 4))
    assert "mixes neighbours" in encoder.no_masks
