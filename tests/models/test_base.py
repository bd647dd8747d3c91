"""Saving and rebuilding models: round trips, and files that are damaged, foreign or incomplete."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jepa.models import JEPA, BaseModel, Encoder, ImageTokenizer, MaskedPredictor, Predictor, SeriesTokenizer, Tokenizer
from jepa.models.base import build, describe, register


class Net(nn.Module):
    """A module of a user's own."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.linear = nn.Linear(3, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class Halves(Tokenizer):
    """A tokenizer of a user's own."""

    input_shape, grid, token_dim = (6,), (2,), 3

    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), 2, 3)


MODELS: dict[str, Any] = {
    "encoder": lambda: Encoder(8, 3, depth=1, num_heads=2, mlp_ratio=2.0),
    "image encoder": lambda: Encoder(8, depth=1, tokenizer=ImageTokenizer((4, 6), 2, 3)),
    "series encoder": lambda: Encoder(8, depth=1, tokenizer=SeriesTokenizer(12, 4, 2)),
    "predictor": lambda: Predictor(8, depth=1, num_heads=2, mlp_ratio=3.0),
    "masked predictor": lambda: MaskedPredictor(8, (2, 3), predictor_dim=6, depth=1, num_heads=3),
}
INPUTS: dict[str, tuple[int, ...]] = {
    "encoder": (4, 3),
    "image encoder": (4, 3, 4, 6),
    "series encoder": (4, 2, 12),
    "predictor": (4, 5, 8),
    "masked predictor": (4, 2, 8),
}


def same_state(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_comes_back_with_its_arguments_weights_and_outputs(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    assert model.save_pretrained(tmp_path / "made" / "here") == tmp_path / "made" / "here"
    restored = type(model).from_pretrained(str(tmp_path / "made" / "here"))
    masks = (torch.tensor([[0, 1]] * 4), torch.tensor([[2]] * 4)) if name == "masked predictor" else ()
    x = torch.randn(INPUTS[name])
    assert restored.config() == model.config()
    assert same_state(model, restored)
    assert torch.equal(model(x, *masks), restored(x, *masks))


@pytest.mark.parametrize("kind", ["ema", "stop_gradient", "shared"])
def test_a_jepa_comes_back_with_every_kind_of_target(kind: str, tmp_path: Path) -> None:
    model = JEPA(Encoder(8, 3, depth=1), Predictor(8, depth=1), target=kind)
    model.encoder.embed.weight.data.normal_()
    model.target.update(0.3)
    model.save_pretrained(tmp_path)
    restored = JEPA.from_pretrained(tmp_path)
    assert restored.target.kind == kind
    assert same_state(model, restored)
    x = torch.randn(4, 3)
    for which in ("context", "target"):
        assert torch.equal(model.embed(x, which=which), restored.embed(x, which=which))
    prefixes = {name.split(".")[0] for name in load_file(tmp_path / "model.safetensors")}
    assert prefixes == {"encoder", "predictor"} | ({"target"} if kind == "ema" else set())
    restored.target.update(0.0)
    assert torch.equal(restored.embed(x, which="target"), restored.embed(x))


@pytest.mark.parametrize("kind", ["ema", "stop_gradient", "shared"])
def test_modules_of_the_user_are_passed_again_copied_and_get_the_saved_weights(kind: str, tmp_path: Path) -> None:
    model = JEPA(Net(), nn.Linear(8, 8), target=kind)
    model.save_pretrained(tmp_path)
    fresh = Net()
    kept = fresh.linear.weight.clone()
    restored = JEPA.from_pretrained(tmp_path, encoder=fresh, predictor=nn.Linear(8, 8))
    assert same_state(model, restored)
    assert restored.encoder is not fresh
    assert torch.equal(fresh.linear.weight, kept)


def test_the_documented_call_restores_a_model_from_its_own_live_parts(tmp_path: Path) -> None:
    encoder, predictor = Encoder(hidden_dim=8, depth=1), Predictor(hidden_dim=8, depth=1)
    model = JEPA(encoder=encoder, predictor=predictor)
    model.save_pretrained(tmp_path)
    trained_on = encoder.embed.weight.data.normal_().clone()
    restored = JEPA.from_pretrained(tmp_path, encoder=encoder, predictor=predictor)
    restored.eval()
    assert torch.equal(encoder.embed.weight, trained_on)
    assert not torch.equal(restored.encoder.embed.weight, trained_on)


def test_what_passed_modules_share_stays_shared(tmp_path: Path) -> None:
    part = nn.Linear(4, 4)
    model = JEPA(part, nn.Sequential(part), target="shared")
    model.save_pretrained(tmp_path)
    assert sorted(load_file(tmp_path / "model.safetensors")) == ["encoder.bias", "encoder.weight"]
    fresh = nn.Linear(4, 4)
    restored = JEPA.from_pretrained(tmp_path, encoder=fresh, predictor=nn.Sequential(fresh))
    assert restored.predictor[0] is restored.encoder
    assert torch.equal(restored.encoder.weight, part.weight)


def test_a_module_that_must_be_passed_is_named(tmp_path: Path) -> None:
    JEPA(Net(), Predictor(8, depth=1)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"JEPA.from_pretrained\(path, encoder=\.\.\.\)"):
        JEPA.from_pretrained(tmp_path)
    JEPA(Net(), nn.Linear(8, 8)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"from_pretrained\(path, encoder=\.\.\., predictor=\.\.\.\)"):
        JEPA.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"from_pretrained\(path, predictor=\.\.\.\)"):
        JEPA.from_pretrained(tmp_path, encoder=Net())


def test_a_tokenizer_of_the_user_is_asked_for_and_never_dropped(tmp_path: Path) -> None:
    encoder = Encoder(8, depth=1, tokenizer=Halves())
    assert describe(encoder) is None
    encoder.save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match=r"Encoder.from_pretrained\(path, tokenizer=\.\.\.\)"):
        Encoder.from_pretrained(tmp_path / "encoder")
    restored = Encoder.from_pretrained(tmp_path / "encoder", tokenizer=Halves())
    x = torch.randn(4, 6)
    assert torch.equal(encoder(x), restored(x))
    JEPA(encoder, Predictor(8, depth=1)).save_pretrained(tmp_path / "jepa")
    with pytest.raises(ValueError, match=r"JEPA.from_pretrained\(path, encoder=\.\.\.\)"):
        JEPA.from_pretrained(tmp_path / "jepa")


