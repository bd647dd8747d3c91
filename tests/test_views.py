"""The views of multi-view methods: how many, how large, from which numbers, and their trip through files."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import pytest
import torch
from torch import Tensor

import jepa.views
from jepa.augmentations import BatchRandom, gaussian_noise, random_resized_crop, time_crop
from jepa.views import Augment, ImageViews, ReadyViews, SeriesViews, VectorViews, build_augment, describe_augment


def chance(size: int, seed: int = 0, rows: slice = slice(None)) -> BatchRandom:
    return BatchRandom(torch.Generator().manual_seed(seed), size, rows)


MAKERS: list[tuple[Any, Tensor, list[tuple[int, ...]]]] = [
    (ImageViews(), torch.rand(4, 3, 16, 12), [(2, 4, 3, 16, 12), (6, 4, 3, 16, 12)]),
    (
        ImageViews(num_local=3, global_size=8, local_size=(4, 6), hue=0.1, blur=0.5, solarize=0.2, noise=0.1),
        torch.rand(4, 3, 16, 12),
        [(2, 4, 3, 8, 8), (3, 4, 3, 4, 6)],
    ),
    (ImageViews(num_global=1, num_local=0), torch.rand(4, 1, 8, 8), [(1, 4, 1, 8, 8)]),
    (SeriesViews(masking=0.3), torch.rand(4, 6, 20), [(2, 4, 6, 20), (6, 4, 6, 20)]),
    (SeriesViews(num_local=1, local_size=5), torch.rand(4, 2, 20), [(2, 4, 2, 20), (1, 4, 2, 5)]),
    (VectorViews(num_global=3), torch.rand(4, 7), [(3, 4, 7)]),
]


@pytest.mark.parametrize(("augment", "x", "shapes"), MAKERS)
def test_views_come_in_groups_of_one_size(augment: Any, x: Tensor, shapes: list[tuple[int, ...]]) -> None:
    groups = augment(x, chance(4))
    assert [tuple(group.shape) for group in groups] == shapes
    assert sum(len(group) for group in groups) == augment.num_global + augment.num_local
    views = [tuple(view.flatten().tolist()) for group in groups for view in group.flatten(0, 1)]
    assert len(set(views)) == len(views), "every view of every sample is another one"


@pytest.mark.parametrize(("augment", "x", "shapes"), MAKERS)
def test_ranks_make_the_views_of_their_rows(augment: Any, x: Tensor, shapes: Any) -> None:
    whole = augment(x, chance(4))
    parts = [augment(x[rows], chance(4, rows=rows)) for rows in (slice(0, 2), slice(2, 4))]
    for group, first, second in zip(whole, *parts, strict=True):
        torch.testing.assert_close(torch.cat([first, second], dim=1), group)
    assert not torch.equal(augment(x, chance(4, seed=1))[0], whole[0])


def test_with_everything_off_views_are_crops_alone() -> None:
    x = torch.rand(3, 3, 8, 8)
    augment = ImageViews(num_local=0, flip=0, jitter=0, grayscale=0)
    crops = random_resized_crop(x.repeat(2, 1, 1, 1), chance(3)._replace(views=2), scale=(0.3, 1.0))
    assert torch.equal(augment(x, chance(3))[0].flatten(0, 1), crops)
    series = torch.rand(3, 2, 8)
    pieces = time_crop(series.repeat(2, 1, 1), chance(3)._replace(views=2), scale=(0.5, 1.0))
    made = SeriesViews(num_local=0, scaling=0, noise=0)(series, chance(3))[0]
    assert torch.equal(made.flatten(0, 1), pieces)
    vectors = torch.rand(3, 5)
    assert torch.equal(VectorViews(noise=0, masking=0)(vectors, chance(3))[0], vectors.expand(2, 3, 5))
    noisy = gaussian_noise(vectors.repeat(2, 1), chance(3)._replace(views=2), deviation=0.1)
    assert torch.equal(VectorViews(masking=0)(vectors, chance(3))[0].flatten(0, 1), noisy)


@pytest.mark.parametrize("name", ["flip", "jitter", "grayscale", "blur", "solarize", "noise"])
def test_every_option_of_image_views_changes_them(name: str) -> None:
    x = torch.rand(8, 3, 8, 8)
    off = ImageViews(num_local=0, flip=0, jitter=0, grayscale=0)
    options: dict[str, Any] = {"num_local": 0, "flip": 0, "jitter": 0, "grayscale": 0, name: 1}
    on = ImageViews(**options)
    assert not torch.equal(on(x, chance(8))[0], off(x, chance(8))[0])


def test_local_views_show_less_than_global_ones() -> None:
    ramp = torch.linspace(0, 1, 64).expand(50, 1, 64, 64).contiguous()
    large, small = ImageViews(jitter=0)(ramp, chance(50))
    assert large.flatten(2).std(2).min() > small.flatten(2).std(2).mean()


@pytest.mark.parametrize("augment", [*[augment for augment, _, _ in MAKERS], ReadyViews(num_global=1, num_local=4)])
def test_settings_make_a_trip_through_json(augment: Augment) -> None:
    spec = json.loads(json.dumps(describe_augment(augment)))
    assert spec["type"] == type(augment).__name__
    assert build_augment(spec) == augment


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ImageViews(num_global=0), "num_global must be at least 1 and num_local at least 0, got 0 and 6"),
        (lambda: SeriesViews(num_local=-1), "num_local at least 0, got 2 and -1"),
        (lambda: ReadyViews(num_global=0), "num_global must be at least 1"),
        (
            lambda: ImageViews(local_scale=(0.4, 0.2)),
            r"local_scale must satisfy 0 < low <= high <= 1, got \(0.4, 0.2\)",
        ),
        (lambda: SeriesViews(global_scale=(0, 1)), r"global_scale must satisfy .* got \(0, 1\)"),
        (lambda: ImageViews(local_size=(8, 0)), r"local_size must be at least 1, got \(8, 0\)"),
        (lambda: SeriesViews(global_size=0), "global_size must be at least 1, got 0"),
        (lambda: ImageViews(flip=1.5), r"flip must lie in \[0, 1\], got 1.5"),
        (lambda: ImageViews(hue=0.6), r"hue must lie in \[0, 0.5\], got 0.6"),
        (lambda: VectorViews(masking=-0.1), r"masking must lie in \[0, 1\], got -0.1"),
        (lambda: VectorViews(noise=-1), "noise is a deviation, at least 0, got -1"),
        (lambda: build_augment({"type": "Views"}), "type out of ImageViews, .*, ReadyViews, got 'Views'"),
        (lambda: build_augment({"type": "VectorViews", "nois": 1}), "the arguments of VectorViews do not fit: .*nois"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_settings_that_need_kornia_are_refused_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jepa.views, "find_spec", lambda name: None)
    ImageViews()
    with pytest.raises(ImportError, match=r"hue and blur need kornia: pip install 'jepa-lab\[augment\]', or set 0"):
        ImageViews(hue=0.1, blur=0.5)
    monkeypatch.undo()
    assert importlib.util.find_spec("kornia")
