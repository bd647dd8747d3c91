"""Residual networks: published sizes, the residual sum, samples apart, and the trip to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jepa.models import JEPA, Predictor, ResNet
from jepa.models.resnet import Norm, ResidualBlock
from jepa.objectives import Draw, StatePair


# Published with a classifier of 1,000 classes: 11,689,512, 21,797,672 and 25,557,032 parameters.
@pytest.mark.parametrize(
    ("depth", "hidden_dim", "published"), [(18, 512, 11_689_512), (34, 512, 21_797_672), (50, 2048, 25_557_032)]
)
def test_parameters_are_as_many_as_published_without_the_classifier(
    depth: int, hidden_dim: int, published: int
) -> None:
    with torch.device("meta"):
        model = ResNet(depth, small_images=False, norm="batch")
    assert model.hidden_dim == hidden_dim
    assert sum(parameter.numel() for parameter in model.parameters()) == published - 1000 * (hidden_dim + 1)


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("depth", [18, 50])
def test_images_become_vectors_of_the_width_it_names(depth: int, norm: Norm) -> None:
    model = ResNet(depth, width=4, channels=1, norm=norm)
    assert model(torch.randn(2, 1, 16, 16)).shape == (2, model.hidden_dim)


def test_small_images_are_halved_three_times_and_large_ones_five() -> None:
    x = torch.randn(1, 3, 64, 64)
    for small, side in ((True, 8), (False, 2)):
        model = ResNet(18, width=4, small_images=small)
        maps = model.blocks(model.stem(x))
        assert maps.shape == (1, 32, side, side)
        torch.testing.assert_close(model(x), maps.mean((2, 3)))


def test_samples_stay_apart_with_group_norm() -> None:
    model = ResNet(18, width=4)
    x = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]))


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_is_its_convolutions_plus_its_shortcut(bottleneck: bool, stride: int) -> None:
    block = ResidualBlock(8, 4, stride, bottleneck, "group").double()
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    y = x
    strides = iter([1, stride, 1] if bottleneck else [stride, 1])
    parts = [part for convolution in block.convolutions for part in convolution.children()]
    for index in range(0, len(parts), 2):
        convolution, norm = parts[index : index + 2]
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.GroupNorm)
        y = F.conv2d(y, convolution.weight, stride=next(strides), padding=convolution.kernel_size[0] // 2)
        y = (y - y.mean((1, 2, 3), keepdim=True)) / (y.var((1, 2, 3), correction=0, keepdim=True) + norm.eps).sqrt()
        y = y.relu() if index + 2 < len(parts) else y
    torch.testing.assert_close(block(x), F.relu(y + block.shortcut(x)))
    assert isinstance(ResidualBlock(8, 2 if bottleneck else 8, 1, bottleneck, "group").shortcut, nn.Identity)


def test_groups_hold_about_sixteen_channels_and_divide_them() -> None:
    sizes = {}
    for width in (4, 16, 40, 56, 64):
        block = ResidualBlock(width, width, 1, False, "group")
        sizes[width] = next(part.num_groups for part in block.modules() if isinstance(part, nn.GroupNorm))
    assert sizes == {4: 1, 16: 1, 40: 2, 56: 2, 64: 4}


def test_it_trains_as_an_encoder_and_every_parameter_gets_a_gradient() -> None:
    encoder = ResNet(18, width=4, channels=1)
    objective = StatePair(JEPA(encoder, Predictor(encoder.hidden_dim, depth=1)))
    weights = {name: torch.tensor(spec.default) for name, spec in objective.hyper_parameters.items()}
    losses = objective(objective.views(tuple(torch.randn(2, 6, 1, 16, 16)), Draw(0, 0)), weights)
    losses.loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in encoder.parameters())


def test_a_trip_to_files_and_back_keeps_arguments_outputs_and_running_statistics(tmp_path: Path) -> None:
    model = ResNet(18, width=4, channels=1, norm="batch")
    model(torch.randn(4, 1, 16, 16))
    restored = ResNet.from_pretrained(model.save_pretrained(tmp_path))
    x = torch.randn(2, 1, 16, 16)
    assert restored.config() == model.config()
    assert torch.equal(restored.eval()(x), model.eval()(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 101}, "depth must be one of 18, 34, 50, got 101"),
        ({"width": 0}, "width and channels must be at least 1, got 0 and 3"),
        ({"channels": 0}, "got 64 and 0"),
        ({"norm": "layer"}, "norm must be one of 'group', 'batch', got 'layer'"),
    ],
)
def test_unknown_forms_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResNet(**options)


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (3, 8, 8), (2, 3, 8)])
def test_a_wrong_shape_is_an_error_that_names_it(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"takes images \(B, 3, H, W\), got \(.*; set channels="):
        ResNet(18, width=4)(torch.zeros(shape))
