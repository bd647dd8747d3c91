"""The curves of one or several runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jepa.figures.style import COLOURS, finish
from jepa.figures.thinning import thin

PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss", ("loss", "val_loss")),
    ("learning rate", ("learning_rate",)),
    ("EMA momentum", ("ema_momentum",)),
    ("embedding std", ("embedding_std",)),
    ("effective rank", ("effective_rank",)),
    ("gradient norm", ("grad_norm",)),
)


def history_figure(history: Any, *, title: str | None = None, points: int = 1000) -> Any:
    """Loss, learning rate, EMA momentum, embedding deviation, effective rank and gradient norm against the step.

    Args:
        history: A `History`, a list of records (mappings with `step`), or a mapping of run names to either.
        title: Above the figure.
        points: Largest number of points a curve; peaks are kept.

    Returns:
        A `plotly.graph_objects.Figure`.
    """
    from plotly.subplots import make_subplots

    runs = _runs(history)
    figure = make_subplots(rows=2, cols=3, subplot_titles=[name for name, _ in PANELS], vertical_spacing=0.17)
    for number, (run, records) in enumerate(runs.items()):
        for panel, (_, metrics) in enumerate(PANELS):
            for metric in metrics:
                _add_curve(figure, records, metric, panel, run, number, len(runs), points)
    figure.update_xaxes(title_text="step", row=2)
    return finish(figure, title=title, height=480)


def _add_curve(
    figure: Any,
    records: Sequence[Mapping[str, float]],
    metric: str,
    panel: int,
    run: str,
    number: int,
    runs: int,
    points: int,
) -> None:
    curve = [(int(record["step"]), float(record[metric])) for record in records if metric in record]
    if not curve:
        return
    steps, values = thin(curve, points)
    validation = metric.startswith("val_")
    name = run if runs > 1 else ("validation" if validation else "training")
    figure.add_scatter(
        x=steps,
        y=values,
        mode="lines+markers" if len(steps) < 3 else "lines",
        name=name,
        line={
            "color": COLOURS[(number if runs > 1 else int(validation)) % len(COLOURS)],
            "width": 1.6,
            "dash": "dot" if validation and runs > 1 else "solid",
        },
        legendgroup=name,
        showlegend=panel == 0 and (runs == 1 or not validation),
        row=panel // 3 + 1,
        col=panel % 3 + 1,
    )


def _runs(history: Any) -> dict[str, list[Mapping[str, float]]]:
    if hasattr(history, "records"):
        return {"run": history.records}
    if isinstance(history, Mapping):
        return {str(name): _runs(one)["run"] for name, one in history.items()}
    if isinstance(history, Iterable):
        return {"run": list(history)}
    raise TypeError(f"expected a History, a list of records or a mapping of runs, got {type(history).__name__}")
