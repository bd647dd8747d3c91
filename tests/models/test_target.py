"""Target branches: the moving average against its formula, and who gets gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from jepa.models import JEPA, EMATarget, Encoder, Predictor, SharedTarget, StopGradientTarget
from jepa.models.target import TARGETS, make_target


def test_update_follows_the_formula_step_by_step() -> None:
    encoder = Encoder(8, 3, depth=1).double()
    target = EMATarget(encoder)
    expected = {name: p.detach().clone() for name, p in encoder.named_parameters()}
    for momentum in (0.996, 0.5, 0.0, 0.9, 1.0):
        for parameter in encoder.parameters():
            parameter.data += torch.randn_like(parameter)
        target.update(momentum)
        for name, parameter in encoder.named_parameters():
            expected[name] = momentum * expected[name] + (1 - momentum) * parameter.detach()
        for name, average in target.encoder.named_parameters():
            torch.testing.assert_close(average, expected[name], rtol=1e-12, atol=1e-12)


def test_momentum_one_freezes_and_momentum_zero_copies_exactly() -> None:
    encoder = nn.Linear(3, 3)
    target = EMATarget(encoder)
    first = target.encoder.weight.clone()
    encoder.weight.data.normal_()
    target.update(1.0)
    assert torch.equal(target.encoder.weight, first)
    target.update(0.0)
    assert torch.equal(target.encoder.weight, encoder.weight)


@pytest.mark.parametrize("momentum", [-0.01, 1.01, float("nan"), float("inf")])
def test_momentum_out_of_range_is_refused_and_nothing_moves(momentum: float) -> None:
    encoder = nn.Linear(2, 2)
    target = EMATarget(encoder)
    before = target.encoder.weight.clone()
    encoder.weight.data.normal_()
    with pytest.raises(ValueError, match=r"EMA momentum must lie in \[0, 1\], got"):
        target.update(momentum)
    assert torch.equal(target.encoder.weight, before)


def test_running_statistics_are_copied_not_averaged() -> None:
    encoder = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    target = EMATarget(encoder)
    for _ in range(3):
        encoder(torch.randn(16, 3) + 5)
        target.update(0.9)
        for name, buffer in encoder.named_buffers():
            assert torch.equal(target.encoder.get_buffer(name), buffer), name
    assert target.encoder.get_buffer("1.num_batches_tracked") == 3


class Counter(nn.Module):
    """Replaces its buffer instead of changing it in place, as much user code does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("seen", torch.zeros(()))
        self.seen: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.seen + len(x)
        return self.linear(x)


def test_buffers_that_the_encoder_replaces_are_copied_too() -> None:
    encoder = Counter()
    target = EMATarget(encoder)
    for step in range(1, 4):
        encoder(torch.zeros(5, 2))
        target.update(0.9)
        assert target.encoder.seen == 5 * step


def test_buffers_outside_the_state_are_not_copied() -> None:
    encoder = Encoder(8, 3, depth=1)
    target = EMATarget(encoder)
    encoder(torch.zeros(2, 9, 3))  # extends the encoder's own position table
    target.update(0.5)
    assert len(encoder.positions.table) == 9
    assert len(target.encoder.positions.table) == 1


@pytest.mark.parametrize("replaces", [False, True])
def test_update_follows_tensors_that_a_move_or_a_load_replaced(replaces: bool) -> None:
    kept = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(replaces)  # some devices always replace them
    try:
        check_update_after_a_move()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(kept)


def check_update_after_a_move() -> None:
    model = JEPA(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), nn.Linear(2, 2))
    model.target.update(0.5)
    model.double()
    model.target.update(0.5)
    model.load_state_dict({name: value + 1 for name, value in model.state_dict().items()})
    model.encoder[0].weight.data.zero_()
    model.target.update(0.0)
    for (name, own), average in zip(
        model.encoder.state_dict().items(), model.target.encoder.state_dict().values(), strict=True
    ):
        assert torch.equal(own, average), name


def test_a_copied_model_averages_its_own_encoder() -> None:
    model = JEPA(nn.Linear(2, 2), nn.Linear(2, 2))
    model.target.update(0.5)
    twin = copy.deepcopy(model)
    twin.encoder.weight.data.fill_(7)
    twin.target.update(0.0)
    assert (twin.target.encoder.weight == 7).all()
    assert not (model.target.encoder.weight == 7).any()
    assert twin.target.source is twin.encoder


def test_tied_weights_are_averaged_once() -> None:
    encoder = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    encoder[1].weight = encoder[0].weight
    target = EMATarget(encoder)
    before = target.encoder[0].weight.clone()
    encoder[0].weight.data.zero_()
    target.update(0.5)
    assert target.encoder[0].weight is target.encoder[1].weight
    torch.testing.assert_close(target.encoder[0].weight, before / 2)


