"""Pictures of images with their masks, and of where masks fall."""

from __future__ import annotations

from collections.abc import Sequence
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


def mask_coverage_figure(context: Tensor, target: Tensor) -> Any:
    """How often each position is context, and how often a target: two (H, W) maps of probabilities side by side."""
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=1, cols=2, subplot_titles=("context", "target"), horizontal_spacing=0.08)
    for column, share in enumerate((context, target), start=1):
        figure.add_heatmap(
            z=share.tolist(), zmin=0, zmax=1, colorscale="Viridis", showscale=column == 2, row=1, col=column
        )
    bare_axes(figure)
    return finish(figure, height=320, width=640)


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
