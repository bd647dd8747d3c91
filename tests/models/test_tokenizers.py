"""Tokenizers: which numbers end up in which token."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jepa.models import ImageTokenizer, SeriesTokenizer, VideoTokenizer
from jepa.models.base import build, describe
from jepa.models.tokenizers import Tokenizer


def test_image_patches_come_row_by_row_with_all_channels() -> None:
    tokenizer = ImageTokenizer((4, 6), 2, channels=3)
    images = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).view(2, 3, 4, 6)
    tokens = tokenizer(images)
    assert tokenizer.grid == (2, 3)
    assert tokens.shape == (2, tokenizer.num_tokens, tokenizer.token_dim) == (2, 6, 12)
    for row in range(2):
        for column in range(3):
            patch = images[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert torch.equal(tokens[:, 3 * row + column], patch.flatten(1))


def test_series_pieces_come_in_order_with_all_channels() -> None:
    tokenizer = SeriesTokenizer(12, 4, channels=2)
    series = torch.arange(3 * 2 * 12, dtype=torch.float32).view(3, 2, 12)
    tokens = tokenizer(series)
    assert tokenizer.grid == (3,)
    assert tokens.shape == (3, tokenizer.num_tokens, tokenizer.token_dim) == (3, 3, 8)
    for piece in range(3):
        assert torch.equal(tokens[:, piece], series[:, :, 4 * piece : 4 * piece + 4].flatten(1))


def test_video_tubelets_come_in_time_then_row_by_row_with_all_channels() -> None:
    tokenizer = VideoTokenizer(4, (4, 6), 2, channels=3)
    videos = torch.arange(2 * 3 * 4 * 4 * 6, dtype=torch.float32).view(2, 3, 4, 4, 6)
    tokens = tokenizer(videos)
    assert tokenizer.grid == (2, 2, 3)
    assert tokens.shape == (2, tokenizer.num_tokens, tokenizer.token_dim) == (2, 12, 24)
    for time in range(2):
        for row in range(2):
            for column in range(3):
                box = videos[:, :, 2 * time : 2 * time + 2, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                assert torch.equal(tokens[:, 6 * time + 3 * row + column], box.flatten(1))


@pytest.mark.parametrize(
    ("tokenizer", "convolution"),
    [
        (SeriesTokenizer(12, 4, 2), nn.Conv1d(2, 5, 4, stride=4)),
        (ImageTokenizer((4, 6), 2, 3), nn.Conv2d(3, 5, 2, stride=2)),
        (VideoTokenizer(6, (4, 8), 2, 3, 2), nn.Conv3d(2, 5, (3, 2, 2), stride=(3, 2, 2))),
    ],
)
def test_a_linear_layer_over_tokens_is_a_strided_convolution_with_the_same_weights(
    tokenizer: Tokenizer, convolution: nn.Conv2d
) -> None:
    x = torch.randn(2, *tokenizer.input_shape)
    expected = convolution(x).flatten(2).transpose(1, 2)
    tokens = tokenizer(x)
    torch.testing.assert_close(tokens @ convolution.weight.flatten(1).T + convolution.bias, expected)


@pytest.mark.parametrize(
    ("tokenizer", "shape", "grid"),
    [
        (ImageTokenizer(8, 2), (3, 1, 4, 6), (2, 3)),
        (SeriesTokenizer(12, 4), (3, 1, 20), (5,)),
        (VideoTokenizer(4, 8, 2), (3, 3, 2, 4, 4), (1, 2, 2)),
    ],
)
def test_inputs_of_other_sizes_are_cut_where_patches_fill_them(
    tokenizer: Tokenizer, shape: tuple[int, ...], grid: tuple[int, ...]
) -> None:
    x = torch.randn(shape)
    assert tokenizer.grid_of(x) == grid
    assert tokenizer(x).shape == (3, torch.Size(grid).numel(), tokenizer.token_dim)
    with pytest.raises(ValueError, match=f"{type(tokenizer).__name__} takes a batch of shape"):
        tokenizer.check(x)


def test_an_empty_batch_has_no_tokens() -> None:
    assert ImageTokenizer(8, 2)(torch.zeros(0, 1, 8, 8)).shape == (0, 16, 4)


def test_a_tokenizer_of_ones_own_takes_its_own_shape_only() -> None:
    class Halves(Tokenizer):
        input_shape, grid, token_dim = (6,), (2,), 3

    assert Halves().num_tokens == 2
    assert Halves().grid_of(torch.zeros(4, 6)) == (2,)
    with pytest.raises(ValueError, match=r"Halves takes a batch of shape \(B, 6\), got \(4, 7\)"):
        Halves().grid_of(torch.zeros(4, 7))


@pytest.mark.parametrize(
    ("tokenizer", "shape", "allowed"),
    [
        (ImageTokenizer(8, 2), (5, 8, 8), r"\(B, 1, 8, 8\), got \(5, 8, 8\)"),
        (ImageTokenizer(8, 2), (5, 3, 8, 8), r"\(B, 1, 8, 8\), got \(5, 3, 8, 8\)"),
        (
            ImageTokenizer((8, 4), 2),
            (5, 1, 4, 7),
            r"\(B, 1, 8, 4\) or of other multiples of \(2, 2\), got \(5, 1, 4, 7\)",
        ),
        (ImageTokenizer((8, 4), 2), (5, 1, 0, 4), r"\(B, 1, 8, 4\), got \(5, 1, 0, 4\)"),
        (SeriesTokenizer(12, 4), (5, 12), r"\(B, 1, 12\), got \(5, 12\)"),
        (SeriesTokenizer(12, 4), (5, 1, 13), r"\(B, 1, 12\) or of other multiples of \(4,\), got \(5, 1, 13\)"),
        (VideoTokenizer(4, 8, 2), (5, 4, 8, 8), r"\(B, 3, 4, 8, 8\), got \(5, 4, 8, 8\)"),
        (VideoTokenizer(4, 8, 2), (5, 4, 3, 8, 8), r"\(B, 3, 4, 8, 8\), got \(5, 4, 3, 8, 8\)"),
        (VideoTokenizer(4, 8, 2), (5, 3, 1, 8, 8), r"\(2, 2, 2\), got \(5, 3, 1, 8, 8\)"),
    ],
)
def test_a_wrong_shape_is_an_error_that_names_both_shapes(
    tokenizer: Tokenizer, shape: tuple[int, ...], allowed: str
) -> None:
    with pytest.raises(ValueError, match=rf"{type(tokenizer).__name__} takes a batch of shape .*{allowed}"):
        tokenizer(torch.zeros(shape))


def test_sizes_that_do_not_fit_are_errors_that_name_them() -> None:
    with pytest.raises(ValueError, match=r"patch_size=3 must divide the image size \(8, 8\)"):
        ImageTokenizer(8, 3)
    with pytest.raises(ValueError, match=r"patch_size=4 must divide the image size \(8, 6\)"):
        ImageTokenizer((8, 6), 4)
    with pytest.raises(ValueError, match="patch_size=5 must divide the length 12"):
        SeriesTokenizer(12, 5)
    with pytest.raises(ValueError, match="patch_size must be at least 1, got 0"):
        ImageTokenizer(8, 0)
    with pytest.raises(ValueError, match="channels must be at least 1, got 0"):
        SeriesTokenizer(8, 2, channels=0)
    with pytest.raises(ValueError, match="tubelet_size=2 must divide num_frames=5"):
        VideoTokenizer(5, 8, 2)
    with pytest.raises(ValueError, match="num_frames=1 is shorter than one tubelet of tubelet_size=2"):
        VideoTokenizer(1, 8, 2)
    with pytest.raises(ValueError, match=r"patch_size=3 must divide the image size \(9, 8\)"):
        VideoTokenizer(4, (9, 8), 3)
    with pytest.raises(ValueError, match="tubelet_size must be at least 1, got 0"):
        VideoTokenizer(4, 8, 2, 0)


@pytest.mark.parametrize(
    "tokenizer", [ImageTokenizer((4, 6), 2, 3), SeriesTokenizer(12, 4, 2), VideoTokenizer(6, (4, 8), 2, 3, 1)]
)
def test_a_tokenizer_is_rebuilt_from_its_description(tokenizer: Tokenizer) -> None:
    spec = describe(tokenizer)
    assert spec is not None
    rebuilt = build(spec)
    assert isinstance(rebuilt, Tokenizer)
    assert type(rebuilt) is type(tokenizer)
    assert (rebuilt.input_shape, rebuilt.grid, rebuilt.token_dim) == (
        tokenizer.input_shape,
        tokenizer.grid,
        tokenizer.token_dim,
    )
