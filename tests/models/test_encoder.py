"""The built-in encoder: what it takes, what it refuses, and that samples stay apart."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from jepa.models import Encoder, ImageTokenizer, SeriesTokenizer, VideoTokenizer
from jepa.models.positions import gather_tokens, rotary_positions, sincos_positions

KINDS = ["vectors", "tokens", "images", "series", "videos"]


def encoder_and_input(kind: str, batch: int = 5) -> tuple[Encoder, Tensor]:
    if kind == "vectors":
        return Encoder(16, 3, depth=2), torch.randn(batch, 3)
    if kind == "tokens":
        return Encoder(16, 3, depth=2), torch.randn(batch, 7, 3)
    if kind == "images":
        return Encoder(16, depth=2, tokenizer=ImageTokenizer(8, 2, channels=2)), torch.randn(batch, 2, 8, 8)
    if kind == "videos":
        return Encoder(16, depth=2, tokenizer=VideoTokenizer(4, 4, 2)), torch.randn(batch, 3, 4, 4, 4)
    return Encoder(16, depth=2, tokenizer=SeriesTokenizer(12, 3, channels=2)), torch.randn(batch, 2, 12)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("vectors", (5, 16)),
        ("tokens", (5, 7, 16)),
        ("images", (5, 16, 16)),
        ("series", (5, 4, 16)),
        ("videos", (5, 8, 16)),
    ],
)
def test_every_kind_of_input_gets_an_embedding_a_token(kind: str, shape: tuple[int, ...]) -> None:
    encoder, x = encoder_and_input(kind)
    assert encoder(x).shape == shape


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_sample_leaves_all_others_bitwise_equal(kind: str, training: bool) -> None:
    encoder, x = encoder_and_input(kind)
    encoder.train(training)
    before = encoder(x)
    changed = x.clone()
    changed[2] = torch.randn_like(x[2]) * 100
    after = encoder(changed)
    others = [0, 1, 3, 4]
    assert torch.equal(before[others], after[others])
    assert not torch.allclose(before[2], after[2], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_one_output_reaches_its_own_sample_only(kind: str) -> None:
    encoder, x = encoder_and_input(kind)
    x.requires_grad_()
    encoder(x)[1].square().sum().backward()
    assert x.grad is not None
    reached = x.grad.flatten(1).abs().sum(1) > 0
    assert reached.tolist() == [False, True, False, False, False]


def test_tokens_of_one_sample_attend_to_each_other() -> None:
    encoder, x = encoder_and_input("tokens")
    changed = x.clone()
    changed[0, 6] += 10
    assert not torch.allclose(encoder(x)[0, :6], encoder(changed)[0, :6], atol=1e-5)


def test_a_vector_is_a_sequence_of_one_token_without_a_position() -> None:
    encoder, x = encoder_and_input("vectors")
    tokens = encoder.embed(x).unsqueeze(1)
    for block in encoder.blocks:
        tokens = block(tokens)
    torch.testing.assert_close(encoder(x), encoder.norm(tokens).squeeze(1))


def test_the_order_of_tokens_matters_and_positions_are_the_grids() -> None:
    encoder, x = encoder_and_input("tokens")
    assert not torch.allclose(encoder(x), encoder(x.flip(1)).flip(1), atol=1e-4)
    image_encoder, _ = encoder_and_input("images")
    assert torch.equal(image_encoder.positions.table, sincos_positions((4, 4), 16))


@pytest.mark.parametrize("kind", ["tokens", "images", "series", "videos"])
def test_kept_tokens_are_encoded_as_if_the_others_did_not_exist(kind: str) -> None:
    encoder, x = encoder_and_input(kind)
    keep = torch.tensor([[0, 2], [1, 3], [0, 1], [2, 3], [3, 0]])
    kept = encoder(x, keep=keep)
    tokens = x if encoder.tokenizer is None else encoder.tokenizer(x)
    table = sincos_positions((tokens.shape[1],) if encoder.tokenizer is None else encoder.tokenizer.grid, 16)
    for sample, positions in enumerate(keep.tolist()):
        visible = encoder.embed(tokens[sample, positions]) + table[positions]
        expected = encoder._transform(visible.unsqueeze(0))[0]
        torch.testing.assert_close(kept[sample], expected, atol=1e-5, rtol=1e-4)
    everything = torch.arange(tokens.shape[1]).expand(5, -1)
    torch.testing.assert_close(encoder(x, keep=everything), encoder(x))


def test_hidden_tokens_cannot_be_seen() -> None:
    encoder, x = encoder_and_input("tokens")
    keep = torch.tensor([[0, 2, 4]]).expand(5, -1)
    changed = x.clone()
    changed[:, [1, 3, 5, 6]] = 1e3
    assert torch.equal(encoder(x, keep=keep), encoder(changed, keep=keep))


def test_longer_sequences_than_before_extend_the_positions_and_change_no_earlier_result() -> None:
    encoder, _ = encoder_and_input("tokens")
    short = torch.randn(2, 3, 3)
    before = encoder(short)
    state = encoder.state_dict()
    assert encoder(torch.randn(2, 50, 3)).shape == (2, 50, 16)
    assert torch.equal(encoder(short), before)
    assert encoder.state_dict().keys() == state.keys()
    fresh = Encoder(16, 3, depth=2)
    fresh.load_state_dict(encoder.state_dict())
    assert torch.equal(fresh(short), before)


def test_float64_stays_float64() -> None:
    encoder, x = encoder_and_input("tokens")
    assert encoder.double()(x.double()).dtype == torch.float64


@pytest.mark.parametrize("shape", [(3,), (4, 5), (4, 7, 5), (4, 2, 7, 3), ()])
def test_a_wrong_shape_is_an_error_that_names_what_it_got_and_what_it_takes(shape: tuple[int, ...]) -> None:
    encoder = Encoder(16, 3, depth=1)
    with pytest.raises(ValueError, match=r"takes \(B, 3\) vectors or \(B, N, 3\) tokens, got .*tokenizer=") as caught:
        encoder(torch.zeros(shape))
    assert f"got {tuple(shape)};" in str(caught.value)


def test_images_of_a_wrong_shape_are_an_error_that_names_what_it_got_and_what_it_takes() -> None:
    encoder, _ = encoder_and_input("images")
    with pytest.raises(ValueError, match=r"shape \(B, 2, 8, 8\), got \(4, 1, 8, 8\)"):
        encoder(torch.zeros(4, 1, 8, 8))


def test_keep_is_refused_for_vectors_and_for_another_batch_size() -> None:
    encoder, x = encoder_and_input("vectors")
    for masks in ("keep", "only"):
        with pytest.raises(ValueError, match=r"only= pick tokens, but the input is a batch of vectors \(5, 3\)"):
            encoder(x, **{masks: torch.zeros(5, 1, dtype=torch.int64)})
    with pytest.raises(ValueError, match=r"\(5, K\).*got \(1, 2\)"):
        encoder(torch.zeros(5, 7, 3), keep=torch.tensor([[0, 1]]))


def test_sizes_that_do_not_fit_are_errors_that_name_them() -> None:
    with pytest.raises(ValueError, match="input_dim=9 contradicts the tokenizer, whose tokens have 4 numbers"):
        Encoder(16, 9, tokenizer=ImageTokenizer(8, 2))
    with pytest.raises(ValueError, match="at least 1, got 0 and 4"):
        Encoder(0)
    with pytest.raises(ValueError, match="at least 1, got 8 and 0"):
        Encoder(8, depth=0)
    with pytest.raises(ValueError, match="num_heads=3 must divide the width 8"):
        Encoder(8, num_heads=3)
    with pytest.raises(ValueError, match="input_dim must be at least 1, got 0"):
        Encoder(8, 0)
    with pytest.raises(ValueError, match="num_heads must be at least 1, got 0"):
        Encoder(8, num_heads=0)


def test_the_input_width_is_the_hidden_width_unless_given() -> None:
    assert Encoder(hidden_dim=256, depth=1)(torch.zeros(2, 256)).shape == (2, 256)


def test_the_input_is_encoded_from_the_tokenizers_tokens_without_the_hidden_ones() -> None:
    encoder, x = encoder_and_input("images")
    seen: list[tuple[int, ...]] = []
    encoder.embed.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    encoder(x, keep=torch.tensor([[0, 5, 9]] * 5))
    assert seen == [(5, 3, 16)], "hidden tokens are not even embedded"


OPTIONS: dict[str, dict[str, Any]] = {
    "sincos": {},
    "table": {"positions": "table"},
    "rotary": {"positions": "rotary"},
    "registers": {"registers": 3},
    "rotary with registers": {"positions": "rotary", "registers": 2},
    "checkpointed": {"checkpoint_blocks": True, "registers": 1},
}


def image_encoder(depth: int = 2, **options: Any) -> Encoder:
    return enlivened(Encoder(16, depth=depth, num_heads=2, tokenizer=ImageTokenizer(8, 2, channels=2), **options))


def tokens_of(encoder: Encoder, x: Tensor) -> Tensor:
    """Embedded tokens before they know their positions."""
    assert encoder.tokenizer is not None
    return encoder.embed(encoder.tokenizer(x))


def enlivened(encoder: Encoder) -> Encoder:
    """With larger weights than at the start, where attention hardly matters yet."""
    for block in encoder.blocks:
        for parameter in block.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return encoder


@pytest.mark.parametrize("option", OPTIONS)
def test_wanted_tokens_equal_those_of_the_full_computation_with_its_gradients(option: str) -> None:
    encoder = image_encoder(**OPTIONS[option]).double()
    x = torch.randn(3, 2, 8, 8, dtype=torch.float64)
    keep = torch.stack([torch.randperm(16)[:9] for _ in range(3)])
    for kept, count in ((None, 5), (keep, 4), (None, 16), (None, 40), (keep, 30)):
        tokens = 16 if kept is None else 9
        only = torch.randint(tokens, (3, count))  # with duplicates, and more than there are
        lean, full = encoder(x, kept, only), gather_tokens(encoder(x, kept), only)
        torch.testing.assert_close(lean, full)
        weight = torch.randn_like(full)
        wanted = list(encoder.parameters())
        for mine, other in zip(
            torch.autograd.grad((lean * weight).sum(), wanted),
            torch.autograd.grad((full * weight).sum(), wanted),
            strict=True,
        ):
            torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-12)


def test_the_last_block_computes_wanted_tokens_only() -> None:
    encoder = image_encoder(3, registers=2)
    seen: list[int] = []
    for block in encoder.blocks:
        block.get_submodule("mlp").register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    x = torch.randn(1, 2, 8, 8)
    encoder(x, only=torch.tensor([[3, 4, 5]]))
    encoder(x)
    assert seen == [18, 18, 3, 18, 18, 16], "registers are not wanted in the output either"


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_survives_saving_and_keeps_the_outputs(option: str, tmp_path: Path) -> None:
    encoder = image_encoder(**OPTIONS[option])
    restored = Encoder.from_pretrained(encoder.save_pretrained(tmp_path))
    x = torch.randn(2, 2, 8, 8)
    assert restored.config() == encoder.config()
    assert torch.equal(restored(x), encoder(x))


def test_registers_are_attended_to_but_not_returned() -> None:
    encoder = image_encoder(registers=3)
    x, keep = torch.randn(2, 2, 8, 8), torch.tensor([[0, 7]] * 2)
    before, kept = encoder(x), encoder(x, keep=keep)
    assert before.shape == (2, 16, 16)
    assert kept.shape == (2, 2, 16)
    assert encoder.registers is not None
    assert encoder.registers.shape == (3, 16)
    encoder.registers.data.normal_()
    assert not torch.allclose(encoder(x), before, atol=1e-4)
    assert not torch.allclose(encoder(x, keep=keep), kept, atol=1e-4), "a mask never hides a register"
    assert image_encoder().registers is None
    assert Encoder(16, 3, registers=2, depth=1)(torch.randn(4, 3)).shape == (4, 16), "a vector may use them too"


def test_a_stored_table_begins_as_the_fixed_one_is_saved_and_never_trained() -> None:
    encoder = image_encoder(positions="table")
    twin = image_encoder()
    assert encoder.state_dict().keys() - twin.state_dict().keys() == {"positions.table"}
    twin.load_state_dict(encoder.state_dict(), strict=False)
    x = torch.randn(2, 2, 8, 8)
    assert torch.equal(encoder(x), twin(x))
    assert not any("table" in name for name, _ in encoder.named_parameters())
    own = encoder.state_dict()
    own["positions.table"] = torch.randn(16, 16)
    encoder.load_state_dict(own)
    assert not torch.allclose(encoder(x), twin(x), atol=1e-3)
    with pytest.raises(ValueError, match=r"holds the positions of a \(4, 4\) grid"):
        encoder(torch.randn(2, 2, 4, 4))


def test_rotary_positions_add_nothing_to_tokens_and_turn_queries_and_keys_of_every_block() -> None:
    encoder = image_encoder(positions="rotary")
    x = torch.randn(2, 2, 8, 8)
    tokens = tokens_of(encoder, x)
    turns = rotary_positions((4, 4), 8)
    for block in encoder.blocks:
        tokens = block(tokens, rotation=turns)
    torch.testing.assert_close(encoder(x), encoder.norm(tokens))
    plain = tokens_of(encoder, x)
    for block in encoder.blocks:
        plain = block(plain)
    assert not torch.allclose(encoder(x), encoder.norm(plain), atol=1e-3)


def test_rotary_positions_of_a_video_equal_those_of_a_published_block() -> None:
    """One block against the formula, with every product written out over (time, row, column)."""
    tokenizer = VideoTokenizer(4, 4, 2)
    encoder = enlivened(Encoder(12, depth=1, num_heads=1, tokenizer=tokenizer, positions="rotary")).double()
    x = torch.randn(1, 3, 4, 4, 4, dtype=torch.float64)
    tokens = tokens_of(encoder, x)[0]
    block: Any = encoder.blocks[0]
    qkv = block.attn.qkv(block.norm1(tokens))
    turned = []
    for part in (qkv[:, :12], qkv[:, 12:24]):
        rows = []
        for token, (time, row, column) in enumerate([(t, r, c) for t in (0, 1) for r in (0, 1) for c in (0, 1)]):
            axes = []
            for axis, position in enumerate((time, row, column)):
                a, b, c, d = part[token, 4 * axis : 4 * axis + 4]
                fast, slow = (torch.tensor(position * w, dtype=torch.float64) for w in (1.0, 0.01))
                axes += [
                    a * fast.cos() - b * fast.sin(),
                    b * slow.cos() + a * slow.sin(),
                    c * fast.cos() - d * fast.sin(),
                    d * slow.cos() + c * slow.sin(),
                ]
            rows.append(torch.stack(axes))
        turned.append(torch.stack(rows))
    mixed = torch.softmax(turned[0] @ turned[1].T / math.sqrt(12), dim=1) @ qkv[:, 24:]
    middle = tokens + block.attn.proj(mixed)
    expected = encoder.norm(middle + block.mlp(block.norm2(middle)))
    torch.testing.assert_close(encoder(x)[0], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("positions", ["sincos", "rotary"])
def test_small_crops_are_encoded_with_positions_spread_over_the_whole_extent(positions: Any) -> None:
    encoder = image_encoder(1, positions=positions)
    crop = torch.randn(3, 2, 4, 6)
    assert encoder(crop).shape == (3, 6, 16)
    tokens = tokens_of(encoder, crop)
    if positions == "sincos":
        expected = encoder.blocks[0](tokens + sincos_positions((2, 3), 16, (4, 4)))
    else:
        expected = encoder.blocks[0](tokens, rotation=rotary_positions((2, 3), 8, (4, 4)))
    torch.testing.assert_close(encoder(crop), encoder.norm(expected))


def test_sequences_of_any_length_have_rotary_positions_too() -> None:
    encoder = Encoder(16, 3, depth=2, positions="rotary")
    x = torch.randn(2, 9, 3)
    short = encoder(x[:, :4])
    assert encoder(x).shape == (2, 9, 16)
    assert torch.equal(encoder(x[:, :4]), short)
    assert not torch.allclose(encoder(x), encoder(x.flip(1)).flip(1), atol=1e-4)
    assert encoder(torch.randn(2, 3)).shape == (2, 16)


def test_masks_need_an_input_of_the_tokenizers_own_size() -> None:
    for masks in ({"keep": torch.tensor([[0, 1]])}, {"only": torch.tensor([[0, 1]])}):
        with pytest.raises(ValueError, match=r"takes a batch of shape \(B, 2, 8, 8\), got \(1, 2, 4, 4\)"):
            image_encoder()(torch.zeros(1, 2, 4, 4), **masks)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpointed_blocks_give_the_same_gradients(precision: str) -> None:
    gradients = []
    x = torch.randn(2, 2, 8, 8)
    for checkpoint_blocks in (False, True):
        torch.manual_seed(0)
        encoder = image_encoder(3, checkpoint_blocks=checkpoint_blocks)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = encoder(x).float().square().sum()
        calls: list[int] = []
        encoder.blocks[0].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        gradients.append(torch.autograd.grad(loss, list(encoder.parameters())))
        assert len(calls) == checkpoint_blocks, "computed again in the backward pass"
    assert all(torch.equal(kept, computed) for kept, computed in zip(*gradients, strict=True))


@pytest.mark.parametrize("positions", ["sincos", "table", "rotary"])
def test_a_half_precision_encoder_stays_in_half_precision_and_near_the_exact_one(positions: Any) -> None:
    encoder = image_encoder(positions=positions, registers=1)
    x = torch.randn(2, 2, 8, 8)
    exact = encoder(x)
    rough = encoder.bfloat16()(x.bfloat16())
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).norm() < 0.03 * exact.norm()


def test_options_that_do_not_fit_are_errors_that_name_them() -> None:
    with pytest.raises(ValueError, match="registers must be at least 0, got -1"):
        image_encoder(registers=-1)
    with pytest.raises(ValueError, match="positions must be one of 'sincos', 'table', 'rotary', got 'learned'"):
        image_encoder(positions="learned")
    with pytest.raises(ValueError, match="positions='table' needs a grid of known size"):
        Encoder(16, 3, positions="table")
    with pytest.raises(ValueError, match="positions='rotary' needs heads of an even number of features, at least 4"):
        Encoder(16, num_heads=8, tokenizer=ImageTokenizer(8, 2), positions="rotary")


@pytest.mark.parametrize(("count", "computed"), [(5, 5), (16, 16), (40, 16)])
def test_another_device_is_never_asked_how_many_different_tokens_are_wanted(count: int, computed: int) -> None:
    with torch.device("meta"):  # has no values to ask for
        encoder = image_encoder()
        seen: list[int] = []
        encoder.norm.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
        out = encoder(torch.randn(3, 2, 8, 8), only=torch.zeros(3, count, dtype=torch.int64))
    assert out.shape == (3, count, 16)
    assert seen == [computed]


def test_wanted_positions_must_be_one_row_a_sample() -> None:
    with pytest.raises(ValueError, match=r"\(5, K\), got \(1, 2\)"):
        image_encoder()(torch.zeros(5, 2, 8, 8), only=torch.tensor([[0, 1]]))
