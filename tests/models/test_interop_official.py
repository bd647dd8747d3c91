"""Files in the official layouts, written here, against encoders and predictors computed anew from the state dicts.

The reference computes in float64 from the state dicts themselves: convolution, explicit softmax, rotations feature by
feature. Axes: B batch, N tokens, D features.
"""

from __future__ import annotations

import math
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from jepa.models import JEPA, Encoder, ImageTokenizer, MaskedPredictor, MLPPredictor, VideoTokenizer
from jepa.models.interop import LayoutError, from_official, parity, to_official

State = dict[str, Tensor]
PREFIX = {"ijepa": "module.", "vjepa": "module.backbone.", "vjepa2": "module.backbone."}
WIDTH, INNER, DEPTH, PATCH, HEADS, PREDICTOR_HEADS = 24, 16, 2, 4, 2, 2
GRID = {"ijepa": (3, 3), "vjepa": (8, 2, 2), "vjepa2": (3, 3, 3)}
SIZES: dict[str, dict[str, Any]] = {
    "ijepa": {},
    "vjepa": {},
    "vjepa2": {"image_size": 12, "num_frames": 6, "predictor_heads": PREDICTOR_HEADS},
}


# The official layouts, written anew.


def wave(positions: Tensor, dim: int) -> Tensor:
    """(N,) to (N, dim): sines, then cosines."""
    angles = positions[:, None] * 10000.0 ** -(torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def table(family: str, dim: int) -> Tensor:
    """Positions in the family's own order of axes: columns first in I-JEPA, time (half of the features) in V-JEPA."""
    grid = GRID[family]
    axes = [axis.flatten().double() for axis in torch.meshgrid(*map(torch.arange, grid), indexing="ij")]
    if family == "ijepa":
        rows, columns = axes
        return torch.cat([wave(columns, dim // 2), wave(rows, dim // 2)], dim=1)
    time, rows, columns = axes
    return torch.cat([wave(time, dim // 2), wave(rows, dim // 4), wave(columns, dim // 4)], dim=1)


def random_state(shapes: dict[str, tuple[int, ...]], seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}


def block_shapes(prefix: str, dim: int, hidden: int) -> dict[str, tuple[int, ...]]:
    layers = {"attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim), "mlp.fc1": (hidden, dim), "mlp.fc2": (dim, hidden)}
    shapes: dict[str, tuple[int, ...]] = {}
    for index in range(DEPTH):
        for norm in ("norm1", "norm2"):
            shapes.update({f"{prefix}.{index}.{norm}.weight": (dim,), f"{prefix}.{index}.{norm}.bias": (dim,)})
        for layer, shape in layers.items():
            shapes.update({f"{prefix}.{index}.{layer}.weight": shape, f"{prefix}.{index}.{layer}.bias": shape[:1]})
    return shapes


def encoder_state(family: str, seed: int) -> State:
    kernel = (WIDTH, 3, PATCH, PATCH) if family == "ijepa" else (WIDTH, 3, 2, PATCH, PATCH)
    state = random_state(
        {
            "patch_embed.proj.weight": kernel,
            "patch_embed.proj.bias": (WIDTH,),
            **block_shapes("blocks", WIDTH, 60),
            "norm.weight": (WIDTH,),
            "norm.bias": (WIDTH,),
        },
        seed,
    )
    return state if family == "vjepa2" else {"pos_embed": table(family, WIDTH).float()[None], **state}


def predictor_state(family: str, tokens: int = 2) -> State:
    mask_tokens = ["mask_token"] if family == "ijepa" else [f"mask_tokens.{index}" for index in range(tokens)]
    state = random_state(
        {
            **dict.fromkeys(mask_tokens, (1, 1, INNER)),
            "predictor_embed.weight": (INNER, WIDTH),
            "predictor_embed.bias": (INNER,),
            **block_shapes("predictor_blocks", INNER, 4 * INNER),
            "predictor_norm.weight": (INNER,),
            "predictor_norm.bias": (INNER,),
            "predictor_proj.weight": (WIDTH, INNER),
            "predictor_proj.bias": (WIDTH,),
        },
        seed=3,
    )
    return state if family == "vjepa2" else {"predictor_pos_embed": table(family, INNER).float()[None], **state}


def wrapped(family: str, state: State) -> State:
    return {PREFIX[family] + name: tensor for name, tensor in state.items()}


def checkpoint(family: str) -> dict[str, Any]:
    """What the official training codes save."""
    parts = {"encoder": encoder_state(family, 1), "target_encoder": encoder_state(family, 2)}
    moments = {"step": torch.tensor(7.0), "exp_avg": torch.zeros(2, 2), "exp_avg_sq": torch.zeros(2, 2)}
    return {
        **{name: wrapped(family, state) for name, state in parts.items()},
        "predictor": wrapped(family, predictor_state(family)),
        "opt": {"state": {0: moments}, "param_groups": [{"params": [0], "lr": 1e-3, "WD_exclude": True}]},
        "scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 7},
        "epoch": 300,
        "loss": 0.123,
        "batch_size": 128,
        "world_size": 16,
        "lr": 1e-3,
    }


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Any], Path]:
    def save(content: Any) -> Path:
        torch.save(content, tmp_path / "official.pth.tar")
        return tmp_path / "official.pth.tar"

    return save


def without(content: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in names}


def load(path: Path, which: Any, layout: str, /, **changes: Any) -> Any:
    options: dict[str, Any] = {"num_heads": HEADS, **SIZES[layout], **changes}
    return from_official(path, which, **options)


def stripped(family: str, state: State) -> State:
    return {name.removeprefix(PREFIX[family]): tensor for name, tensor in state.items()}


# The official computation, written anew.


def linear(x: Tensor, state: State, name: str) -> Tensor:
    return x @ state[f"{name}.weight"].double().T + state[f"{name}.bias"].double()


def norm(x: Tensor, state: State, name: str) -> Tensor:
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
    return x * state[f"{name}.weight"].double() + state[f"{name}.bias"].double()


def turned(x: Tensor, where: Tensor, grid: tuple[int, ...]) -> Tensor:
    """V-JEPA 2's rotation of (B, H, N, E) at positions (B, N), one feature at a time."""
    _, height, width = grid
    axes = [where // (height * width), where // width % height, where % width]
    share = 2 * (x.shape[-1] // 3 // 2)
    out = x.clone()
    for number, axis in enumerate(axes):
        for feature in range(share):
            angle = (axis * 10000.0 ** -((feature % (share // 2)) / (share / 2)))[:, None]
            own = number * share + feature
            sign, neighbour = (-1, own + 1) if feature % 2 == 0 else (1, own - 1)
            out[..., own] = x[..., own] * angle.cos() + sign * x[..., neighbour] * angle.sin()
    return out


def blocks(x: Tensor, state: State, prefix: str, heads: int, where: Tensor | None, grid: tuple[int, ...]) -> Tensor:
    for index in range(DEPTH):
        name = f"{prefix}.{index}"
        q, k, v = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in linear(norm(x, state, f"{name}.norm1"), state, f"{name}.attn.qkv").chunk(3, dim=-1)
        )
        if where is not None:
            q, k = turned(q, where, grid), turned(k, where, grid)
        weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1)
        x = x + linear((weights @ v).transpose(1, 2).flatten(2), state, f"{name}.attn.proj")
        hidden = F.gelu(linear(norm(x, state, f"{name}.norm2"), state, f"{name}.mlp.fc1"))
        x = x + linear(hidden, state, f"{name}.mlp.fc2")
    return x


def rows(tokens: Tensor, where: Tensor) -> Tensor:
    return torch.stack([sample[index] for sample, index in zip(tokens, where, strict=True)])


def reference_encoder(state: State, x: Tensor, grid: tuple[int, ...], keep: Tensor | None = None) -> Tensor:
    kernel, bias = state["patch_embed.proj.weight"].double(), state["patch_embed.proj.bias"].double()
    convolution = F.conv2d if kernel.ndim == 4 else F.conv3d
    tokens = convolution(x.double(), kernel, bias, stride=kernel.shape[2:]).flatten(2).transpose(1, 2)
    rotary = "pos_embed" not in state
    where = torch.arange(tokens.shape[1]).expand(len(x), -1)
    if not rotary:
        tokens = tokens + state["pos_embed"].double()
    if keep is not None:
        tokens, where = rows(tokens, keep), keep
    return norm(blocks(tokens, state, "blocks", HEADS, where if rotary else None, grid), state, "norm")


def reference_predictor(
    state: State, context: Tensor, seen: Tensor, asked: Tensor, grid: tuple[int, ...], group: int
) -> Tensor:
    token = state["mask_token" if "mask_token" in state else f"mask_tokens.{group}"].double()
    tokens = torch.cat(
        [linear(context.double(), state, "predictor_embed"), token.expand(len(asked), asked.shape[1], -1)], dim=1
    )
    where = torch.cat([seen, asked], dim=1)
    if "predictor_pos_embed" in state:
        tokens = tokens + rows(state["predictor_pos_embed"].double().expand(len(asked), -1, -1), where)
    rotary = "predictor_pos_embed" not in state
    tokens = blocks(tokens, state, "predictor_blocks", PREDICTOR_HEADS, where if rotary else None, grid)
    return linear(norm(tokens, state, "predictor_norm")[:, seen.shape[1] :], state, "predictor_proj")


def example(family: str) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, and positions of context and target."""
    count, side = math.prod(GRID[family]), GRID[family][-1] * PATCH
    frames = () if family == "ijepa" else (2 * GRID[family][0],)
    order = torch.stack([torch.randperm(count, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)])
    return torch.randn(2, 3, *frames, side, side), order[:, : count // 2], order[:, count // 2 : count // 2 + 3]


FAMILIES = ("ijepa", "vjepa", "vjepa2")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("which", "seed"), [("encoder", 1), ("target_encoder", 2)])
def test_the_chosen_encoder_computes_what_the_official_one_does(
    family: str, which: str, seed: int, saved: Callable[[Any], Path]
) -> None:
    encoder = load(saved(checkpoint(family)), which, family)
    state, (x, keep, _) = encoder_state(family, seed), example(family)
    assert encoder.tokenizer.grid == GRID[family]
    assert parity(encoder, lambda x: reference_encoder(state, x, GRID[family]), x).max_error < 1e-5
    kept = parity(encoder, lambda x, keep: reference_encoder(state, x, GRID[family], keep), (x, keep))
    assert kept.max_error < 1e-5
    with pytest.raises(ValueError, match="no parity"):
        parity(encoder, lambda x: reference_encoder(encoder_state(family, 3 - seed), x, GRID[family]), x)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_predictor_computes_what_the_official_one_does(family: str, saved: Callable[[Any], Path]) -> None:
    predictor = load(saved(checkpoint(family)), "predictor", family)
    state, (_, seen, asked) = predictor_state(family), example(family)
    context = torch.randn(2, seen.shape[1], WIDTH)
    assert predictor.num_mask_tokens == (1 if family == "ijepa" else 2)
    for group in range(predictor.num_mask_tokens):
        expected = reference_predictor(state, context, seen, asked, GRID[family], group)
        torch.testing.assert_close(predictor(context, seen, asked, group=group).double(), expected, rtol=0, atol=1e-5)
        others = reference_predictor(state, context, seen, asked.roll(1, dims=1), GRID[family], group)
        assert not torch.allclose(others, expected, atol=1e-3)  # positions matter


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_model_holds_both_encoders_and_goes_back_to_the_same_file(
    family: str, saved: Callable[[Any], Path], tmp_path: Path
) -> None:
    content = checkpoint(family)
    model = load(saved(content), "jepa", family)
    assert model.target.kind == "ema"
    x, _, _ = example(family)
    for which, seed in (("context", 1), ("target", 2)):
        expected = reference_encoder(encoder_state(family, seed), x, GRID[family])
        torch.testing.assert_close(model.encode(x, which=which).double(), expected, rtol=0, atol=1e-5)
    written = torch.load(to_official(model, tmp_path / "again.pt"), weights_only=True)
    assert set(written) == {"encoder", "target_encoder", "predictor"}
    for part, tensors in written.items():
        assert set(tensors) == set(content[part])
        assert all(torch.equal(tensor, content[part][name]) for name, tensor in tensors.items())
    again = load(tmp_path / "again.pt", "jepa", family)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_loading_draws_nothing_and_leaves_no_weight_unset(family: str, saved: Callable[[Any], Path]) -> None:
    path = saved(checkpoint(family))
    before = torch.get_rng_state()
    model = load(path, "jepa", family)
    assert torch.equal(torch.get_rng_state(), before)
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"cpu"}
    again = load(path, "jepa", family)
    tables = zip((*model.parameters(), *model.buffers()), (*again.parameters(), *again.buffers()), strict=True)
    assert all(torch.equal(a, b) for a, b in tables)
    assert all(parameter.requires_grad for parameter in (*model.encoder.parameters(), *model.predictor.parameters()))


def test_positions_are_those_of_the_file_whatever_order_its_axes_have(saved: Callable[[Any], Path]) -> None:
    encoder = load(saved(checkpoint("ijepa")), "encoder", "ijepa")
    assert torch.equal(encoder.positions.table, encoder_state("ijepa", 1)["pos_embed"][0])
    rows_first = Encoder(WIDTH, depth=1, tokenizer=ImageTokenizer(12, 4)).positions.table
    assert not torch.allclose(encoder.positions.table, rows_first, atol=0.1)


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_come_from_the_weights(family: str, saved: Callable[[Any], Path]) -> None:
    path = saved(checkpoint(family))
    encoder, predictor = load(path, "encoder", family), load(path, "predictor", family)
    assert (encoder.hidden_dim, len(encoder.blocks), encoder.blocks[0].mlp.fc1.out_features) == (WIDTH, DEPTH, 60)
    assert (predictor.hidden_dim, predictor.predictor_dim, predictor.grid) == (WIDTH, INNER, GRID[family])
    assert encoder.positions.kind == predictor.positions.kind == ("rotary" if family == "vjepa2" else "table")
    assert isinstance(encoder.tokenizer, ImageTokenizer if family == "ijepa" else VideoTokenizer)


@pytest.mark.parametrize(
    ("width", "family", "heads"),
    [(192, "ijepa", 3), (384, "ijepa", 6), (768, "vjepa", 12), (1024, "vjepa2", 16), (1408, "ijepa", 16),
     (1408, "vjepa2", 22), (1664, "vjepa2", 26)],
)  # fmt: skip
def test_heads_of_official_widths_are_known(
    width: int, family: str, heads: int, monkeypatch: pytest.MonkeyPatch, saved: Callable[[Any], Path]
) -> None:
    monkeypatch.setitem(globals(), "WIDTH", width)
    monkeypatch.setitem(globals(), "DEPTH", 1)
    path = saved({"encoder": wrapped(family, encoder_state(family, 1)), "predictor": predictor_state(family)})
    image_size = 12 if family == "vjepa2" else None
    assert heads_of(from_official(path, "encoder", image_size=image_size)) == heads


def test_the_predictor_shares_the_number_of_heads_but_for_v_jepa_2(
    monkeypatch: pytest.MonkeyPatch, saved: Callable[[Any], Path]
) -> None:
    monkeypatch.setitem(globals(), "WIDTH", 192)
    monkeypatch.setitem(globals(), "INNER", 384)
    monkeypatch.setitem(globals(), "DEPTH", 1)
    for family, heads in (("ijepa", 3), ("vjepa", 3), ("vjepa2", 12)):
        path = saved({"encoder": encoder_state(family, 1), "predictor": predictor_state(family)})
        image_size = 12 if family == "vjepa2" else None
        assert heads_of(from_official(path, "predictor", image_size=image_size)) == heads
        assert heads_of(from_official(path, "predictor", image_size=image_size, predictor_heads=4)) == 4


def test_an_unknown_width_asks_for_its_heads(saved: Callable[[Any], Path]) -> None:
    for family, argument in (("ijepa", "num_heads"), ("vjepa2", "predictor_heads")):
        path = saved(checkpoint(family))
        with pytest.raises(ValueError, match=rf"how many attention heads share \d+ features.*; pass {argument}="):
            from_official(path, "predictor", image_size=12 if family == "vjepa2" else None)
    with pytest.raises(ValueError, match="num_heads=5 must divide the width 24"):
        load(path, "encoder", "vjepa2", num_heads=5)


def heads_of(module: Encoder | MaskedPredictor) -> int:
    return module.get_submodule("blocks.0.attn").num_heads  # type: ignore[return-value]


# Other sizes of inputs.


def test_positions_for_another_image_size_are_interpolated_only_when_that_size_is_passed(
    saved: Callable[[Any], Path],
) -> None:
    path = saved(checkpoint("ijepa"))
    stored = encoder_state("ijepa", 1)["pos_embed"]
    encoder, predictor = (load(path, which, "ijepa", image_size=(16, 24)) for which in ("encoder", "predictor"))
    cells = stored.view(1, 3, 3, WIDTH).permute(0, 3, 1, 2)
    expected = F.interpolate(cells, size=(4, 6), mode="bicubic").permute(0, 2, 3, 1).reshape(24, WIDTH)
    torch.testing.assert_close(encoder.positions.table, expected)
    assert predictor.grid == encoder.tokenizer.grid == (4, 6)
    with pytest.raises(ValueError, match="resize it"):
        load(path, "encoder", "ijepa")(torch.zeros(1, 3, 16, 24))
    with pytest.raises(ValueError, match=r"inputs of size \(15, 15\) cannot be cut into patches of \(4, 4\)"):
        load(path, "encoder", "ijepa", image_size=15)


def test_fewer_frames_keep_the_first_positions_and_more_are_interpolated(saved: Callable[[Any], Path]) -> None:
    path = saved(checkpoint("vjepa"))
    stored = encoder_state("vjepa", 1)["pos_embed"][0]
    assert torch.equal(load(path, "encoder", "vjepa", num_frames=6).positions.table, stored[: 3 * 4])
    longer = load(path, "encoder", "vjepa", num_frames=32, image_size=12)
    cells = stored.view(1, 8, 2, 2, WIDTH).permute(0, 4, 1, 2, 3)
    expected = F.interpolate(cells, size=(16, 3, 3), mode="trilinear").flatten(2).squeeze(0).T
    torch.testing.assert_close(longer.positions.table, expected)
    assert longer.tokenizer.input_shape == (3, 32, 12, 12)


def test_a_table_says_itself_which_of_several_grids_of_its_length_it_belongs_to(
    monkeypatch: pytest.MonkeyPatch, saved: Callable[[Any], Path]
) -> None:
    monkeypatch.setitem(GRID, "vjepa", (2, 4, 4))  # 32 positions, as 8 x 2 x 2 has
    path = saved(checkpoint("vjepa"))
    assert load(path, "encoder", "vjepa", num_frames=4).tokenizer.grid == (2, 4, 4)
    with pytest.raises(ValueError, match=r"stores 32 positions, which belong to none of .*\[\(8, 2, 2\)"):
        load(path, "encoder", "vjepa")


def test_a_grid_that_is_not_square_needs_the_image_size(
    monkeypatch: pytest.MonkeyPatch, saved: Callable[[Any], Path]
) -> None:
    monkeypatch.setitem(GRID, "ijepa", (2, 3))
    path = saved(checkpoint("ijepa"))
    assert load(path, "encoder", "ijepa", image_size=(8, 12)).tokenizer.grid == (2, 3)
    with pytest.raises(ValueError, match=r"stores 6 positions, .*pass the image_size= that it was trained with"):
        load(path, "encoder", "ijepa")


def test_a_table_that_was_trained_needs_the_sizes_too_unless_it_is_square(saved: Callable[[Any], Path]) -> None:
    content = checkpoint("ijepa")
    content["encoder"]["module.pos_embed"] = torch.randn(1, 9, WIDTH)
    path = saved(content)
    assert load(path, "encoder", "ijepa", image_size=12).tokenizer.grid == (3, 3)
    with pytest.raises(ValueError, match=r"stores 9 positions"):
        load(path, "encoder", "ijepa")


def test_v_jepa_2_asks_for_the_image_size(saved: Callable[[Any], Path]) -> None:
    path = saved(checkpoint("vjepa2"))
    for which in ("encoder", "predictor"):
        with pytest.raises(ValueError, match=r"stores no positions, .*pass image_size= \(V-JEPA 2 was trained at 256"):
            load(path, which, "vjepa2", image_size=None)
    assert load(path, "encoder", "vjepa2", num_frames=None).tokenizer.input_shape == (3, 16, 12, 12)


# Families.


def test_stale_tables_in_a_file_of_v_jepa_2_are_left_out_when_the_family_is_named(saved: Callable[[Any], Path]) -> None:
    content = checkpoint("vjepa2")
    for part, name in (("encoder", "pos_embed"), ("predictor", "predictor_pos_embed")):
        content[part][f"module.backbone.{name}"] = torch.zeros(1, 27, WIDTH if part == "encoder" else INNER)
    content["predictor"] |= {f"module.backbone.mask_tokens.{index}": torch.zeros(1, 1, INNER) for index in range(2, 10)}
    path = saved(content)
    with pytest.raises(ValueError, match="say which it is: family='vjepa' uses the tables, family='vjepa2'"):
        load(path, "encoder", "vjepa2")
    x, _, _ = example("vjepa2")
    encoder = load(path, "encoder", "vjepa2", family="vjepa2")
    state = encoder_state("vjepa2", 1)
    assert parity(encoder, lambda x: reference_encoder(state, x, GRID["vjepa2"]), x).max_error < 1e-5
    assert load(path, "predictor", "vjepa2", family="vjepa2").num_mask_tokens == 10


def test_a_family_that_contradicts_the_file_is_refused(saved: Callable[[Any], Path]) -> None:
    path = saved(checkpoint("ijepa"))
    with pytest.raises(ValueError, match=r"family='vjepa2', but .* has the layout of 'ijepa'"):
        load(path, "encoder", "ijepa", family="vjepa2")
    with pytest.raises(ValueError, match="family must be one of 'ijepa', 'vjepa', 'vjepa2', got 'dino'"):
        load(path, "encoder", "ijepa", family="dino")
    with pytest.raises(ValueError, match="num_frames=16 is for videos"):
        load(path, "encoder", "ijepa", num_frames=16)
    with pytest.raises(LayoutError, match=r"1 missing: positions.table"):
        load(saved(checkpoint("vjepa2")), "encoder", "vjepa2", family="vjepa")


# What is in a file, and what is not.


@pytest.mark.parametrize("which", ["target", "", None])
def test_which_must_be_said_in_known_words(which: Any, saved: Callable[[Any], Path]) -> None:
    with pytest.raises(ValueError, match="which must be one of 'encoder', 'target_encoder', 'predictor', 'jepa', got "):
        from_official(saved(checkpoint("ijepa")), which)


@pytest.mark.parametrize("part", ["encoder", "target_encoder", "predictor"])
def test_a_part_that_is_missing_is_named_with_those_that_are_there(part: str, saved: Callable[[Any], Path]) -> None:
    path = saved(without(checkpoint("ijepa"), part))
    for which in (part, "jepa"):
        with pytest.raises(ValueError, match=rf"holds (?!.*'opt').*, no {part!r}; pass another which="):
            load(path, which, "ijepa")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_of_one_bare_module_is_what_its_weights_say(suffix: str, tmp_path: Path) -> None:
    save = save_file if suffix == ".safetensors" else torch.save
    x, _, _ = example("ijepa")
    state = encoder_state("ijepa", 1)
    save(state, tmp_path / f"encoder{suffix}")
    save(predictor_state("ijepa"), tmp_path / f"predictor{suffix}")
    for which in ("encoder", "target_encoder"):
        encoder = load(tmp_path / f"encoder{suffix}", which, "ijepa")
        assert parity(encoder, lambda x: reference_encoder(state, x, GRID["ijepa"]), x).max_error < 1e-5
    assert load(tmp_path / f"predictor{suffix}", "predictor", "ijepa").grid == (3, 3)
    with pytest.raises(ValueError, match="the state dict of an encoder alone, no 'predictor'"):
        load(tmp_path / f"encoder{suffix}", "predictor", "ijepa")
    with pytest.raises(ValueError, match="the state dict of a predictor alone, no 'encoder'"):
        load(tmp_path / f"predictor{suffix}", "encoder", "ijepa")
    with pytest.raises(ValueError, match="holds a predictor alone, and so not the patch size"):
        load(tmp_path / f"predictor{suffix}", "predictor", "ijepa", image_size=16)


def test_a_safetensors_file_holds_the_parts_by_prefix(tmp_path: Path) -> None:
    content = checkpoint("vjepa2")
    flat = {f"{part}.{name}": content[part][name] for part in ("encoder", "predictor") for name in content[part]}
    save_file(flat, tmp_path / "vjepa2.safetensors")
    x, _, _ = example("vjepa2")
    encoder = load(tmp_path / "vjepa2.safetensors", "encoder", "vjepa2")
    state = encoder_state("vjepa2", 1)
    assert parity(encoder, lambda x: reference_encoder(state, x, GRID["vjepa2"]), x).max_error < 1e-5
    with pytest.raises(ValueError, match="holds 'encoder', 'predictor', no 'target_encoder'"):
        load(tmp_path / "vjepa2.safetensors", "target_encoder", "vjepa2")


def test_files_of_torch_before_archives_are_read(tmp_path: Path) -> None:
    torch.save(checkpoint("ijepa"), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert load(tmp_path / "old.pt", "encoder", "ijepa").hidden_dim == WIDTH


def test_names_that_do_not_fit_are_listed_and_nothing_is_loaded(saved: Callable[[Any], Path]) -> None:
    content = checkpoint("ijepa")
    state = content["encoder"]
    state["module.norms_block.0.weight"] = state.pop("module.norm.weight")
    state["module.blocks.1.mlp.fc1.bias"] = torch.zeros(61)
    del content["predictor"]["module.predictor_proj.bias"]
    path = saved(content)
    with pytest.raises(
        LayoutError, match=r"1 missing: norm.weight; 1 unexpected: norms_block.0.weight; 1 of another sh"
    ) as caught:
        load(path, "encoder", "ijepa")
    error = caught.value
    assert (error.missing, error.unexpected) == (("norm.weight",), ("norms_block.0.weight",))
    assert error.misshapen == (("blocks.1.mlp.fc1.bias", (61,), (60,)),)
    with pytest.raises(
        LayoutError, match=r"'predictor' of .* does not fit our MaskedPredictor.* 1 missing: proj.bias$"
    ):
        load(path, "predictor", "ijepa")
    for name in [name for name in state if "blocks.0." in name]:
        state[name.replace("blocks.0.", "blocks.999999999.")] = state.pop(name)
    with pytest.raises(LayoutError, match=r"1 missing: blocks.0$"):
        load(saved(content), "encoder", "ijepa")
    for name in [name for name in state if "blocks." in name]:
        del state[name]
    with pytest.raises(LayoutError, match=r"1 missing: blocks.0$"):
        load(saved(content), "encoder", "ijepa")


@pytest.mark.parametrize("part", ["encoder", "predictor"])
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_of_absurd_shapes_are_errors_that_name_them(
    family: str, part: str, saved: Callable[[Any], Path]
) -> None:
    content = checkpoint(family)
    for name in [name for name in content[part] if re.search(r"embed|mask_token|blocks\.0\.(attn|mlp)", name)]:
        for tensor in (torch.zeros(()), *([] if "blocks" in name else [torch.zeros(2, 3, 5, 7)])):
            damaged = {part: {**content[part], name: tensor}, "target_encoder": content["target_encoder"]}
            with pytest.raises(ValueError, match=r"does not fit|expected a patch embedding|stores \d+ positions"):
                load(saved(damaged), part, family)


def test_two_weights_for_one_place_are_refused(saved: Callable[[Any], Path]) -> None:
    content = checkpoint("ijepa")
    content["predictor"]["module.mask_tokens.0"] = torch.zeros(1, 1, INNER)
    with pytest.raises(LayoutError, match=r"1 unexpected: second mask_tokens.0 \(mask_tokens.0\)$"):
        load(saved(content), "predictor", "ijepa")
    content["predictor"]["predictor_norm.bias"] = torch.zeros(INNER)
    with pytest.raises(ValueError, match="holds the same names with and without the prefix of a wrapper"):
        load(saved(content), "predictor", "ijepa")


def test_files_of_transformers_are_sent_to_the_other_reader(tmp_path: Path) -> None:
    save_file({"embeddings.patch_embeddings.projection.weight": torch.zeros(2, 3, 4, 4)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="has the layout of transformers; load its folder with from_transformers"):
        load(tmp_path / "a.safetensors", "encoder", "ijepa")


def test_a_file_without_weights_says_what_it_holds(saved: Callable[[Any], Path]) -> None:
    with pytest.raises(ValueError, match="holds no state dict; its entries are 'epoch', 'lr'"):
        load(saved({"epoch": 1, "lr": 0.1}), "encoder", "ijepa")
    with pytest.raises(ValueError, match="holds a list, not a mapping of state dicts"):
        load(saved([1, 2]), "encoder", "ijepa")
    with pytest.raises(FileNotFoundError, match="no checkpoint at "):
        load(Path("nowhere.pt"), "encoder", "ijepa")


# Files that are damaged, or worse.


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_an_error_that_says_so(share: float, old: bool, tmp_path: Path) -> None:
    path = tmp_path / "cut.pt"
    torch.save(checkpoint("ijepa"), path, _use_new_zipfile_serialization=not old)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ValueError, match=r"cut.pt is truncated or damaged \(.+\); download or copy it again"):
        load(path, "encoder", "ijepa")


def test_an_archive_with_a_part_missing_or_garbled_is_an_error_that_says_so(
    saved: Callable[[Any], Path], tmp_path: Path
) -> None:
    whole = zipfile.ZipFile(saved(checkpoint("ijepa")))
    for victim, content in (("data/0", None), ("data.pkl", b"\x80\x02garbage"), ("data.pkl", b"")):
        with zipfile.ZipFile(tmp_path / "bad.pt", "w") as archive:
            for name in whole.namelist():
                if not name.endswith(victim):
                    archive.writestr(name, whole.read(name))
                elif content is not None:
                    archive.writestr(name, content)
        with pytest.raises(ValueError, match="truncated or damaged"):
            load(tmp_path / "bad.pt", "encoder", "ijepa")


class Malicious:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("old", [True, False])
def test_a_file_that_would_run_code_is_refused_and_runs_none(old: bool, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = tmp_path / "evil.pt"
    for function, arguments in ((os.mkdir, (str(trace),)), (os.system, (f"touch {trace}",)), (eval, ("1 + 1",))):
        content = {**checkpoint("ijepa"), "loss": Malicious(function, *arguments)}
        torch.save(content, path, _use_new_zipfile_serialization=not old)
        with pytest.raises(ValueError, match=r"is refused: reading it would call \S*(mkdir|system|eval),"):
            load(path, "encoder", "ijepa")
    path.write_bytes(pickle.dumps(Malicious(os.mkdir, str(trace))))
    with pytest.raises(ValueError, match=r"refused|truncated or damaged"):
        load(path, "encoder", "ijepa")
    assert not trace.exists()


def test_a_header_of_absurd_size_is_refused_without_being_believed(tmp_path: Path) -> None:
    path = tmp_path / "giant.safetensors"
    path.write_bytes(struct.pack("<Q", 2**62) + b'{"a": 1}')
    with pytest.raises(ValueError, match=r"giant.safetensors is truncated or damaged"):
        load(path, "encoder", "ijepa")


def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(saved: Callable[[Any], Path]) -> None:
    content = checkpoint("ijepa")
    content["encoder"]["module.pos_embed"] = torch.zeros(1).expand(1, 10**9, 10**6)
    with pytest.raises(ValueError, match=r"claims module.pos_embed of shape \(1, 1000000000, 1000000\), but does not"):
        load(saved(content), "encoder", "ijepa")


# Writing.


@pytest.mark.parametrize(("family", "prefix"), [("ijepa", "module."), ("vjepa", "module.backbone.")])
def test_a_model_built_here_is_read_by_the_official_computation(family: str, prefix: str, tmp_path: Path) -> None:
    tokenizer = ImageTokenizer(12, 4, channels=3) if family == "ijepa" else VideoTokenizer(6, 12, 4)
    encoder = Encoder(WIDTH, depth=DEPTH, num_heads=HEADS, tokenizer=tokenizer)
    predictor = MaskedPredictor(WIDTH, tokenizer.grid, predictor_dim=INNER, num_heads=PREDICTOR_HEADS, depth=DEPTH)
    model = JEPA(encoder, predictor)
    written = torch.load(to_official(model, tmp_path / "ours.pt"), weights_only=True)
    assert all(name.startswith(prefix) for part in written.values() for name in part)
    state, x = stripped(family, written["encoder"]), torch.randn(2, *tokenizer.input_shape)
    assert parity(encoder, lambda x: reference_encoder(state, x, tokenizer.grid), x).max_error < 1e-5
    state["pos_embed"] = state["pos_embed"] * 0
    with pytest.raises(ValueError, match="no parity"):
        parity(encoder, lambda x: reference_encoder(state, x, tokenizer.grid), x)


def test_models_that_the_official_codes_do_not_know_are_refused(tmp_path: Path) -> None:
    images = ImageTokenizer(12, 4)
    encoder = Encoder(WIDTH, depth=1, tokenizer=images)
    rotary = Encoder(WIDTH, depth=1, tokenizer=VideoTokenizer(4, 8, 4), positions="rotary")
    for model, message in (
        (JEPA(encoder, MLPPredictor(WIDTH)), "hold a MaskedPredictor, got MLPPredictor"),
        (JEPA(encoder, MaskedPredictor(WIDTH, (3, 3), num_mask_tokens=2)), "num_mask_tokens=2"),
        (JEPA(encoder, MaskedPredictor(WIDTH, (3, 3), positions="rotary")), "and 'rotary' in the predictor"),
        (JEPA(rotary, MaskedPredictor(WIDTH, (2, 2, 2))), "positions='rotary' in the encoder of videos"),
        (JEPA(nn.Linear(2, 2), MaskedPredictor(2, (3, 3))), "the built-in Encoder only, got Linear"),
    ):
        with pytest.raises(ValueError, match=message):
            to_official(model, tmp_path / "no.pt")
    assert list(tmp_path.iterdir()) == []
