"""Benchmarks print a table; with `JEPA_WRITE_TABLES` set they also write it where the documentation includes it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

TABLES = Path(__file__).parents[2] / "docs" / "tables"
Report = Callable[[str, str, list[str], list[list[str]]], None]


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Report:
    """`report(name, title, header, rows)`: print the table of a benchmark, and keep it if asked to."""

    def write(name: str, title: str, header: list[str], rows: list[list[str]]) -> None:
        lines = [" | ".join(cells) for cells in (header, ["---"] * len(header), *rows)]
        table = "\n".join(f"| {line} |" for line in lines)
        with capsys.disabled():
            print(f"\n{title}\n{table}")
        if os.environ.get("JEPA_WRITE_TABLES"):
            device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
            TABLES.mkdir(parents=True, exist_ok=True)
            note = f"{title}: torch {torch.__version__}, {device}, {torch.get_num_threads()} thread(s)."
            (TABLES / f"{name}.md").write_text(f"{note}\n\n{table}\n", encoding="utf-8")

    return write
