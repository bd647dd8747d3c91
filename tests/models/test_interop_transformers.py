"""Models of transformers, built here at random, against ours: outputs first, then what cannot be read or written."""

from __future__ import annotations

import builtins
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from jepa.models import JEPA, Encoder, ImageTokenizer, MaskedPredictor, MLPPredictor, SeriesTokenizer, VideoTokenizer
from jepa.models.interop import LayoutError, from_transformers, parity, to_transformers

transformers = pytest.importorskip("transformers")

IMAGES: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 60,
    "image_size": 12,
    "patch_size": 4,
    "layer_norm_eps": 1e-6,
}
VIDEOS: dict[str, Any] = {
    "hidden_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_ratio": 48 / 11,
    "crop_size": 12,
    "patch_size": 4,
    "frames_per_clip": 6,
    "pred_hidden_size": 28,
    "pred_num_attention_heads": 2,
    "pred_num_hidden_layers": 3,
    "pred_num_mask_tokens": 3,
    "pred_mlp_ratio": 3.0,
}


def randomized(model: nn.Module) -> Any:
    """Weights large enough that every one of them shows in the output."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return model.eval()


def image_model(**changes: Any) -> Any:
    return randomized(transformers.IJepaModel(transformers.IJepaConfig(**{**IMAGES, **changes})))


def video_model(**changes: Any) -> Any:
    return randomized(transformers.VJEPA2Model(transformers.VJEPA2Config(**{**VIDEOS, **changes})))


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ijepa")
    image_model().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def video_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vjepa2")
    video_model().save_pretrained(folder)
    return folder


@pytest.fixture
def broken(image_folder: Path, tmp_path: Path) -> Path:
    """A copy of the folder of an IJepaModel, to be damaged."""
    return Path(shutil.copytree(image_folder, tmp_path / "broken"))


def masks(count: int = 27) -> tuple[torch.Tensor, torch.Tensor]:
    order = torch.stack([torch.randperm(count, generator=torch.Generator().manual_seed(seed)) for seed in range(2)])
    return order[:, :9], order[:, 9:15]


def test_an_image_model_in_memory_and_its_folder_give_the_same_outputs_here(image_folder: Path) -> None:
    theirs, x = image_model(), torch.randn(2, 3, 12, 12)
    for source in (theirs, image_folder, str(image_folder)):
        assert parity(from_transformers(source), theirs, x).max_error < 1e-5
    encoder = from_transformers(image_folder)
    assert encoder.positions.kind == "table"
    assert encoder.tokenizer is not None
    assert encoder.tokenizer.grid == (3, 3)


def test_a_video_model_in_memory_and_its_folder_give_the_same_embeddings_and_predictions(video_folder: Path) -> None:
    theirs, x = video_model(), torch.randn(2, 3, 6, 12, 12)
    for source in (theirs, video_folder):
        model = from_transformers(source, "jepa")
        found = parity(model, theirs, (x, *masks()))
        assert set(found.errors) == {"encoder", "predictor"}
        assert found.max_error < 1e-5
        assert parity(from_transformers(source), theirs, x).max_error < 1e-5


@pytest.mark.parametrize("changes", [{}, {"num_attention_heads": 4}, {"tubelet_size": 3}, {"pred_num_mask_tokens": 1}])
def test_video_sizes_are_read_from_the_weights_and_the_configuration(changes: dict[str, Any]) -> None:
    theirs = video_model(**changes)
    steps = 6 // changes.get("tubelet_size", 2)
    x = torch.randn(2, 3, 6, 12, 12)
    assert parity(from_transformers(theirs, "jepa"), theirs, (x, *masks(9 * steps))).max_error < 1e-5


def test_heads_that_rotations_do_not_fill_and_other_sizes_of_clips_agree_too() -> None:
    theirs = video_model()  # heads of 20 and 14 features: 18 and 12 are turned
    x = torch.randn(1, 3, 4, 12, 12)  # fewer frames; their positions do not depend on the number
    assert parity(from_transformers(theirs, num_frames=4), theirs, x).max_error < 1e-5


def test_the_predictor_alone_is_that_of_the_whole(video_folder: Path) -> None:
    predictor, model = from_transformers(video_folder, "predictor"), from_transformers(video_folder, "jepa")
    assert isinstance(model.predictor, MaskedPredictor)
    assert all(torch.equal(a, b) for a, b in zip(predictor.parameters(), model.predictor.parameters(), strict=True))
    assert predictor.num_mask_tokens == 3
    assert all(
        torch.equal(a, b) for a, b in zip(model.encoder.parameters(), model.target.encoder.parameters(), strict=True)
    )


def image_encoder(**options: Any) -> Encoder:
    tokenizer = ImageTokenizer(options.pop("image_size", 12), 4, channels=3)
    return randomized(Encoder(24, depth=2, num_heads=4, tokenizer=tokenizer, **options))


def video_encoder(**options: Any) -> Encoder:
    tokenizer = VideoTokenizer(6, options.pop("image_size", 12), 4)
    return randomized(Encoder(24, depth=2, num_heads=2, tokenizer=tokenizer, **{"positions": "rotary", **options}))


@pytest.mark.parametrize("positions", ["sincos", "table"])
def test_our_image_encoder_computes_the_same_in_transformers_and_survives_its_files(
    positions: str, tmp_path: Path
) -> None:
    encoder = image_encoder(positions=positions, mlp_ratio=48 / 11)
    theirs = to_transformers(encoder)
    assert type(theirs).__name__ == "IJepaModel"
    assert theirs.config.layer_norm_eps == 1e-6
    x = torch.randn(2, 3, 12, 12)
    assert parity(encoder, theirs, x).max_error < 1e-5
    theirs.save_pretrained(tmp_path)
    reloaded = transformers.IJepaModel.from_pretrained(tmp_path).eval()
    assert torch.equal(reloaded(x).last_hidden_state, theirs(x).last_hidden_state)
    back = from_transformers(tmp_path)
    assert torch.equal(back(x), encoder(x))
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), encoder.parameters(), strict=True))


def test_images_that_are_not_square_are_exported_with_both_sides() -> None:
    encoder = image_encoder(image_size=(8, 16))
    theirs = to_transformers(encoder)
    assert list(theirs.config.image_size) == [8, 16]
    x = torch.randn(2, 3, 8, 16)
    assert parity(encoder, theirs, x).max_error < 1e-5
    assert parity(from_transformers(theirs), theirs, x).max_error < 1e-5


@pytest.mark.parametrize("which", ["encoder", "target_encoder"])
def test_our_video_model_computes_the_same_in_transformers_and_survives_its_files(which: Any, tmp_path: Path) -> None:
    predictor = MaskedPredictor(24, (3, 3, 3), predictor_dim=12, num_heads=2, num_mask_tokens=2, positions="rotary")
    model = JEPA(video_encoder(), randomized(predictor))
    randomized(model.target.encoder).embed.weight.data += 0.1
    theirs = to_transformers(model, which)
    theirs.save_pretrained(tmp_path)
    reloaded = transformers.VJEPA2Model.from_pretrained(tmp_path).eval()
    chosen = JEPA(model.encoder if which == "encoder" else model.target.encoder, predictor)
    example = (torch.randn(2, 3, 6, 12, 12), *masks())
    assert parity(chosen, theirs, example).max_error < 1e-5
    assert parity(chosen, reloaded, example).max_error < 1e-5
    back = from_transformers(tmp_path, "jepa")
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), chosen.parameters(), strict=True))


def test_a_bare_video_encoder_gets_a_predictor_that_predicts_zeros(tmp_path: Path) -> None:
    encoder = video_encoder()
    theirs = to_transformers(encoder)
    x = torch.randn(1, 3, 6, 12, 12)
    assert parity(encoder, theirs, x).max_error < 1e-5
    assert theirs(x.transpose(1, 2)).predictor_output.last_hidden_state.abs().max() == 0
    theirs.save_pretrained(tmp_path)
    assert parity(from_transformers(tmp_path), theirs, x).max_error < 1e-5


def test_weights_keep_their_precision_on_the_way_out() -> None:
    encoder = image_encoder().bfloat16()
    theirs = to_transformers(encoder)
    assert {parameter.dtype for parameter in theirs.parameters()} == {torch.bfloat16}
    assert torch.equal(from_transformers(theirs).embed.weight, encoder.embed.weight.float())


def test_models_for_classification_lose_their_head_only() -> None:
    images = randomized(transformers.IJepaForImageClassification(transformers.IJepaConfig(**IMAGES)))
    assert parity(from_transformers(images), images.ijepa, torch.randn(2, 3, 12, 12)).max_error < 1e-5
    small = {"num_pooler_layers": 1, **VIDEOS}
    videos = randomized(transformers.VJEPA2ForVideoClassification(transformers.VJEPA2Config(**small)))
    assert parity(from_transformers(videos), videos.vjepa2, torch.randn(1, 3, 6, 12, 12)).max_error < 1e-5


def test_another_image_size_interpolates_positions_as_transformers_does() -> None:
    theirs = image_model()
    encoder = from_transformers(theirs, image_size=(16, 20))
    x = torch.randn(2, 3, 16, 20)
    assert parity(encoder, lambda x: theirs(x, interpolate_pos_encoding=True), x).max_error < 1e-5


def test_a_folder_in_shards_is_read_whole(broken: Path) -> None:
    tensors = load_file(broken / "model.safetensors")
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, part in shards.items():
        save_file({name: tensors[name] for name in part}, broken / shard)
    (broken / "model.safetensors").unlink()
    index = {"weight_map": {name: shard for shard, part in shards.items() for name in part}}
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    assert parity(from_transformers(broken), image_model(), torch.randn(1, 3, 12, 12)).max_error < 1e-5
    index["weight_map"][names[0]] = "../elsewhere.safetensors"
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"names '\.\./elsewhere.safetensors'; shards must lie in the folder itself"):
        from_transformers(broken)
    index["weight_map"][names[0]] = "c.safetensors"
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FileNotFoundError, match=r"no weights at .*c.safetensors"):
        from_transformers(broken)


def test_missing_and_unexpected_weights_are_listed_and_nothing_is_loaded(broken: Path) -> None:
    tensors = load_file(broken / "model.safetensors")
    tensors["layernrom.bias"] = tensors.pop("layernorm.bias")
    del tensors["encoder.layer.1.attention.attention.key.weight"]
    tensors["encoder.layer.0.output.dense.weight"] = torch.zeros(24, 61)
    save_file(tensors, broken / "model.safetensors")
    with pytest.raises(
        LayoutError, match=r"does not fit our Encoder, nothing was loaded. 2 missing: .*norm.bias"
    ) as caught:
        from_transformers(broken)
    error = caught.value
    assert set(error.missing) == {"norm.bias", "blocks.1.attn.qkv.weight"}
    assert set(error.unexpected) == {"layernrom.bias", "blocks.1.attn.q.weight", "blocks.1.attn.v.weight"}
    assert error.misshapen == (("blocks.0.mlp.fc2.weight", (24, 61), (24, 60)),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_norm_eps": 1e-12}, r"configured with layer_norm_eps=1e-12, but our encoders .* have 1e-06"),
        ({"hidden_act": "relu"}, "configured with hidden_act='relu'"),
        ({"qkv_bias": False}, "configured with qkv_bias=False"),
        ({"model_type": "vit"}, "is of type 'vit'; these can be read: 'ijepa', 'vjepa2'"),
        ({"image_size": 13}, r"inputs of size \(13, 13\) cannot be cut into patches of \(4, 4\)"),
        ({"image_size": 16}, r"positions.table \(9, 24\) instead of \(16, 24\)"),
        ({"num_attention_heads": 5}, "num_heads=5 must divide the width 24"),
        ({"num_attention_heads": None}, "does not say num_attention_heads"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(change: dict[str, Any], message: str, broken: Path) -> None:
    config = {**json.loads((broken / "config.json").read_text()), **change}
    (broken / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    with pytest.raises(ValueError, match=message):
        from_transformers(broken)


def test_folders_that_are_missing_or_damaged_are_errors_that_say_so(broken: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder facebook/ijepa_vith14_1k .*nothing is downloaded here"):
        from_transformers("facebook/ijepa_vith14_1k")
    weights = broken / "model.safetensors"
    for content in (weights.read_bytes()[:-5], b"\xff" * 64, b""):
        weights.write_bytes(content)
        with pytest.raises(ValueError, match="truncated or damaged"):
            from_transformers(broken)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"no weights at .*model.safetensors"):
        from_transformers(broken)
    for text, message in (("{", "not valid JSON"), ("[]", "must hold a JSON object")):
        (broken / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            from_transformers(broken)
    (broken / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config.json is missing"):
        from_transformers(broken)


def test_arguments_that_make_no_sense_are_refused(image_folder: Path, video_folder: Path) -> None:
    with pytest.raises(ValueError, match="which must be one of 'encoder', 'predictor', 'jepa', got 'target'"):
        from_transformers(image_folder, "target")  # type: ignore[call-overload]
    for which in ("predictor", "jepa"):
        with pytest.raises(ValueError, match="is an IJepaModel, which has no predictor"):
            from_transformers(image_folder, which)
    with pytest.raises(ValueError, match="num_frames=8 is for videos"):
        from_transformers(image_folder, num_frames=8)
    with pytest.raises(ValueError, match="expected a model of transformers or its folder, got a Linear"):
        from_transformers(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"inputs of size \(5, 12, 12\) cannot be cut into patches of \(2, 4, 4\)"):
        from_transformers(video_folder, num_frames=5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: image_encoder(positions="rotary"), "an IJepaModel adds positions"),
        (lambda: image_encoder(registers=2), "no other layout has registers, and this encoder has 2"),
        (lambda: video_encoder(positions="sincos"), "rotary positions throughout, got positions='sincos'"),
        (lambda: video_encoder(image_size=(8, 12)), "takes square clips, got an encoder of 8 x 12 pixels"),
        (lambda: Encoder(8, depth=1, tokenizer=SeriesTokenizer(8, 2)), "encoders of images and videos only"),
        (lambda: Encoder(8, depth=1), "encoders of images and videos only, got tokenizer=None"),
        (lambda: nn.Linear(2, 2), "the built-in Encoder only, got Linear"),
        (lambda: JEPA(image_encoder()), "which encoder of the JEPA"),
    ],
)
def test_models_without_a_counterpart_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_transformers(make())


def test_a_jepa_of_images_leaves_its_predictor_behind_and_other_predictors_of_videos_are_refused() -> None:
    model = JEPA(image_encoder(), MaskedPredictor(24, (3, 3)))
    assert parity(model.encoder, to_transformers(model, "encoder"), torch.randn(1, 3, 12, 12)).max_error < 1e-5
    with pytest.raises(ValueError, match="leave it out"):
        to_transformers(model.encoder, "encoder")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no counterpart for a MLPPredictor; export the encoder"):
        to_transformers(JEPA(video_encoder(), MLPPredictor(24)), "encoder")
    tables = MaskedPredictor(24, (3, 3, 3), positions="sincos")
    with pytest.raises(ValueError, match="got positions='rotary' and 'sincos'"):
        to_transformers(JEPA(video_encoder(), tables), "encoder")


def test_without_transformers_the_extra_is_named_and_folders_can_still_be_read(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "transformers":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r"pip install 'jepa-lab\[interop\]'"):
        to_transformers(image_encoder())
    assert from_transformers(image_folder).hidden_dim == 24


def test_differences_are_reported_in_numbers_and_raise(image_folder: Path) -> None:
    encoder, theirs, x = from_transformers(image_folder), image_model(), torch.randn(2, 3, 12, 12)
    encoder.train()
    found = parity(encoder, theirs, x)
    assert encoder.training
    assert not theirs.training
    assert found.tolerance == 1e-5
    assert found.scale == pytest.approx(theirs(x).last_hidden_state.abs().max().item())
    encoder.norm.bias.data[0] += 0.25
    with pytest.raises(ValueError, match=r"no parity: largest absolute difference 0.25 in output, allowed 1e-05"):
        parity(encoder, theirs, x)
    assert parity(encoder, theirs, x, tolerance=0.3).errors["output"] == pytest.approx(0.25, abs=1e-5)
    encoder.norm.bias.data[0] = float("nan")
    with pytest.raises(ValueError, match="difference nan in output"):
        parity(encoder, theirs, x, tolerance=1e9)
    with pytest.raises(ValueError, match=r"output is \(2, 9, 24\), the original's \(2, 24\)"):
        parity(encoder, lambda x: theirs(x).last_hidden_state.mean(dim=1), x)
    with pytest.raises(ValueError, match="is compared with a VJEPA2Model"):
        parity(JEPA(encoder, MaskedPredictor(24, (3, 3))), theirs, x)