class Tied(BaseModel):
    """Two layers with one weight."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.width = width
        self.first, self.second = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.second.weight = self.first.weight

    def config(self) -> dict[str, Any]:
        return {"width": self.width}


def test_shared_tensors_are_saved_once_and_stay_shared(tmp_path: Path) -> None:
    model = Tied()
    model.save_pretrained(tmp_path)
    assert list(load_file(tmp_path / "model.safetensors")) == ["first.weight"]
    restored = Tied.from_pretrained(tmp_path)
    assert restored.second.weight is restored.first.weight
    assert torch.equal(restored.second.weight, model.first.weight)


def test_saving_again_replaces_the_files_and_leaves_nothing_else(tmp_path: Path) -> None:
    Encoder(8, 3, depth=2).save_pretrained(tmp_path)
    model = Encoder(16, 3, depth=1)
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert same_state(Encoder.from_pretrained(tmp_path), model)


@pytest.mark.parametrize("name", MODELS)
def test_a_float64_model_comes_back_without_losing_a_digit(name: str, tmp_path: Path) -> None:
    model = MODELS[name]().double()
    restored = type(model).from_pretrained(model.save_pretrained(tmp_path))
    assert {p.dtype for p in restored.parameters()} == {torch.float64}
    assert same_state(model, restored)


def test_saved_weights_load_into_float32_models_from_any_precision_and_layout(tmp_path: Path) -> None:
    model = Encoder(8, 3, depth=1).bfloat16()
    model.embed.weight.data = torch.randn(3, 8, dtype=torch.bfloat16).T  # not contiguous
    model.save_pretrained(tmp_path)
    assert torch.equal(Encoder.from_pretrained(tmp_path).embed.weight, model.embed.weight.float())


def test_saving_into_a_file_is_refused_and_leaves_it_alone(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    file.write_text("precious")
    with pytest.raises(NotADirectoryError, match=r"writes a folder, but .*model.pt is a file; choose another path"):
        Encoder(8, depth=1).save_pretrained(file)
    assert file.read_text() == "precious"


@pytest.mark.parametrize("keep", [0, 5, 8, 100, -1])
def test_truncated_weights_are_an_error_that_says_so(keep: int, tmp_path: Path) -> None:
    Encoder(8, 3, depth=1).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model.safetensors is truncated or damaged \(.*\); save or copy it again"):
        Encoder.from_pretrained(tmp_path)


def test_weights_that_are_no_safetensors_are_an_error_that_says_so(tmp_path: Path) -> None:
    Encoder(8, 3, depth=1).save_pretrained(tmp_path)
    torch.save({"a": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="truncated or damaged"):
        Encoder.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", [b"", b'{"type": "Enc', b"\xff\xfe\x00", b"{'type': 1}"])
def test_damaged_json_is_an_error_that_says_so(content: bytes, tmp_path: Path) -> None:
    Encoder(8, 3, depth=1).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config.json is not valid JSON \(.*\); save or copy it again"):
        Encoder.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", ["[1, 2]", "null", '"Encoder"', "3"])
def test_json_that_is_no_object_is_an_error_that_says_so(content: str, tmp_path: Path) -> None:
    Encoder(8, 3, depth=1).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config.json must hold a JSON object"):
        Encoder.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "change", [{"width": 3}, {"hidden_dim": "eight"}, {"hidden_dim": None}, {"tokenizer": {"type": "ImageTokenizer"}}]
)
def test_arguments_that_do_not_fit_are_an_error_that_names_the_model(change: dict[str, Any], tmp_path: Path) -> None:
    Encoder(8, 3, depth=1).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=r"arguments of (Encoder|ImageTokenizer) do not fit"):
        Encoder.from_pretrained(tmp_path)


def test_a_missing_argument_is_an_error_that_names_it(tmp_path: Path) -> None:
    Encoder(8, 3, depth=1).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"type": "Encoder", "depth": 1}')
    with pytest.raises(ValueError, match=r"arguments of Encoder do not fit.*hidden_dim"):
        Encoder.from_pretrained(tmp_path)


def test_an_unknown_keyword_is_an_error_that_names_it(tmp_path: Path) -> None:
    Encoder(8, 3, depth=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"arguments of Encoder do not fit.*encodr"):
        Encoder.from_pretrained(tmp_path, encodr=nn.Linear(2, 2))


def test_missing_files_are_errors_that_name_the_place(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no model at .*nowhere: config.json is missing \(looked from "):
        Encoder.from_pretrained(tmp_path / "nowhere")
    Encoder(8, depth=1).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no weights at .*model.safetensors"):
        Encoder.from_pretrained(tmp_path)


def test_a_model_of_another_class_is_refused(tmp_path: Path) -> None:
    Encoder(8, depth=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a Encoder, not a Predictor"):
        Predictor.from_pretrained(tmp_path)


def test_wrong_shapes_are_listed_with_both_sizes_and_nothing_is_loaded(tmp_path: Path) -> None:
    JEPA(Net(8), nn.Linear(8, 8)).save_pretrained(tmp_path)
    message = r"does not fit this JEPA: .*encoder.linear.weight is \(8, 3\), the model has \(6, 3\)"
    with pytest.raises(ValueError, match=message):
        JEPA.from_pretrained(tmp_path, encoder=Net(6), predictor=nn.Linear(6, 6))


def test_missing_and_unexpected_tensors_are_listed_and_long_lists_cut(tmp_path: Path) -> None:
    model = Encoder(8, 3, depth=1)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["embed.wieght"] = tensors.pop("embed.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing embed.weight; unexpected embed.wieght$"):
        Encoder.from_pretrained(tmp_path)
    Encoder(8, 3, depth=3).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"type": "Encoder", "hidden_dim": 8, "input_dim": 3, "depth": 1}))
    with pytest.raises(ValueError, match=r"and \d+ more$"):
        Encoder.from_pretrained(tmp_path)


def test_only_registered_names_are_built_and_the_nearest_is_named() -> None:
    with pytest.raises(ValueError, match="unknown architecture 'Encodr'; did you mean 'Encoder'"):
        build({"type": "Encodr", "hidden_dim": 8})
    with pytest.raises(ValueError, match=r"unknown architecture 'os.system'; known: .*Encoder, .*JEPA, "):
        build({"type": "os.system"})
    with pytest.raises(ValueError, match="unknown architecture None"):
        build({})
    with pytest.raises(ValueError, match="arguments of Predictor do not fit"):
        build({"type": "Predictor", "hidden_dim": 8, "widht": 3})


def test_a_description_holds_nested_modules_and_survives_json() -> None:
    model = JEPA(Encoder(8, depth=1, tokenizer=ImageTokenizer(4, 2)), MaskedPredictor(8, (2, 2)), "stop_gradient")
    spec = describe(model)
    assert spec is not None
    rebuilt = build(json.loads(json.dumps(spec)))
    assert isinstance(rebuilt, JEPA)
    assert describe(rebuilt) == spec
    assert describe(nn.Linear(2, 2)) is None
    assert describe(JEPA(Net(), Predictor(8))) is None


def test_a_subclass_is_not_taken_for_the_registered_class_of_its_name() -> None:
    own = type("Encoder", (Encoder,), {})
    assert describe(own(8, depth=1)) is None


def test_a_registered_model_of_the_user_is_rebuilt_by_name(tmp_path: Path) -> None:
    name = "RegisteredByATest"
    cls = register(type(name, (Tied,), {}))
    JEPA(cls(3), nn.Linear(3, 3)).save_pretrained(tmp_path)
    assert isinstance(JEPA.from_pretrained(tmp_path, predictor=nn.Linear(3, 3)).encoder, cls)


def test_a_model_without_config_cannot_be_saved_and_says_how(tmp_path: Path) -> None:
    own = type("Own", (BaseModel,), {})
    with pytest.raises(NotImplementedError, match=re.escape("Own must define config() to be saved")):
        own().save_pretrained(tmp_path / "own")
    assert list(tmp_path.iterdir()) == []
