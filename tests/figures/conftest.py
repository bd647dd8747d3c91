"""Figures are checked with the libraries that draw them, and nothing may open a window."""

from __future__ import annotations

import pytest

pytest.importorskip("plotly")
pytest.importorskip("matplotlib")
