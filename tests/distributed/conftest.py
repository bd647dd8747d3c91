"""Small models and data that a script on several ranks and the test itself build alike."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

COMMON = Path(__file__).with_name("small.py")


@pytest.fixture
def rank_script(tmp_path: Path) -> Callable[[str], Path]:
    """`rank_script(body)`: a script that begins with everything in `small.py`."""

    def write(body: str) -> Path:
        path = tmp_path / "ranks.py"
        path.write_text(COMMON.read_text(encoding="utf-8") + "\n\n" + textwrap.dedent(body), encoding="utf-8")
        return path

    return write
