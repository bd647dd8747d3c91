"""What a preset promises: with every seed training makes the encoder better, and it does not collapse."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from jepa.config import preset
from jepa.config.presets import PRESETS
from jepa.experiment import make_trainer, probe_scores

Report = Callable[[str, str, list[str], list[list[str]]], None]

SEEDS = (0, 1, 2)
SMALLEST_RANK = 4.0  # of 64 directions: a collapsed encoder has 1 to 2
# By data set: what is read off, and by how much the trained encoder must beat the untrained one, seed by seed.
PROBED = {
    "digits": ("accuracy", 2.0),
    "basic_motions": ("accuracy", 2.0),
    "pendulum_pixels": ("angular velocity", 0.05),
}
DATA = {name: [each for each in PRESETS if PRESETS[each].data.name == name] for name in PROBED}


class Result(NamedTuple):
    """Of one run: probe scores by features, and the processor time that training took, in seconds."""

    scores: dict[str, dict[str, float]]
    seconds: float


def train(name: str, seed: int, cache: Path) -> Result:
    config = preset(name, seed=seed, progress=False)
    if config.data.cache is not None:
        config = replace(config, data=replace(config.data, cache=str(cache / "pictures.npz")))
    trainer, loader = make_trainer(config, run=False, device="cpu")
    start = time.process_time()
    trainer.train(loader, config.num_epochs)
    seconds = time.process_time() - start
    return Result(probe_scores(config, trainer.model), seconds)


def check(result: Result, measure: str, margin: float) -> None:
    trained, untrained = result.scores["trained encoder"], result.scores["untrained encoder"]
    assert trained[measure] >= untrained[measure] + margin
    assert trained["effective rank"] >= SMALLEST_RANK


def spread(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation; what is the same for every seed, such as a baseline without one, has none."""
    if max(values) == min(values):
        return f"{values[0]:.{digits}f}"
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def row(label: str, results: Sequence[Result], features: str, measures: Sequence[str], timed: bool) -> list[str]:
    scores = [result.scores[features] for result in results]
    cells = [spread([each[name] for each in scores], 1 if name == "accuracy" else 3) for name in measures]
    rank = spread([each["effective rank"] for each in scores], 1)
    return [label, *cells, rank, spread([result.seconds for result in results], 0) if timed else ""]


def table(runs: dict[str, list[Result]]) -> tuple[list[str], list[list[str]]]:
    """What needs no training first, once for presets that share data and encoder, then each preset."""
    baselines = ("raw input", "PCA", "untrained encoder")
    measures = [name for name in next(iter(runs.values()))[0].scores["raw input"] if name != "effective rank"]
    rows: list[list[str]] = []
    for label in baselines:
        for name, results in runs.items():
            of = " of clips" if name.endswith("vjepa") else ""
            line = row(label + of, results, label, measures, timed=False)
            rows += [line] if line not in rows else []
    rows += [row(f"**{name}**", results, "trained encoder", measures, timed=True) for name, results in runs.items()]
    units = ["accuracy (%)" if name == "accuracy" else f"R² of {name}" for name in measures]
    return ["features", *units, "effective rank", "CPU seconds"], rows


@pytest.mark.slow
def test_a_preset_holds_up_for_one_seed(tmp_path: Path) -> None:
    check(train("basic_motions-vicreg", 0, tmp_path), *PROBED["basic_motions"])


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("data", PROBED)
def test_every_preset_holds_up_for_every_seed(data: str, tmp_path: Path, report: Report) -> None:
    runs = {name: [train(name, seed, tmp_path) for seed in SEEDS] for name in DATA[data]}
    report(f"presets_{data}", f"Linear probes on the test part, mean ± sd of {len(SEEDS)} seeds", *table(runs))
    measure, margin = PROBED[data]
    for results in runs.values():
        for result in results:
            check(result, measure, margin)
        gains = [
            each.scores["trained encoder"][measure] - each.scores["untrained encoder"][measure] for each in results
        ]
        assert statistics.mean(gains) > statistics.stdev(gains)
