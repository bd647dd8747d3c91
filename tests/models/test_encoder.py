"""The built-in encoder: what it takes, what it refuses, and that samples stay apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jepa.models import Encoder, ImageTokenizer, SeriesTokenizer
from jepa.models.layers import sincos_positions

KINDS = ["vectors", "tokens", "images", "series"]


def encoder_and_input(kind: str, batch: int = 5) -> tuple[Encoder, Tensor]:
    if kind == "vectors":
        return Encoder(16, 3, depth=2), torch.randn(batch, 3)
    if kind == "tokens":
        return Encoder(16, 3, depth=2), torch.randn(batch, 7, 3)
    if kind == "images":
        return Encoder(16, depth=2, tokenizer=ImageTokenizer(8, 2, channels=2)), torch.randn(batch, 2, 8, 8)
    return Encoder(16, depth=2, tokenizer=SeriesTokenizer(12, 3, channels=2)), torch.randn(batch, 2, 12)


@pytest.mark.parametrize(
    ("kind", "shape"), [("vectors", (5, 16)), ("tokens", (5, 7, 16)), ("images", (5, 16, 16)), ("series", (5, 4, 16))]
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
    assert torch.equal(image_encoder.positions, sincos_positions((4, 4), 16))


@pytest.mark.parametrize("kind", ["tokens", "images", "series"])
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
    with pytest.raises(ValueError, match=r"keep= picks tokens, but the input is a batch of vectors \(5, 3\)"):
        encoder(x, keep=torch.zeros(5, 1, dtype=torch.int64))
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
