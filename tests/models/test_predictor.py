"""Predictors: shapes, samples apart, and what a masked predictor may know."""

from __future__ import annotations

import pytest
import torch

from jepa.models import MaskedPredictor, Predictor
from jepa.models.layers import sincos_positions


@pytest.mark.parametrize("shape", [(5, 16), (5, 7, 16)])
def test_prediction_has_the_shape_of_the_context_and_samples_stay_apart(shape: tuple[int, ...]) -> None:
    predictor = Predictor(16)
    x = torch.randn(shape)
    before = predictor(x)
    changed = x.clone()
    changed[3] += 50
    after = predictor(changed)
    assert before.shape == shape
    assert torch.equal(before[[0, 1, 2, 4]], after[[0, 1, 2, 4]])
    assert not torch.allclose(before[3], after[3])


def test_a_vector_is_a_sequence_of_one_token() -> None:
    predictor = Predictor(16, depth=1)
    x = torch.randn(5, 16)
    torch.testing.assert_close(predictor(x), predictor(x.unsqueeze(1)).squeeze(1))


@pytest.mark.parametrize("shape", [(16,), (5, 8), (5, 7, 8), (5, 2, 7, 16)])
def test_a_wrong_shape_is_an_error_that_names_what_it_got_and_what_it_takes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"takes \(B, 16\) or \(B, N, 16\), got ") as caught:
        Predictor(16, depth=1)(torch.zeros(shape))
    assert f"got {shape};" in str(caught.value)


def masked() -> tuple[MaskedPredictor, torch.Tensor, torch.Tensor, torch.Tensor]:
    context_mask = torch.tensor([[0, 5, 7], [1, 2, 3], [4, 8, 9]])
    target_mask = torch.tensor([[1, 2], [10, 11], [0, 3]])
    return MaskedPredictor(16, (3, 4), depth=2), torch.randn(3, 3, 16), context_mask, target_mask


def test_masked_prediction_equals_mask_tokens_at_target_positions_after_the_context() -> None:
    predictor, context, context_mask, target_mask = masked()
    predictor.double()
    context = context.double()
    table = sincos_positions((3, 4), 8).double()
    out = predictor(context, context_mask, target_mask)
    assert out.shape == (3, 2, 16)
    for sample in range(3):
        seen = context[sample] @ predictor.embed.weight.T + predictor.embed.bias + table[context_mask[sample]]
        asked = predictor.mask_token[0] + table[target_mask[sample]]
        tokens = torch.cat([seen, asked]).unsqueeze(0)
        for block in predictor.blocks:
            tokens = block(tokens)
        torch.testing.assert_close(out[sample], predictor.proj(predictor.norm(tokens))[0, 3:])


def test_masked_predictions_of_other_samples_stay_bitwise_equal() -> None:
    predictor, context, context_mask, target_mask = masked()
    before = predictor(context, context_mask, target_mask)
    context[1] += 50
    after = predictor(context, context_mask, target_mask)
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.allclose(before[1], after[1])


def test_the_position_asked_for_decides_the_prediction() -> None:
    predictor, context, context_mask, target_mask = masked()
    first = predictor(context, context_mask, target_mask)
    torch.testing.assert_close(predictor(context, context_mask, target_mask.flip(1)), first.flip(1))
    assert not torch.allclose(first[:, 0], first[:, 1])


def test_the_inner_width_is_half_unless_given() -> None:
    assert MaskedPredictor(16, (4,)).predictor_dim == 8
    assert MaskedPredictor(1, (4,)).predictor_dim == 1
    assert MaskedPredictor(16, (4,), predictor_dim=12).embed.weight.shape == (12, 16)


def test_masked_predictor_refuses_shapes_that_do_not_fit_and_names_them() -> None:
    predictor, context, context_mask, target_mask = masked()
    with pytest.raises(ValueError, match=r"takes a context of shape \(B, K, 16\).*got \(3, 3, 8\)"):
        predictor(context[..., :8], context_mask, target_mask)
    with pytest.raises(ValueError, match=r"takes a context of shape \(B, K, 16\).*got \(3, 16\)"):
        predictor(context[:, 0], context_mask, target_mask)
    with pytest.raises(ValueError, match=r"one position for each.*\(3, 2\)"):
        predictor(context, context_mask[:, :2], target_mask)
    with pytest.raises(ValueError, match=r"\(3, K\).*got \(2, 2\)"):
        predictor(context, context_mask, target_mask[:2])


@pytest.mark.parametrize("cls", [Predictor, MaskedPredictor])
def test_sizes_that_do_not_fit_are_errors_that_name_them(cls: type) -> None:
    grid = ((2, 2),) if cls is MaskedPredictor else ()
    with pytest.raises(ValueError, match="at least 1, got 0 and 2"):
        cls(0, *grid)
    with pytest.raises(ValueError, match="at least 1, got 8 and 0"):
        cls(8, *grid, depth=0)
    with pytest.raises(ValueError, match="num_heads=3 must divide the width"):
        cls(8, *grid, num_heads=3)
