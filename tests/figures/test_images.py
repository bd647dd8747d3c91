"""Pictures of images and masks: pixels are computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jepa.figures import coverage_figure, image_row, mask_figure, to_png
from jepa.figures.images import as_pixels, shade, token_mask

SHADE = [222, 226, 232]


def test_pixels_span_the_whole_range_of_the_batch() -> None:
    images = torch.tensor([[[[-1.0, 0.0]]], [[[1.0, 3.0]]]])
    pixels = as_pixels(images)
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (2, 1, 2, 3)
    assert pixels[..., 0].flatten().tolist() == [0, 64, 128, 255]
    assert torch.equal(as_pixels(images * 7 - 3), pixels)
    assert torch.equal(as_pixels(torch.full((1, 1, 2, 2), 9, dtype=torch.uint8)), torch.zeros(1, 2, 2, 3).byte())


@pytest.mark.parametrize(("channels", "shown"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 1, 2]), (5, [0, 1, 2])])
def test_any_number_of_channels_becomes_three(channels: int, shown: list[int]) -> None:
    images = torch.rand(4, channels, 6, 5, requires_grad=True)
    pixels = as_pixels(images)
    assert pixels.shape == (4, 6, 5, 3)
    scaled = (images - images.min()) / (images.max() - images.min()) * 255
    for channel, source in enumerate(shown):
        torch.testing.assert_close(pixels[..., channel], scaled[:, source].round().byte(), atol=1, rtol=0)


def test_images_of_another_shape_are_an_error_that_names_it() -> None:
    for shape in ((8, 8), (3, 8, 8), (2, 1, 4, 8, 8)):
        with pytest.raises(ValueError, match=r"expected images of shape \(B, C, H, W\), got "):
            as_pixels(torch.zeros(shape))


def test_a_token_covers_the_pixels_of_its_patch() -> None:
    mask = token_mask(torch.tensor([[0, 5], [3, 3]]), (2, 3), (4, 9))
    expected = torch.zeros(2, 4, 9, dtype=torch.bool)
    expected[0, :2, :3] = True
    expected[0, 2:, 6:] = True
    expected[1, 2:, :3] = True
    assert torch.equal(mask, expected)
    assert token_mask(torch.tensor([[1]]), (4,), (2, 8)).int().tolist() == [[[0, 0, 1, 1, 0, 0, 0, 0]] * 2]


def test_shading_keeps_what_is_inside_and_greys_the_rest() -> None:
    pixels = torch.full((1, 2, 2, 3), 7, dtype=torch.uint8)
    shaded = shade(pixels, torch.tensor([[[True, False], [False, True]]]))
    assert shaded[0, 0].tolist() == [[7, 7, 7], SHADE]
    assert shaded[0, 1].tolist() == [SHADE, [7, 7, 7]]


def test_a_mask_figure_shows_image_context_and_targets_of_each_sample() -> None:
    images = torch.rand(8, 1, 4, 4)
    context, target = torch.tensor([[0]] * 8), torch.tensor([[[1], [3]]] * 8)
    figure = mask_figure(images, context, target, (2, 2), count=5)
    assert [trace.type for trace in figure.data] == ["image"] * 15
    pixels = as_pixels(images[:5])
    for sample in range(5):
        image, seen, hidden = (np.asarray(figure.data[row * 5 + sample].z) for row in range(3))
        assert np.array_equal(image, pixels[sample])
        assert np.array_equal(seen[:2, :2], image[:2, :2])
        assert (seen[2:] == SHADE).all()
        assert (seen[:, 2:] == SHADE).all()
        assert np.array_equal(hidden[:, 2:], image[:, 2:]), "blocks 1 and 3 together"
        assert (hidden[:, :2] == SHADE).all()
    titles = [figure.layout[f"yaxis{n}"].title.text for n in ("", 6, 11)]
    assert titles == ["image", "context", "targets"]
    assert len(mask_figure(images[:2], context[:2], target[:2, 0], (2, 2)).data) == 6


def test_a_coverage_figure_shows_the_probabilities_of_all_samplers_on_one_scale() -> None:
    maps = {"ours": torch.rand(2, 3, 4) * 0.5, "theirs": torch.rand(2, 3, 4) * 0.5}
    maps["theirs"][0, 1, 2] = 0.75
    figure = coverage_figure({name: (context, target) for name, (context, target) in maps.items()})
    shares = [share for pair in maps.values() for share in pair]
    for trace, share in zip(figure.data, shares, strict=True):
        torch.testing.assert_close(torch.tensor(trace.z), share)
        assert (trace.zmin, trace.zmax) == (0, 0.75)
    assert sum(bool(trace.showscale) for trace in figure.data) == 1
    assert [note.text for note in figure.layout.annotations] == ["probability of context", "probability of target"]
    assert [figure.layout[name].title.text for name in ("yaxis", "yaxis3")] == ["ours", "theirs"]
    assert to_png(figure)[:4] == b"\x89PNG"


def test_coverage_of_a_video_shows_its_times_side_by_side() -> None:
    context, target = torch.rand(2, 3, 2, 4)
    figure = coverage_figure({"tubes": (context, target)})
    shown = torch.tensor(figure.data[0].z)
    assert shown.shape == (2, 3 * 4 + 2)
    assert shown[:, [4, 9]].isnan().all()
    torch.testing.assert_close(torch.stack([shown[:, :4], shown[:, 5:9], shown[:, 10:]]), context)
    assert figure.data[0].zmax == max(context.max(), target.max())
    assert to_png(figure)[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="coverages is empty"):
        coverage_figure({})


def test_an_image_row_shows_every_image_under_its_title() -> None:
    images = torch.randint(0, 256, (3, 3, 4, 4), dtype=torch.uint8)
    figure = image_row(images, ["a", "b", "c"])
    assert [note.text for note in figure.layout.annotations] == ["a", "b", "c"]
    for trace, pixels in zip(figure.data, as_pixels(images), strict=True):
        assert np.array_equal(trace.z, pixels)
    assert len(image_row(images[:1]).data) == 1
