"""Augmentations: what they leave, what they change, where their numbers come from, and their use in a loader."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from jepa.augmentations import (
    BatchRandom,
    blur,
    color_jitter,
    gaussian_noise,
    grayscale,
    horizontal_flip,
    mask_features,
    random_resized_crop,
    random_scaling,
    solarize,
    time_crop,
)
from jepa.data import MemoryLoader

Change = Callable[[Tensor, BatchRandom], Tensor]


def chance(size: int, seed: int = 0, **options: Any) -> BatchRandom:
    return BatchRandom(torch.Generator().manual_seed(seed), size, **options)


def images(batch: int = 6, channels: int = 3, height: int = 8, width: int = 12) -> Tensor:
    return torch.rand(batch, channels, height, width, dtype=torch.float64)


IMAGE_CHANGES: dict[str, Change] = {
    "crop": partial(random_resized_crop, size=(4, 6), scale=(0.2, 0.8)),
    "flip": horizontal_flip,
    "jitter": color_jitter,
    "hue": partial(color_jitter, hue=0.2),
    "gray": partial(grayscale, probability=0.5),
    "blur": blur,
    "solarize": partial(solarize, probability=0.5),
    "noise": gaussian_noise,
    "scaling": random_scaling,
    "masking": partial(mask_features, probability=0.5),
}
SERIES_CHANGES: dict[str, Change] = {
    "crop": partial(time_crop, size=9),
    "scaling": random_scaling,
    "noise": gaussian_noise,
    "masking": partial(mask_features, probability=0.5),
}
CHANGES = [pytest.param(images(), change, id=f"images-{name}") for name, change in IMAGE_CHANGES.items()]
CHANGES += [
    pytest.param(torch.rand(6, 2, 15, dtype=torch.float64), change, id=f"series-{name}")
    for name, change in SERIES_CHANGES.items()
]
CHANGES += [
    pytest.param(torch.rand(6, 9, dtype=torch.float64), change, id=f"vectors-{name}")
    for name, change in {"noise": gaussian_noise, "masking": mask_features}.items()
]


@pytest.mark.parametrize(("x", "change"), CHANGES)
def test_changes_are_a_function_of_the_generator_and_of_nothing_else(x: Tensor, change: Change) -> None:
    kept, state = x.clone(), torch.get_rng_state()
    first = change(x, chance(6))
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    assert torch.equal(x, kept), "the batch itself was changed"
    assert torch.equal(change(x, chance(6)), first)
    assert not torch.equal(change(x, chance(6, seed=1)), first)
    assert first.dtype == x.dtype


@pytest.mark.parametrize(("x", "change"), CHANGES)
def test_ranks_together_change_the_global_batch(x: Tensor, change: Change) -> None:
    whole = change(x, chance(6))
    parts = [change(x[rows], chance(6, rows=rows)) for rows in (slice(0, 3), slice(3, 6))]
    torch.testing.assert_close(torch.cat(parts), whole)


@pytest.mark.parametrize(("x", "change"), CHANGES)
def test_each_sample_has_numbers_of_its_own(x: Tensor, change: Change) -> None:
    same = x[:1].expand_as(x).contiguous()
    assert len(torch.unique(change(same, chance(6)).flatten(1), dim=0)) > 1


@pytest.mark.parametrize(("x", "change"), CHANGES)
def test_half_the_precision_gives_the_same_up_to_rounding(x: Tensor, change: Change) -> None:
    torch.testing.assert_close(change(x.float(), chance(6)), change(x, chance(6)).float(), atol=1e-5, rtol=1e-4)


def test_views_of_a_sample_differ_and_come_one_view_after_the_other() -> None:
    x = torch.rand(2, 4)
    views = chance(2, views=3)
    numbers = views.uniform(x.repeat(3, 1))
    assert len(set(numbers.tolist())) == 6
    second = chance(2, views=3, rows=slice(1, 2)).uniform(x[1:].repeat(3, 1))
    assert torch.equal(second, numbers[1::2])


def test_numbers_for_another_number_of_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="random numbers are for 5 samples, but the batch has 6"):
        horizontal_flip(images(6), chance(5))


def test_numbers_are_uniform_in_their_range_and_normal() -> None:
    x = torch.zeros(20_000)
    uniform, normal = chance(20_000).uniform(x, low=-1, high=3), chance(20_000).normal(x)
    assert uniform.min() >= -1
    assert uniform.max() < 3
    assert uniform.mean().item() == pytest.approx(1, abs=0.05)
    assert normal.mean().item() == pytest.approx(0, abs=0.05)
    assert normal.std().item() == pytest.approx(1, abs=0.05)


def test_normal_numbers_are_independent_within_a_sample_and_between_samples() -> None:
    count, width = 400, 5001
    numbers = chance(count).normal(torch.zeros(count, dtype=torch.float64), width)
    assert numbers.dtype == torch.float64
    assert numbers.shape == (count, width)
    error = 1 / math.sqrt(count * width)
    moments = [float(numbers.pow(power).mean()) for power in (1, 2, 3, 4)]
    spreads = [1, math.sqrt(2), math.sqrt(15), math.sqrt(96)]
    for moment, expected, spread in zip(moments, (0, 1, 0, 3), spreads, strict=True):
        assert moment == pytest.approx(expected, abs=4 * spread * error)
    for lag in (1, 2, 2500, 2501):  # the halves are made together
        assert float((numbers[:, lag:] * numbers[:, :-lag]).mean()) == pytest.approx(0, abs=6 * error)
        squares = numbers.square() - 1
        assert float((squares[:, lag:] * squares[:, :-lag]).mean()) == pytest.approx(0, abs=12 * error)
    between = (numbers @ numbers.T / math.sqrt(width)).fill_diagonal_(0)
    assert between.abs().max() < 6
    ranks = torch.special.ndtr(numbers).flatten().sort().values
    distance = (ranks - torch.linspace(0, 1, len(ranks), dtype=torch.float64)).abs().max()
    assert distance < 1.95 * error, "Kolmogorov and Smirnov, probability 0.001"


def test_the_noise_of_a_process_is_exactly_its_part_and_costs_the_same_in_any_number_of_processes() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x = torch.zeros(12, 3, 5, dtype=dtype)
        whole = gaussian_noise(x, chance(6, views=2))
        assert whole.dtype == dtype
        parts = [gaussian_noise(x[:6], chance(6, views=2, rows=rows)) for rows in (slice(0, 3), slice(3, 6))]
        together = torch.cat([part.view(2, 3, 3, 5) for part in parts], dim=1).flatten(0, 1)
        assert torch.equal(together, whole)

    sizes: list[int] = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            sizes.extend(each.numel() for each in (result if isinstance(result, (list, tuple)) else [result]))
            return result

    with Sizes():
        gaussian_noise(torch.zeros(4, 1000), chance(4 * 64, rows=slice(0, 4)))
    assert max(sizes) == 4 * 1000


# Crops


def test_a_crop_of_everything_is_the_image() -> None:
    x = images()
    torch.testing.assert_close(random_resized_crop(x, chance(6), scale=(1, 1), ratio=(1.5, 1.5)), x)
    series = torch.rand(6, 2, 15, dtype=torch.float64)
    torch.testing.assert_close(time_crop(series, chance(6), scale=(1, 1)), series)


def coordinates(batch: int, height: int, width: int) -> Tensor:
    """(B, 2, H, W): where each pixel is, in pixels."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([columns, rows]).double().expand(batch, 2, height, width)


