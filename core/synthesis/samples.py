"""A grid of synthetic images as PNG, for people to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

_TILE = 96
_GAP = 2
_MOST_ROWS = 10  # of classes


def write_grid(
    images: Tensor,
    path: Path,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    labels: Tensor | None = None,
    limit: int = 64,
) -> None:
    """Writes up to `limit` of `images` [N, C, H, W] (normalized by `mean` and `std`) as a square grid.

    With `labels` [N], the classes that the images were made to be, each row shows one class, the
    smallest first, at most ten of them. Images below 96 pixels are enlarged by whole factors without
    smoothing, so that what the network saw is what is seen. C is 1 (gray) or 3 (RGB); of any other
    number the first channel is shown.
    """
    rows = _square(len(images[:limit])) if labels is None else _by_class(labels, limit)
    order = torch.tensor([index for row in rows for index in row])
    pixels = iter(_pixels(images[order], mean, std))
    height, width = images.shape[2:]
    factor = max(1, _TILE // max(height, width))
    step_x, step_y = width * factor + _GAP, height * factor + _GAP
    size = (max(map(len, rows)) * step_x + _GAP, len(rows) * step_y + _GAP)
    canvas = Image.new("RGB", size, "white")
    for y, row in enumerate(rows):
        for x in range(len(row)):
            picture = Image.fromarray(next(pixels).permute(1, 2, 0).squeeze(-1).numpy())
            picture = picture.resize((width * factor, height * factor), Image.Resampling.NEAREST)
            canvas.paste(picture, (_GAP + x * step_x, _GAP + y * step_y))
    canvas.save(path, format="PNG", optimize=True)


def _square(count: int) -> list[list[int]]:
    """Indices of images, row by row."""
    columns = math.ceil(math.sqrt(count))
    return [list(range(start, min(start + columns, count))) for start in range(0, count, columns)]


def _by_class(labels: Tensor, limit: int) -> list[list[int]]:
    classes = labels.unique().tolist()[:_MOST_ROWS]
    columns = max(1, limit // len(classes))
    return [(labels == c).nonzero().flatten().tolist()[:columns] for c in classes]


def _pixels(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """As they are shown: [N, 1 or 3, H, W], uint8."""
    shown = images.detach().float().cpu()
    channels = shown.shape[1]
    scale = torch.tensor(list(std)).expand(channels).view(1, -1, 1, 1)
    offset = torch.tensor(list(mean)).expand(channels).view(1, -1, 1, 1)
    pixels = (shown * scale + offset).nan_to_num().clamp(0, 1).mul(255).round().to(torch.uint8)
    return pixels if channels in (1, 3) else pixels[:, :1]
