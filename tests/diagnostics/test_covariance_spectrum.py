"""Deviations along principal directions."""

from __future__ import annotations

import pytest
import torch

from jepa.diagnostics import covariance_spectrum


def test_squares_are_the_eigenvalues_of_the_covariance() -> None:
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 2.0, 1.0, 0.1]) + 7
    expected = torch.linalg.eigvalsh(torch.cov(x.double().T, correction=0)).flip(0)
    torch.testing.assert_close(covariance_spectrum(x).square(), expected)


def test_what_has_no_spectrum_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected embeddings \(B, D\), got \(2, 3, 4\)"):
        covariance_spectrum(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="1 of 6 numbers of the embeddings are not finite"):
        covariance_spectrum(torch.tensor([[1.0, 2.0, 3.0], [1.0, float("nan"), 3.0]]))