@given(
    height=st.integers(8, 40),
    width=st.integers(8, 40),
    low=st.floats(0.1, 1),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_crops_have_the_area_and_the_shape_asked_for_and_lie_inside(
    height: int, width: int, low: float, share: float, seed: int
) -> None:
    scale = (low, low + share * (1 - low))
    x = coordinates(8, height, width)
    # the middle of the result never lies within half a pixel of a border, where coordinates stop growing
    found = random_resized_crop(x, chance(8, seed), size=(9, 9), scale=scale, ratio=(0.5, 2))
    assert found.min() >= 0
    assert found[:, 0].max() <= width - 1
    assert found[:, 1].max() <= height - 1
    middle = found[:, :, 3:6, 3:6]
    across = (middle[:, 0, 1, 2] - middle[:, 0, 1, 1]) * 9
    down = (middle[:, 1, 2, 1] - middle[:, 1, 1, 1]) * 9
    area = across * down / (height * width)
    assert (across <= width * (1 + 1e-5)).all()
    assert (down <= height * (1 + 1e-5)).all()
    assert (area <= scale[1] * (1 + 1e-4)).all()
    assert (area >= scale[0] * (1 - 1e-4)).all()
    ratio = across / down
    fits = (across < 0.999 * width) & (down < 0.999 * height)
    assert (ratio[fits] > 0.5 * (1 - 1e-4)).all()
    assert (ratio[fits] < 2 * (1 + 1e-4)).all()


def test_crops_of_elongated_images_have_the_areas_drawn_at_the_nearest_shape_that_fits() -> None:
    x = coordinates(2000, 32, 128)
    middle = random_resized_crop(x, chance(2000), size=(9, 9), scale=(0.3, 1))[:, :, 3:6, 3:6]
    across, down = (middle[:, 0, 1, 2] - middle[:, 0, 1, 1]) * 9, (middle[:, 1, 2, 1] - middle[:, 1, 1, 1]) * 9
    area, ratio = across * down / (32 * 128), across / down
    assert area.mean().item() == pytest.approx(0.65, abs=0.02)
    assert area.std().item() == pytest.approx(0.7 / math.sqrt(12), rel=0.05)
    wide = ratio > 4 / 3 + 1e-6
    torch.testing.assert_close(down[wide], torch.full_like(down[wide], 32))  # no narrower one fits
    assert wide.double().mean().item() == pytest.approx((1 - 1 / 3) / 0.7, abs=0.03)


def test_crops_reach_every_border_and_all_positions_alike() -> None:
    x = coordinates(4000, 16, 16)
    found = random_resized_crop(x, chance(4000), size=8, scale=(0.25, 0.25), ratio=(1, 1))
    centres = found[:, :, 3:5, 3:5].mean((-2, -1))
    assert centres.mean(0).tolist() == pytest.approx([7.5, 7.5], abs=0.2)
    assert centres.amin(0).tolist() == pytest.approx([3.5, 3.5], abs=0.1)
    assert centres.amax(0).tolist() == pytest.approx([11.5, 11.5], abs=0.1)
    assert centres.std(0).tolist() == pytest.approx([8 / math.sqrt(12)] * 2, rel=0.05)


def test_a_shrunken_crop_averages_what_it_leaves_out() -> None:
    x = torch.rand(4, 3, 16, 16, dtype=torch.float64)
    small = random_resized_crop(x, chance(4), size=4, scale=(1, 1), ratio=(1, 1))
    torch.testing.assert_close(small, F.avg_pool2d(x, 4))
    series = torch.rand(4, 3, 32, dtype=torch.float64)
    torch.testing.assert_close(time_crop(series, chance(4), size=8, scale=(1, 1)), F.avg_pool1d(series, 4))


def test_a_piece_of_a_series_is_stretched_linearly() -> None:
    x = torch.arange(100).double().expand(50, 1, 100)
    found = time_crop(x, chance(50), scale=(0.2, 0.4))
    inner = found[..., 5:-5].diff()
    torch.testing.assert_close(inner, inner[..., :1].expand_as(inner))
    assert inner.min() >= 0.2 - 1e-6
    assert inner.max() <= 0.4 + 1e-6


# Colours


def share_changed(x: Tensor, y: Tensor) -> float:
    return float((x != y).flatten(1).any(1).double().mean())


@pytest.mark.parametrize(
    "change", [horizontal_flip, color_jitter, grayscale, partial(blur, sigma=(0.5, 2.0)), solarize]
)
def test_a_probability_is_the_share_of_images_that_change(change: Any) -> None:
    x = images(400, height=4, width=4)
    assert share_changed(x, change(x, chance(400), probability=0.0)) == 0
    assert share_changed(x, change(x, chance(400), probability=1.0)) == 1
    assert share_changed(x, change(x, chance(400), probability=0.3)) == pytest.approx(0.3, abs=0.08)


def test_a_mirrored_image_is_mirrored_left_to_right() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert horizontal_flip(x, chance(1), probability=1.0).tolist() == [[[[2.0, 1.0], [4.0, 3.0]]]]


def test_each_part_of_a_jitter_keeps_what_it_should() -> None:
    x = images(50)
    off: dict[str, Any] = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
    torch.testing.assert_close(color_jitter(x, chance(50), **off), x)

    factors = (color_jitter(x, chance(50), **{**off, "brightness": 0.4}) / x).flatten(1)
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors))
    assert factors.min() >= 0.6
    assert factors.max() <= 1.4
    assert factors.max() - factors.min() > 0.6

    def grey(y: Tensor) -> Tensor:
        return (y * torch.tensor([0.299, 0.587, 0.114], dtype=y.dtype).view(3, 1, 1)).sum(1)

    contrast = color_jitter(x, chance(50), **{**off, "contrast": 0.4})
    torch.testing.assert_close(grey(contrast).mean((1, 2)), grey(x).mean((1, 2)))
    assert (contrast.flatten(1).std(1) / x.flatten(1).std(1)).max() > 1.2
    saturation = color_jitter(x, chance(50), **{**off, "saturation": 0.4})
    torch.testing.assert_close(grey(saturation), grey(x))
    assert not torch.allclose(saturation, x)
    hue = color_jitter(x, chance(50), **off, hue=0.5)
    torch.testing.assert_close(hue.amax(1), x.amax(1), atol=1e-6, rtol=0)
    torch.testing.assert_close(hue.amin(1), x.amin(1), atol=1e-6, rtol=0)
    assert not torch.allclose(hue, x)


