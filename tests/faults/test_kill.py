"""kill -9 at random instants: the run is started again until it ends, and ends as if nothing had happened."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jepa.files import read_lines
from tests.faults import runs

KILLS_A_RUN = 6
Life = Callable[..., dict[str, Any]]
Report = Callable[[str, str, list[str], list[list[str]]], None]


class Killer:
    """Trains runs in a folder and kills them, until so many kills were done and every run has come to its end.

    The first kill of a run comes early, every third one when a checkpoint is being written, the others at any time.
    """

    def __init__(self, life: Life, folder: Path, undisturbed: dict[str, Any]) -> None:
        self._life = life
        self._folder = folder
        self._undisturbed = undisturbed
        self._chance = random.Random(0)
        self.seconds = life(folder / "first")["seconds"]  # a whole life
        runs.assert_whole(folder / "first", undisturbed)
        self.kills: Counter[str] = Counter()
        self.runs = 0

    def inject(self, kills: int) -> None:
        """Kill so many times."""
        while self.kills.total() < kills:
            self._run_once(min(KILLS_A_RUN, kills - self.kills.total()))

    def _run_once(self, kills: int) -> None:
        path = self._folder / f"run-{self.runs}"
        self.runs += 1
        for number in range(kills):
            latest = 0.6 * self.seconds if number else 0.2 * self.seconds
            answer = self._life(path, self._chance.uniform(0, latest), writing=number % 3 == 2)
            if answer["code"] == 0:
                break
            self.kills[self._kind(path, torn=answer["torn"])] += 1
        else:
            assert self._life(path)["code"] == 0
        runs.assert_whole(path, self._undisturbed)
        runs.assert_all_recorded(path, self._undisturbed)

    @staticmethod
    def _kind(path: Path, *, torn: bool) -> str:
        if torn:
            return "while a checkpoint was being written"
        saved = any(line["event"] == "CheckpointSaved" for line in read_lines(path / "journal.jsonl"))
        return "at any other time" if saved else "before the first checkpoint"


@pytest.mark.slow
def test_a_run_killed_again_and_again_equals_an_undisturbed_one(
    life: Life, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    killer = Killer(life, tmp_path, undisturbed)
    killer.inject(6)
    assert killer.kills["while a checkpoint was being written"] >= 1


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_hundred_kills_lose_nothing(life: Life, tmp_path: Path, undisturbed: dict[str, Any], report: Report) -> None:
    killer = Killer(life, tmp_path, undisturbed)
    killer.inject(100)
    assert killer.kills["while a checkpoint was being written"] >= 15
    assert killer.kills["before the first checkpoint"] >= 5
    rows = [[kind, str(count), "0", "0"] for kind, count in sorted(killer.kills.items())]
    rows.append([f"all, over {killer.runs} runs", str(killer.kills.total()), "0", "0"])
    title = "kill -9 at random instants of a run, which is then started again"
    report("faults", title, ["when", "faults injected", "runs lost", "bits that differ at the end"], rows)
