"""Tokenizers: which numbers end up in which token."""

from __future__ import annotations

import pytest
import torch

from jepa.models import ImageTokenizer, SeriesTokenizer
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


@pytest.mark.parametrize(
    ("tokenizer", "shape", "allowed"),
    [
        (ImageTokenizer(8, 2), (5, 8, 8), r"\(B, 1, 8, 8\), got \(5, 8, 8\)"),
        (ImageTokenizer(8, 2), (5, 3, 8, 8), r"\(B, 1, 8, 8\), got \(5, 3, 8, 8\)"),
        (ImageTokenizer((8, 4), 2), (5, 1, 4, 8), r"\(B, 1, 8, 4\), got \(5, 1, 4, 8\)"),
        (SeriesTokenizer(12, 4), (5, 12), r"\(B, 1, 12\), got \(5, 12\)"),
        (SeriesTokenizer(12, 4), (5, 1, 13), r"\(B, 1, 12\), got \(5, 1, 13\)"),
    ],
)
def test_a_wrong_shape_is_an_error_that_names_both_shapes(
    tokenizer: Tokenizer, shape: tuple[int, ...], allowed: str
) -> None:
    with pytest.raises(ValueError, match=f"{type(tokenizer).__name__} takes a batch of shape {allowed}"):
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


@pytest.mark.parametrize("tokenizer", [ImageTokenizer((4, 6), 2, 3), SeriesTokenizer(12, 4, 2)])
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