def test_grey_is_luma_for_colour_images_and_the_mean_for_others() -> None:
    x = images(1)
    expected = 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]
    for channel in grayscale(x, chance(1), probability=1.0).unbind(1):
        torch.testing.assert_close(channel, expected)
    two = images(1, channels=2)
    torch.testing.assert_close(grayscale(two, chance(1), probability=1.0)[:, 0], two.mean(1))
    one = images(1, channels=1)
    assert torch.equal(grayscale(one, chance(1), probability=1.0), one)


def test_blur_smooths_by_the_deviation_drawn_and_keeps_a_flat_image() -> None:
    flat = torch.full((3, 3, 8, 8), 0.3, dtype=torch.float64)
    torch.testing.assert_close(blur(flat, chance(3), probability=1.0), flat)
    point = torch.zeros(1, 1, 33, 33, dtype=torch.float64)
    point[..., 16, 16] = 1
    found = blur(point, chance(1), sigma=(1.5, 1.5), probability=1.0)[0, 0].sum(0)
    place = torch.arange(33) - 16
    inside = place.abs() <= 3  # two deviations
    expected = torch.exp(-(place.double() ** 2) / (2 * 1.5**2)) * inside
    torch.testing.assert_close(found, expected / expected.sum())
    assert blur(images(2, height=2, width=1), chance(2)).shape == (2, 3, 2, 1)


