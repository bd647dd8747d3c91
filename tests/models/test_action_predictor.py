"""Action predictor: causality, the formula of a block, the beginning as identity, and rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from jepa.models import ActionPredictor
from jepa.models.action_predictor import ConditionedBlock, frame_mask, roll_out


def predictor(*, grid: tuple[int, ...] | None = None, history: int = 4, **options: Any) -> ActionPredictor:
    """A small one in double precision, whose gates are open as after some training."""
    model = ActionPredictor(8, 2, history=history, grid=grid, depth=2, num_heads=2, **options).double()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def trajectory(frames: int = 4, tokens: tuple[int, ...] = (), batch: int = 3) -> tuple[Tensor, Tensor]:
    context = torch.randn(batch, frames, *tokens, 8, dtype=torch.float64)
    return context, torch.randn(batch, frames, 2, dtype=torch.float64)


@given(frame=st.integers(0, 3), which=st.sampled_from(["context", "action"]), grid=st.sampled_from([None, (2, 3)]))
def test_the_future_never_changes_an_earlier_prediction(frame: int, which: str, grid: tuple[int, ...] | None) -> None:
    torch.manual_seed(0)
    model = predictor(grid=grid)
    context, actions = trajectory(tokens=() if grid is None else (6,))
    before = model(context, actions)
    (context if which == "context" else actions)[:, frame] += 1
    after = model(context, actions)
    assert torch.equal(before[:, :frame], after[:, :frame])
    for later in range(frame, 4):
        assert not torch.allclose(before[:, later], after[:, later]), f"frame {later} does not look at frame {frame}"


def test_samples_stay_apart_and_every_token_of_a_frame_sees_the_others() -> None:
    model = predictor(grid=(2, 3))
    context, actions = trajectory(tokens=(6,))
    before = model(context, actions)
    context[1, 2, 5] += 1
    after = model(context, actions)
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    for token in range(6):
        assert not torch.allclose(before[1, 2, token], after[1, 2, token])


def test_a_block_equals_its_formula_with_attention_frame_by_frame() -> None:
    block = ConditionedBlock(8, 2).double()
    for parameter in block.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    x, condition = torch.randn(2, 3, 2, 8).double(), torch.randn(2, 3, 1, 8).double()
    out = block(x, condition)
    read = condition @ block.modulation.weight.T + block.modulation.bias
    shift, scale, gate, shift2, scale2, gate2 = (read[..., 8 * part : 8 * part + 8] for part in range(6))

    def norm(y: Tensor) -> Tensor:
        return (y - y.mean(-1, keepdim=True)) / (y.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()

    seen = norm(x) * (1 + scale) + shift
    q, k, v = (seen @ block.attn.qkv.weight.T + block.attn.qkv.bias).split(8, dim=-1)
    mixed = torch.zeros_like(x)
    for sample in range(2):
        for frame in range(3):
            keys, values = (part[sample, : frame + 1].reshape(-1, 8) for part in (k, v))
            for head in (slice(0, 4), slice(4, 8)):
                scores = q[sample, frame][:, head] @ keys[:, head].T / 2
                mixed[sample, frame][:, head] = scores.softmax(-1) @ values[:, head]
    x = x + gate * (mixed @ block.attn.proj.weight.T + block.attn.proj.bias)
    x = x + gate2 * block.mlp(norm(x) * (1 + scale2) + shift2)
    torch.testing.assert_close(out, x)


def test_a_mask_computed_by_hand() -> None:
    assert frame_mask(2, 2).int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]


def test_half_precision_on_cpu_follows_the_same_formula() -> None:
    model = predictor().bfloat16()
    context, actions = (part.bfloat16() for part in trajectory())
    out = model(context, actions)
    assert out.requires_grad
    torch.testing.assert_close(out.double(), model.double()(context.double(), actions.double()), rtol=0.05, atol=0.05)


def test_at_the_beginning_blocks_are_the_identity_and_actions_do_not_matter() -> None:
    model = ActionPredictor(8, 2, depth=2, num_heads=2)
    context, actions = (part[:, :3].float() for part in trajectory())
    table = model.positions.squeeze(1)
    torch.testing.assert_close(model(context, actions), model.proj(model.norm(model.embed(context) + table)))
    assert torch.equal(model(context, actions), model(context, -actions))
    model(context, actions).sum().backward()
    gates = [block.modulation.weight.grad for block in model.blocks]  # type: ignore[union-attr]
    assert all(isinstance(gate, Tensor) and gate.any() for gate in gates), "and yet it learns from them"


def test_positions_tell_frames_and_tokens_apart() -> None:
    model = predictor(grid=(2, 3))
    context, actions = torch.ones(1, 4, 6, 8).double(), torch.ones(1, 4, 2).double()
    out = model(context, actions)[0].flatten(0, 1)
    assert len(out.unique(dim=0)) == 24


@pytest.mark.parametrize("grid", [None, (2, 3)])
def test_one_step_of_a_rollout_equals_teacher_forcing(grid: tuple[int, ...] | None) -> None:
    model = predictor(grid=grid)
    context, actions = trajectory(tokens=() if grid is None else (6,))
    forced = model(context, actions)
    for known in range(1, 5):
        step = model.rollout(context[:, :known], actions[:, :known])
        assert step.shape == (3, 1, *context.shape[2:])
        torch.testing.assert_close(step[:, 0], forced[:, known - 1])


def test_a_rollout_feeds_predictions_back_and_forgets_what_is_older_than_its_history() -> None:
    model = predictor(history=2)
    start, actions = torch.randn(3, 3, 8).double(), torch.randn(3, 5, 2).double()
    first = model(start[:, 1:3], actions[:, 1:3])[:, -1]
    second = model(torch.stack([start[:, 2], first], 1), actions[:, 2:4])[:, -1]
    third = model(torch.stack([first, second], 1), actions[:, 3:5])[:, -1]
    torch.testing.assert_close(model.rollout(start, actions), torch.stack([first, second, third], 1))


def test_a_rollout_of_a_linear_predictor_computed_by_hand() -> None:
    class Linear(nn.Module):
        def forward(self, context: Tensor, actions: Tensor) -> Tensor:
            return 2 * context + actions

    start, actions = torch.tensor([[[1.0], [3.0]]]), torch.tensor([[[9.0], [1.0], [0.0], [-4.0]]])
    # 2 * 3 + 1, 2 * 7 + 0, 2 * 14 - 4; the action between the two known frames is past
    assert roll_out(Linear(), start, actions, history=1).flatten().tolist() == [7.0, 14.0, 24.0]


def test_the_sizes_of_leworldmodel_are_accepted() -> None:
    with torch.device("meta"):
        model = ActionPredictor(192, 10, num_heads=16)
    assert len(model.blocks) == 6
    assert model.history == 3


def test_gradients_agree_with_finite_differences() -> None:
    model = predictor(history=2)
    context, actions = (part[:1, :2].clone().requires_grad_() for part in trajectory())
    assert torch.autograd.gradcheck(lambda c, a: model(c, a).tanh(), (context, actions))


@pytest.mark.parametrize("grid", [None, (2, 3)])
def test_a_trip_to_files_and_back_keeps_arguments_and_outputs(grid: Any, tmp_path: Path) -> None:
    model = predictor(grid=grid, predictor_dim=12).float()
    restored = ActionPredictor.from_pretrained(model.save_pretrained(tmp_path))
    assert restored.config() == model.config()
    context, actions = (part.float() for part in trajectory(tokens=() if grid is None else (6,)))
    assert torch.equal(restored(context, actions), model(context, actions))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action_dim": 0}, "action_dim must be at least 1, got 0"),
        ({"history": 0}, "history must be at least 1, got 0"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"grid": (2, 0)}, "grid must be at least 1, got 0"),
        ({"num_heads": 3}, "num_heads=3 must divide the width 8"),
        ({"num_heads": 0}, "num_heads must be at least 1, got 0"),
        ({"num_heads": -1}, "num_heads must be at least 1, got -1"),
        ({"mlp_ratio": -1.0}, "mlp_ratio must be positive .*, got -1.0"),
    ],
)
def test_sizes_that_make_no_predictor_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ActionPredictor(**{"hidden_dim": 8, "action_dim": 2, **options})


def test_shapes_that_do_not_fit_are_errors_that_name_the_numbers() -> None:
    model, of_tokens = ActionPredictor(8, 2, depth=1), ActionPredictor(8, 2, grid=(2, 3), depth=1)
    actions = torch.zeros(4, 3, 2)
    with pytest.raises(ValueError, match=r"takes frames \(B, T, 8\), got \(4, 3, 6, 8\); pass grid="):
        model(torch.zeros(4, 3, 6, 8), actions)
    with pytest.raises(ValueError, match=r"takes frames \(B, T, 8\), got \(4, 8\)"):
        model(torch.zeros(4, 8), actions)
    with pytest.raises(ValueError, match=r"takes frames \(B, T, 6, 8\), got \(4, 3, 8\); its grid is \(2, 3\)"):
        of_tokens(torch.zeros(4, 3, 8), actions)
    with pytest.raises(ValueError, match="looks at 1 to history=3 frames, got 4; pass the last ones"):
        model(torch.zeros(4, 4, 8), torch.zeros(4, 4, 2))
    with pytest.raises(ValueError, match=r"expected one action a frame, \(4, 3, 2\), got \(4, 3, 1\)"):
        model(torch.zeros(4, 3, 8), torch.zeros(4, 3, 1))
    with pytest.raises(ValueError, match=r"takes H - 1 \+ K actions, H and K at least 1; got H = 3, 2 actions"):
        model.rollout(torch.zeros(4, 3, 8), torch.zeros(4, 2, 2))
    with pytest.raises(ValueError, match="got H = 0, 2 actions"):
        model.rollout(torch.zeros(4, 0, 8), torch.zeros(4, 2, 2))