@pytest.mark.parametrize("kind", list(TARGETS))
def test_only_a_shared_target_lets_gradients_through(kind: str) -> None:
    encoder = nn.Linear(3, 3)
    out = make_target(kind, encoder)(torch.randn(4, 3))
    assert out.requires_grad == (kind == "shared")


def test_an_average_is_never_trainable_and_the_encoder_is_counted_once() -> None:
    model = JEPA(Encoder(8, 3, depth=1), Predictor(8, depth=1), target="ema")
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert trainable == {id(p) for part in (model.encoder, model.predictor) for p in part.parameters()}
    assert not any(p.requires_grad for p in model.target.parameters())
    assert len(list(model.target.parameters())) == len(list(model.encoder.parameters()))
    for kind in ("stop_gradient", "shared"):
        assert list(JEPA(nn.Linear(2, 2), nn.Linear(2, 2), target=kind).target.parameters()) == []


def test_the_average_begins_as_a_copy_that_shares_no_memory() -> None:
    encoder = Encoder(8, 3, depth=1)
    target = EMATarget(encoder)
    pairs = zip(encoder.parameters(), target.encoder.parameters(), strict=True)
    assert all(torch.equal(a, b) and a.data_ptr() != b.data_ptr() for a, b in pairs)


@pytest.mark.parametrize("cls", [SharedTarget, StopGradientTarget])
def test_targets_without_an_average_use_the_encoder_itself(cls: type[SharedTarget]) -> None:
    encoder = nn.Linear(2, 2)
    target = cls(encoder)
    x = torch.randn(3, 2)
    assert target.encoder is encoder
    target.update(0.5)
    encoder.weight.data.zero_()
    assert torch.equal(target(x), encoder(x))


def test_an_unknown_kind_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(ValueError, match="one of 'ema', 'stop_gradient', 'shared', got 'moving'"):
        make_target("moving", nn.Linear(2, 2))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_the_average_of_a_half_precision_encoder_follows_where_a_half_precision_average_would_stand_still(
    half: torch.dtype,
) -> None:
    encoder = nn.Linear(8, 8).to(half)
    encoder.weight.data.fill_(1.0)
    target = EMATarget(encoder)
    naive = encoder.weight.detach().clone()
    encoder.weight.data.fill_(1.5)
    for _ in range(1000):
        target.update(0.9995)
        naive.lerp_(encoder.weight.detach(), 0.0005)
    assert target.encoder.weight.dtype == torch.float32
    expected = 1.5 - 0.5 * 0.9995**1000
    torch.testing.assert_close(target.encoder.weight, torch.full((8, 8), expected), rtol=1e-5, atol=0)
    assert (naive == 1.0).all()


def test_a_model_moved_to_half_precision_keeps_its_average_exact() -> None:
    model = JEPA(Encoder(8, 3, depth=1), Predictor(8, depth=1))
    exact = {name: p.clone() for name, p in model.target.encoder.named_parameters()}
    model.bfloat16()
    model.to(torch.float16)
    assert {p.dtype for part in (model.encoder, model.predictor) for p in part.parameters()} == {torch.float16}
    for name, average in model.target.encoder.named_parameters():
        assert torch.equal(average, exact[name]), name
    model.double()
    assert {p.dtype for p in model.parameters()} == {torch.float64}


def test_the_average_of_a_half_precision_encoder_encodes_as_that_encoder_does() -> None:
    encoder = Encoder(16, 3, depth=2).bfloat16()
    target = EMATarget(encoder)
    x = torch.randn(4, 5, 3).bfloat16()
    embedding, own = target(x), encoder(x)
    assert embedding.dtype == torch.bfloat16
    assert (embedding.float() - own.float()).norm() < 0.03 * own.float().norm()
    only = torch.tensor([[0, 3]] * 4)
    assert torch.equal(target(x, only=only), target(x)[:, [0, 3]])


def test_an_encoder_moved_by_itself_is_noticed() -> None:
    encoder = nn.Linear(4, 4)
    target = EMATarget(encoder)
    target.update(0.5)
    encoder.bfloat16()
    assert target(torch.randn(2, 4).bfloat16()).dtype == torch.bfloat16
    encoder.weight.data.fill_(2.0)
    target.update(0.0)
    assert (target.encoder.weight == 2.0).all()
    assert target.encoder.weight.dtype == torch.float32


@pytest.mark.parametrize("kind", list(TARGETS))
@pytest.mark.parametrize("knows", [True, False])
def test_wanted_tokens_are_those_of_the_whole_for_any_kind_and_any_encoder(kind: str, knows: bool) -> None:
    inner = Encoder(8, 3, depth=2)
    encoder = inner if knows else nn.Sequential(inner)
    target = make_target(kind, encoder)
    x, only = torch.randn(2, 5, 3), torch.tensor([[4, 1, 1], [0, 2, 3]])
    whole = target(x)
    torch.testing.assert_close(target(x, only=only), torch.stack([whole[0, only[0]], whole[1, only[1]]]))
