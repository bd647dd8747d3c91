"""Pictures of images with their masks, and of where masks fall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from jepa.figures.style import finish


def mask_figure(images: Tensor, context: Tensor, target: Tensor, grid: tuple[int, int], *, count: int = 6) -> Any:
    """Images, what the encoder sees of them, and what must be predicted.

    Args:
        images: (B, C, H, W), bytes or floats.
        context: (B, C) token positions that are seen.
        target: (B, M) or (B, K, M) token positions that are predicted.
        grid: Rows and columns of tokens.
        count: Images to show.

    Returns:
        A `plotly.graph_objects.Figure` of three rows.
    """
    from plotly.subplots import make_subplots

    pixels = as_pixels(images[:count])
    count = len(pixels)
    seen = token_mask(context[:count], grid, pixels.shape[1:3])
    hidden = token_mask(target[:count].flatten(1), grid, pixels.shape[1:3])
    rows = [pixels, shade(pixels, seen), shade(pixels, hidden)]
    figure = make_subplots(rows=3, cols=count, horizontal_spacing=0.01, vertical_spacing=0.03)
    for row, pictures in enumerate(rows, start=1):
        for column, picture in enumerate(pictures, start=1):
            figure.add_image(z=picture.numpy(), hoverinfo="skip", row=row, col=column)
    bare_axes(figure)
    for row, name in enumerate(("image", "context", "targets"), start=1):
        figure.update_yaxes(title_text=name, row=row, col=1)
    return finish(figure, height=90 + 100 * 3, width=90 + 110 * count)


def coverage_figure(coverages: Mapping[str, tuple[Tensor, Tensor]]) -> Any:
    """How often each place is context, and how often a target: a pair of heat maps for each sampler, on one scale.

    Args:
        coverages: What `jepa.masks.coverage` gives, by the name of the sampler. Maps are (H, W), or (T, H, W), whose
            times are put side by side.

    Returns:
        A `plotly.graph_objects.Figure` of one row a sampler.
    """
    from plotly.subplots import make_subplots

    maps = [(_side_by_side(context), _side_by_side(target)) for context, target in coverages.values()]
    if not maps:
        raise ValueError("coverages is empty; pass {name: coverage(sampler, ...)}")
    most = max(float(share.nan_to_num().max()) for pair in maps for share in pair)
    figure = make_subplots(
        rows=len(maps),
        cols=2,
        subplot_titles=("probability of context", "probability of target"),
        horizontal_spacing=0.04,
        vertical_spacing=0.06,
    )
    for row, pair in enumerate(maps, start=1):
        for column, share in enumerate(pair, start=1):
            options: dict[str, Any] = {
                "zmin": 0,
                "zmax": most,
                "colorscale": "Viridis",
                "showscale": (row, column) == (1, 2),
            }
            figure.add_heatmap(
                z=share.tolist(), hovertemplate="%{z:.2f}<extra></extra>", **options, row=row, col=column
            )
    bare_axes(figure)
    for row, name in enumerate(coverages, start=1):
        figure.update_yaxes(title_text=name, row=row, col=1)
    wide = maps[0][0].shape[1] > 3 * maps[0][0].shape[0]
    return finish(figure, height=80 + (110 if wide else 220) * len(maps), width=960 if wide else 620)


def _side_by_side(share: Tensor) -> Tensor:
    """(H, W) as it is; (T, H, W) to (H, T * (W + 1) - 1), a gap between the times."""
    if share.ndim == 2:
        return share
    return torch.nn.functional.pad(share, (0, 1), value=float("nan")).transpose(0, 1).flatten(1)[:, :-1]


def image_row(images: Tensor, titles: Sequence[str] | None = None) -> Any:
    """Images (B, C, H, W) side by side."""
    from plotly.subplots import make_subplots

    pixels = as_pixels(images)
    figure = make_subplots(rows=1, cols=len(pixels), horizontal_spacing=0.01, subplot_titles=titles)
    for column, picture in enumerate(pixels, start=1):
        figure.add_image(z=picture.numpy(), hoverinfo="skip", row=1, col=column)
    bare_axes(figure)
    return finish(figure, height=180, width=90 + 110 * len(pixels))


def bare_axes(figure: Any) -> None:
    """No ticks or grid: pictures speak for themselves; the first row is at the top."""
    figure.update_xaxes(showticklabels=False, showgrid=False, zeroline=False, constrain="domain")
    figure.update_yaxes(showticklabels=False, showgrid=False, zeroline=False, autorange="reversed")


def as_pixels(images: Tensor) -> Tensor:
    """(B, C, H, W) of any range to (B, H, W, 3) bytes: the first three channels, or the first in grey if fewer."""
    if images.ndim != 4:
        raise ValueError(f"expected images of shape (B, C, H, W), got {tuple(images.shape)}")
    values = images.detach().cpu().float()
    low, high = values.amin(), values.amax()
    values = (values - low) / (high - low).clamp(min=1e-8) * 255
    values = values[:, :1].expand(-1, 3, -1, -1) if values.shape[1] < 3 else values[:, :3]
    return values.permute(0, 2, 3, 1).round().to(torch.uint8)


def token_mask(index: Tensor, grid: tuple[int, ...], size: Sequence[int]) -> Tensor:
    """(B, H, W) bool: which pixels belong to the tokens at `index` (B, M)."""
    rows, columns = grid if len(grid) == 2 else (1, grid[0])
    mask = torch.zeros(len(index), rows * columns, dtype=torch.bool).scatter(1, index.cpu(), True)
    mask = mask.view(-1, rows, columns)
    return mask.repeat_interleave(size[0] // rows, 1).repeat_interleave(size[1] // columns, 2)


def shade(pixels: Tensor, mask: Tensor) -> Tensor:
    """The pixels inside the mask; a flat light grey-blue outside."""
    outside = torch.tensor([222, 226, 232], dtype=torch.uint8)
    return torch.where(mask.unsqueeze(-1), pixels, outside)
