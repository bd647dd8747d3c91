"""The published mask code, transcribed loop by loop from its description: what `official=True` is compared with.

I-JEPA (arXiv 2301.08243), V-JEPA (arXiv 2404.08471). One sample at a time, one try at a time, on the CPU.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MIN_KEEP = 10


def image_block_size(
    grid: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> tuple[int, int]:
    draw = torch.rand(1, generator=generator).item()  # one number for scale and aspect ratio
    area = int(grid[0] * grid[1] * (scale[0] + draw * (scale[1] - scale[0])))
    aspect = ratio[0] + draw * (ratio[1] - ratio[0])
    height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    while height >= grid[0]:
        height -= 1
    while width >= grid[1]:
        width -= 1
    return height, width


def image_block(
    grid: tuple[int, int], size: tuple[int, int], generator: torch.Generator, allowed: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Positions of a block inside the allowed regions, and the map of everything outside the block."""
    (rows, columns), (height, width) = grid, size
    dropped, tries = 0, 20
    while True:
        top = torch.randint(0, rows - height, (1,), generator=generator)
        left = torch.randint(0, columns - width, (1,), generator=generator)
        mask = torch.zeros((rows, columns), dtype=torch.int32)
        mask[top : top + height, left : left + width] = 1
        for region in allowed[: max(len(allowed) - dropped, 0)]:
            mask *= region
        positions = torch.nonzero(mask.flatten())
        if len(positions) > MIN_KEEP:
            break
        tries -= 1
        if tries == 0:
            dropped, tries = dropped + 1, 20
    outside = torch.ones((rows, columns), dtype=torch.int32)
    outside[top : top + height, left : left + width] = 0
    return positions.squeeze(1), outside


def image_masks(batch: int, grid: tuple[int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Context (B, C) and targets (B, 4, M), with the numbers of the paper."""
    target_size = image_block_size(grid, (0.15, 0.2), (0.75, 1.5), generator)
    context_size = image_block_size(grid, (0.85, 1.0), (1.0, 1.0), generator)
    contexts, targets = [], []
    for _ in range(batch):
        blocks, outsides = [], []
        for _ in range(4):
            positions, outside = image_block(grid, target_size, generator, [])
            blocks.append(positions)
            outsides.append(outside)
        targets.append(blocks)
        contexts.append(image_block(grid, context_size, generator, outsides)[0])
    fewest = min(len(context) for context in contexts)
    shortest = min(len(block) for blocks in targets for block in blocks)
    return (
        torch.stack([context[:fewest] for context in contexts]),
        torch.stack([torch.stack([block[:shortest] for block in blocks]) for blocks in targets]),
    )


def video_masks(
    batch: int, grid: tuple[int, int, int], num_blocks: int, scale: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Context (B, C) and target (B, M) of one group, blocks through all time."""
    _, rows, columns = grid
    area = int(rows * columns * scale)
    aspect = 0.75 + torch.rand(1, generator=generator).item() * 0.75
    height = min(round(math.sqrt(area * aspect)), rows)
    width = min(round(math.sqrt(area / aspect)), columns)
    contexts, targets = [], []
    for _ in range(batch):
        free = torch.ones(grid, dtype=torch.int32)
        for _ in range(num_blocks):
            top = torch.randint(0, rows - height + 1, (1,), generator=generator)
            left = torch.randint(0, columns - width + 1, (1,), generator=generator)
            free[:, top : top + height, left : left + width] = 0
        contexts.append(torch.nonzero(free.flatten()).squeeze(1))
        targets.append(torch.nonzero(free.flatten() == 0).squeeze(1))
    fewest, shortest = (min(len(one) for one in kind) for kind in (contexts, targets))
    return torch.stack([one[:fewest] for one in contexts]), torch.stack([one[:shortest] for one in targets])
