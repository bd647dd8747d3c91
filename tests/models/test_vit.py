"""Named sizes of vision transformers."""

from __future__ import annotations

import re

import pytest
import torch

from jepa.models import Encoder, ImageTokenizer, VideoTokenizer, vit
from jepa.models.vit import SIZES

# Parameters of the blocks and the last norm, in millions, counted by hand: 12 D^2 + 13 D a block of MLP ratio 4
MILLIONS = {"tiny": 5.34, "small": 21.29, "base": 85.06, "large": 302.31, "huge": 629.68, "giant": 1010.01}


@pytest.mark.parametrize("size", SIZES)
def test_a_named_size_has_the_parameters_of_its_paper(size: str) -> None:
    with torch.device("meta"):
        encoder = vit(size, ImageTokenizer(32, 16, channels=3))
    assert isinstance(encoder, Encoder)
    count = sum(p.numel() for p in encoder.parameters()) - sum(p.numel() for p in encoder.embed.parameters())
    assert count / 1e6 == pytest.approx(MILLIONS[size], abs=0.01)


def test_the_giant_has_an_mlp_of_48_elevenths_and_as_many_heads_as_asked() -> None:
    tokenizer = VideoTokenizer(2, 16, 16)
    with torch.device("meta"):
        encoder = vit("giant", tokenizer, depth=1, num_heads=22, positions="rotary")
    assert encoder.blocks[0].mlp.fc1.out_features == 6144  # type: ignore[union-attr]
    assert encoder.config()["num_heads"] == 22
    assert encoder.config()["positions"] == "rotary"
    assert len(encoder.blocks) == 1


def test_a_named_encoder_encodes_through_its_tokenizer() -> None:
    assert vit("tiny", ImageTokenizer(16, 8), depth=1)(torch.randn(2, 1, 16, 16)).shape == (2, 4, 192)


def test_an_unknown_size_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=re.escape("'giant', got 'hug'; did you mean 'huge'?")):
        vit("hug", ImageTokenizer(16, 8))
    with pytest.raises(ValueError, match=r"size must be one of .tiny., .small.,.*got .XXL.$"):
        vit("XXL", ImageTokenizer(16, 8))
