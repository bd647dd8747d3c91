"""Predictors: shapes, samples apart, and what a masked predictor may know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from jepa.models import MaskedPredictor, Predictor
from jepa.models.positions import sincos_positions


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
        asked = predictor.mask_tokens + table[target_mask[sample]]
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
    with pytest.raises(ValueError, match=r"takes a context of shape \(B, C, 16\).*got \(3, 3, 8\)"):
        predictor(context[..., :8], context_mask, target_mask)
    with pytest.raises(ValueError, match=r"takes a context of shape \(B, C, 16\).*got \(3, 16\)"):
        predictor(context[:, 0], context_mask, target_mask)
    with pytest.raises(ValueError, match=r"one position for each.*\(3, 2\)"):
        predictor(context, context_mask[:, :2], target_mask)
    with pytest.raises(ValueError, match=r"target positions of shape \(3, M\) or \(3, K, M\), got \(2, 2\)"):
        predictor(context, context_mask, target_mask[:2])
    with pytest.raises(ValueError, match=r"target positions of shape \(3, M\) or \(3, K, M\), got \(2,\)"):
        predictor(context, context_mask, target_mask[0])


@pytest.mark.parametrize("cls", [Predictor, MaskedPredictor])
def test_sizes_that_do_not_fit_are_errors_that_name_them(cls: type) -> None:
    grid = ((2, 2),) if cls is MaskedPredictor else ()
    with pytest.raises(ValueError, match="at least 1, got 0 and 2"):
        cls(0, *grid)
    with pytest.raises(ValueError, match="at least 1, got 8 and 0"):
        cls(8, *grid, depth=0)
    with pytest.raises(ValueError, match="num_heads=3 must divide the width"):
        cls(8, *grid, num_heads=3)


OPTIONS: dict[str, dict[str, Any]] = {
    "sincos": {},
    "table": {"positions": "table"},
    "rotary": {"positions": "rotary"},
    "checkpointed": {"checkpoint_blocks": True},
    "three groups": {"num_mask_tokens": 3},
}


def lively(**options: Any) -> MaskedPredictor:
    """With larger weights than at the start, where attention hardly matters yet."""
    predictor = MaskedPredictor(16, (3, 4), num_heads=2, **options).double()
    for block in predictor.blocks:
        for parameter in block.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return predictor


@pytest.mark.parametrize("option", OPTIONS)
def test_computing_targets_only_in_the_last_block_changes_neither_result_nor_gradients(option: str) -> None:
    predictor = lively(**OPTIONS[option])
    _, context, context_mask, target_mask = masked()
    context = context.double().requires_grad_()
    group = 1 if option == "three groups" else None
    out = predictor(context, context_mask, target_mask, group)
    tokens, turns = predictor.positions(
        torch.cat([predictor.embed(context), predictor.mask_tokens[group or 0].expand(3, 2, -1)], 1),
        torch.float64,
        index=torch.cat([context_mask, target_mask], 1),
    )
    for block in predictor.blocks:
        tokens = block(tokens, rotation=turns)
    full = predictor.proj(predictor.norm(tokens))[:, 3:]
    torch.testing.assert_close(out, full)
    weight, wanted = torch.randn_like(out), [context, *predictor.parameters()]
    for lean, other in zip(
        torch.autograd.grad((out * weight).sum(), wanted),
        torch.autograd.grad((full * weight).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(lean, other, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("checkpoint_blocks", [False, True])
def test_checkpointed_blocks_are_computed_again_in_the_backward_pass(checkpoint_blocks: bool) -> None:
    predictor = MaskedPredictor(16, (3, 4), checkpoint_blocks=checkpoint_blocks)
    _, *inputs = masked()
    loss, calls = predictor(*inputs).sum(), []
    predictor.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    loss.backward()
    assert len(calls) == checkpoint_blocks


def test_the_last_block_computes_no_context() -> None:
    predictor, context, context_mask, target_mask = masked()
    seen: list[int] = []
    for module in (*(block.get_submodule("mlp") for block in predictor.blocks), predictor.norm, predictor.proj):
        module.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    predictor(context, context_mask, target_mask)
    assert seen == [5, 2, 2, 2]


@pytest.mark.parametrize("option", OPTIONS)
def test_blocks_are_predicted_as_if_each_were_alone(option: str) -> None:
    predictor = lively(**OPTIONS[option])
    _, context, context_mask, target_mask = masked()
    context, group = context.double(), 2 if option == "three groups" else None
    blocks = torch.stack([target_mask, target_mask.flip(0), target_mask.flip(1), target_mask.roll(1)], dim=1)
    out = predictor(context, context_mask, blocks, group)
    assert out.shape == (3, 4, 2, 16)
    for block in range(4):
        torch.testing.assert_close(out[:, block], predictor(context, context_mask, blocks[:, block], group))


@pytest.mark.parametrize("positions", ["sincos", "table", "rotary"])
def test_the_order_in_which_context_and_targets_are_given_does_not_matter(positions: str) -> None:
    predictor = lively(positions=positions)
    _, context, context_mask, target_mask = masked()
    context = context.double()
    before = predictor(context, context_mask, target_mask)
    torch.testing.assert_close(predictor(context.flip(1), context_mask.flip(1), target_mask.flip(1)), before.flip(1))
    assert not torch.allclose(predictor(context, context_mask.flip(1), target_mask), before, atol=1e-3)


def test_one_mask_token_begins_random_and_one_a_group_begins_at_zero() -> None:
    assert MaskedPredictor(16, (4,), predictor_dim=256).mask_tokens.std().item() == pytest.approx(0.02, rel=0.15)
    tokens = MaskedPredictor(16, (4,), num_mask_tokens=3).mask_tokens
    assert tokens.shape == (3, 8)
    assert not tokens.any()


def test_each_group_has_a_mask_token_of_its_own_and_trains_only_that() -> None:
    predictor = lively(num_mask_tokens=2)
    predictor.mask_tokens.data.normal_()
    _, context, context_mask, target_mask = masked()
    first, second = (predictor(context.double(), context_mask, target_mask, group=group) for group in (0, 1))
    assert not torch.allclose(first, second, atol=1e-3)
    (gradient,) = torch.autograd.grad(second.square().sum(), predictor.mask_tokens)
    assert not gradient[0].any()
    assert gradient[1].all()


def test_a_group_must_be_said_where_there_are_several_and_exist() -> None:
    _, *inputs = masked()
    several, one = MaskedPredictor(16, (3, 4), num_mask_tokens=2), MaskedPredictor(16, (3, 4))
    with pytest.raises(ValueError, match=r"has 2 mask tokens, .* say which with group=0 to 1"):
        several(*inputs)
    for group in (2, -1):
        with pytest.raises(ValueError, match=rf"group must lie in 0 to 1, got {group}"):
            several(*inputs, group=group)
    with pytest.raises(ValueError, match="group must lie in 0 to 0, got 1"):
        one(*inputs, group=1)
    assert torch.equal(one(*inputs), one(*inputs, group=0))


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_survives_saving(option: str, tmp_path: Path) -> None:
    predictor = MaskedPredictor(16, (3, 4), **OPTIONS[option])
    restored = MaskedPredictor.from_pretrained(predictor.save_pretrained(tmp_path))
    assert restored.config() == predictor.config()
    assert restored.state_dict().keys() == predictor.state_dict().keys()
    assert ("positions.table" in predictor.state_dict()) == (option == "table")


def test_options_of_the_masked_predictor_that_do_not_fit_are_errors_that_name_them() -> None:
    with pytest.raises(ValueError, match="num_mask_tokens must be at least 1, got 0"):
        MaskedPredictor(16, (3, 4), num_mask_tokens=0)
    with pytest.raises(ValueError, match=r"grid must hold positive sizes, got \(3, 0\)"):
        MaskedPredictor(16, (3, 0))
    with pytest.raises(ValueError, match=r"grid must hold positive sizes, got \(\)"):
        MaskedPredictor(16, ())
    with pytest.raises(ValueError, match="predictor_dim must be at least 1, got 0"):
        MaskedPredictor(16, (3, 4), predictor_dim=0)
    with pytest.raises(ValueError, match=r"positions must be one of .*got .none."):
        MaskedPredictor(16, (3, 4), positions="none")  # type: ignore[arg-type]