def test_solarize_inverts_what_is_bright() -> None:
    x = torch.tensor([0.0, 0.4, 0.5, 1.0]).view(1, 1, 2, 2)
    assert solarize(x, chance(1), probability=1.0).flatten().tolist() == pytest.approx([0, 0.4, 0.5, 0])


def test_a_hue_needs_colours() -> None:
    with pytest.raises(ValueError, match="only images with three channels have a hue, got 1; set hue=0"):
        color_jitter(images(channels=1), chance(6), hue=0.1)


@pytest.mark.parametrize(("what", "change"), [("hue", partial(color_jitter, hue=0.1)), ("blur", blur)])
def test_without_kornia_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, what: str, change: Change) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "kornia":
            raise ImportError("no kornia")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=rf"{what} needs kornia: pip install 'jepa-lab\[augment\]'"):
        change(images(), chance(6))


# Anything


def test_noise_has_the_deviation_asked_for() -> None:
    x = torch.zeros(100, 50)
    assert gaussian_noise(x, chance(100), deviation=0.3).std().item() == pytest.approx(0.3, rel=0.05)


def test_a_channel_is_scaled_as_a_whole() -> None:
    x = torch.rand(200, 3, 5, dtype=torch.float64) + 1
    factors = random_scaling(x, chance(200), deviation=0.2) / x
    torch.testing.assert_close(factors, factors[..., :1].expand_as(factors))
    assert factors[..., 0].std().item() == pytest.approx(0.2, rel=0.1)
    assert factors.mean().item() == pytest.approx(1, abs=0.03)


def test_a_masked_feature_is_0_in_all_its_places_and_the_others_stay() -> None:
    x = torch.rand(300, 4, 5) + 1
    found = mask_features(x, chance(300), probability=0.3)
    hidden = (found == 0).all(-1)
    assert hidden.double().mean().item() == pytest.approx(0.3, abs=0.05)
    assert torch.equal(found[~hidden], x[~hidden])
    assert not found[hidden].any()


@pytest.mark.parametrize(
    ("change", "x", "wanted"),
    [
        (random_resized_crop, torch.zeros(6, 8, 8), r"images \(B, C, H, W\)"),
        (horizontal_flip, torch.zeros(6, 8), r"images \(B, C, H, W\)"),
        (time_crop, torch.zeros(6, 8), r"series \(B, C, T\)"),
    ],
)
def test_a_batch_of_another_kind_is_refused(change: Change, x: Tensor, wanted: str) -> None:
    with pytest.raises(
        ValueError, match=rf"expected {wanted}, got a tensor of shape \({', '.join(map(str, x.shape))}\)"
    ):
        change(x, chance(6))


def test_a_loader_in_memory_augments_whole_batches_and_repeats_them_with_its_seed() -> None:
    pixels, labels = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8), torch.arange(20)

    def transform(batch: Any, generator: torch.Generator) -> Any:
        x, y = batch
        return random_resized_crop(x / 255, BatchRandom(generator, len(x)), scale=(0.3, 1)), y

    def epoch(seed: int) -> list[Tensor]:
        loader = MemoryLoader(pixels, labels, batch_size=8, transform=transform, seed=seed, shuffle=False)
        batches = list(loader)
        assert torch.equal(torch.cat([y for _, y in batches]), labels)
        return [x for x, _ in batches]

    first = epoch(0)
    assert [len(x) for x in first] == [8, 8, 4]
    assert all(torch.equal(one, two) for one, two in zip(first, epoch(0), strict=True))
    assert not torch.equal(first[0], epoch(1)[0])
