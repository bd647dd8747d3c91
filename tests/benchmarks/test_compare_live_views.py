"""The script that compares live views still measures: this toolkit's own, in a kernel, by bytes and CPU time."""

from __future__ import annotations

import sys

import pytest

from tests.benchmarks.compare_live_views import LENGTHS, TOOLS, find, measure


@pytest.mark.benchmark
def test_an_update_is_measured_in_a_kernel_of_its_own() -> None:
    number = [tool.name for tool in TOOLS].index("jepa-lab, live curves")
    milliseconds, size = measure(sys.executable, number, LENGTHS[0])
    assert 0 < milliseconds < 100
    assert 4_000 < size <= 20_000, "six curves of a hundred points"


@pytest.mark.benchmark
def test_tools_that_are_not_installed_are_left_out() -> None:
    assert find("jepa-lab", [sys.executable]) is not None
    assert find("no-such-package", [sys.executable]) is None
