"""What is inside a model: its tree of modules, its dead units, and where its attention goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from jepa.diagnostics import Attended, ModuleSummary, find_block
from jepa.figures.style import COLOURS, finish
from jepa.figures.table import table_figure

COLUMNS = ("module", "kind", "shapes", "parameters", "norm", "gradient", "update")
HEADS_A_ROW = 6


def module_figure(modules: Sequence[ModuleSummary], *, title: str | None = None, most: int = 20) -> Any:
    """The tree of a model's modules as a table.

    Args:
        modules: What `jepa.diagnostics.module_summary` gives, or `modules` of an inspection.
        title: Above the table.
        most: Rows to show at once; the rest is scrolled to.

    Raises:
        ValueError: There is none: the inspection did not look at the model.
    """
    if not modules:
        raise ValueError("there are no modules to show; ask for them: run.inspect(parts=('model',))")
    rows = [_row(module) for module in modules]
    widths = (2.6, 1.5, 2.6, 1, 0.9, 1.1, 1)
    return table_figure(COLUMNS, rows, title=title, widths=widths, wide=COLUMNS[:3], most=most)


def _row(module: ModuleSummary) -> tuple[Any, ...]:
    depth = module.name.count(".") + bool(module.name)
    name = "\u2003" * max(depth - 1, 0) + (module.name.rpartition(".")[2] or "all")
    shapes = ", ".join(f"{key} {'×'.join(map(str, shape)) or '1'}" for key, shape in module.shapes.items())
    return name, module.kind, shapes, f"{module.parameters:,}", module.norm, module.grad_norm, module.update_norm


def dead_units_figure(shares: Mapping[str, float], *, title: str | None = None) -> Any:
    """Share of hidden units that no sample of a batch makes active, a bar for each MLP.

    Args:
        shares: What `jepa.diagnostics.dead_units` gives, or `dead_units` of an inspection.
        title: Above the figure.

    Raises:
        ValueError: There is no MLP.
    """
    import plotly.graph_objects as go

    if not shares:
        raise ValueError("there are no MLPs whose units could be counted, or the inspection did not look at the model")
    names = [name.removeprefix("model.") for name in shares]
    figure = go.Figure()
    figure.add_bar(
        x=names,
        y=[100 * share for share in shares.values()],
        text=[f"{100 * share:.0f} %" for share in shares.values()],
        textposition="outside",
        cliponaxis=False,
        marker={"color": COLOURS[1]},
        showlegend=False,
    )
    figure.update_yaxes(title_text="units never active (%)", range=[0, 110])
    figure.update_xaxes(tickangle=-35, automargin=True)
    return finish(figure, title=title, height=360)


def attention_figure(
    seen: Mapping[str, Attended], block: str | None = None, *, sample: int = 0, title: str | None = None
) -> Any:
    """Where the heads of one block look, a picture for each: a row is a token that asks, a column one it looks at.

    Args:
        seen: What `jepa.diagnostics.record_attention` gives, or `attention` of an inspection.
        block: Name of the block; the first by default.
        sample: Which of the samples that were noted.
        title: Above the figure.

    Raises:
        ValueError: There is no such block or sample; the message names those there are.
    """
    from plotly.subplots import make_subplots

    block = next(iter(seen), "") if block is None else block
    attended = find_block(seen, block)
    noted = len(attended.queries)
    if not 0 <= sample < noted:
        raise ValueError(f"sample must be in [0, {noted}), those whose attention was noted, got {sample}")
    heads = attended.of_sample(sample)
    columns = min(len(heads), HEADS_A_ROW)
    rows = -(-len(heads) // columns)
    names = [f"head {number}" for number in range(len(heads))]
    figure = make_subplots(
        rows=rows, cols=columns, subplot_titles=names, horizontal_spacing=0.02, vertical_spacing=0.2 / rows
    )
    most = float(heads.max())
    for number, head in enumerate(heads):
        figure.add_heatmap(
            z=_rounded(head),
            zmin=0,
            zmax=most,
            colorscale="Viridis",
            showscale=number == 0,
            colorbar={"title": {"text": "weight"}},
            hovertemplate="token %{y} looks at %{x}: %{z:.3f}<extra></extra>",
            row=number // columns + 1,
            col=number % columns + 1,
        )
    figure.update_xaxes(showticklabels=False, constrain="domain")
    figure.update_yaxes(showticklabels=False, autorange="reversed", constrain="domain")
    figure.update_yaxes(title_text="asks", col=1)
    figure.update_xaxes(title_text="is looked at", row=rows)
    text = title or f"{block}, sample {sample}"
    return finish(figure, title=text, height=100 + 190 * rows, width=170 + 150 * max(columns, 2))


def _rounded(weights: Tensor) -> list[list[float]]:
    return [[round(value, 4) for value in row] for row in weights.tolist()]
