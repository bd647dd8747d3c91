"""Figures of an inspection, of what `run.inspect()` gives, that need more than one part of it."""

from __future__ import annotations

from typing import Any

from jepa.diagnostics import named_tensors, tensor_statistics
from jepa.figures.samples import sample_inputs, worst_samples_figure
from jepa.figures.spectrum import neighbours_figure
from jepa.figures.table import table_figure

COLUMNS = ("tensor", "shape", "dtype", "device", "min", "max", "mean", "std", "NaN", "zero")


def losses_figure(inspection: Any, *, count: int = 6) -> Any:
    """The losses of the samples of the last batch, and the samples with the largest.

    Args:
        inspection: What `run.inspect()` gives.
        count: Samples to draw.

    Raises:
        ValueError: The inspection did not look at the samples, or the objective cannot tell.
    """
    if inspection.sample_losses is None:
        why = inspection.missing.get("samples", "ask for them: run.inspect(parts=('samples',))")
        raise ValueError(f"there are no losses of single samples: {why}")
    title = f"{inspection.sample_term} of each sample, step {inspection.step}"
    inputs = sample_inputs(inspection.views)
    return worst_samples_figure(inspection.sample_losses, inputs, term=inspection.sample_term, count=count, title=title)


def tensors_figure(inspection: Any) -> Any:
    """Shape, range and missing values of all tensors of the last batch, its views and embeddings, as a table.

    Args:
        inspection: What `run.inspect()` gives.
    """
    found = {**dict(named_tensors(inspection.batch, "batch")), **dict(named_tensors(inspection.views, "views"))}
    rows = []
    for name, tensor in {**found, "embedding": inspection.embedding}.items():
        device = "cpu" if name.startswith("batch") else inspection.device
        told = tensor_statistics(name, tensor, device)
        shape = "×".join(map(str, told.shape))
        numbers = (told.minimum, told.maximum, told.mean, told.std)
        rows.append((name, shape, told.dtype, told.device, *numbers, _share(told.nan), _share(told.zero)))
    return table_figure(
        COLUMNS, rows, widths=(2, 1.6, 1, 1, 1, 1, 1, 1, 0.8, 0.8), wide=COLUMNS[:4], title=f"step {inspection.step}"
    )


def nearest_figure(inspection: Any, sample: int = 0, *, count: int = 5) -> Any:
    """A sample of the last batch and those that the model takes for most alike.

    Args:
        inspection: What `run.inspect()` gives.
        sample: Its row in the batch.
        count: How many others.
    """
    return neighbours_figure(inspection.embedding, sample_inputs(inspection.views), sample, count=count)


def _share(share: float) -> str:
    return "0" if share == 0 else f"{100 * share:.2g} %"
