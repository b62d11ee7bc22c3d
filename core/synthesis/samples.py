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


def write_grid(
    images: Tensor, path: Path, mean: Sequence[float], std: Sequence[float], *, limit: int = 64
) -> None:
    """Writes up to `limit` of `images` [N, C, H, W] (normalized by `mean` and `std`) as a square grid.

    Images below 96 pixels are enlarged by whole factors without smoothing, so that what the network saw
    is what is seen. C is 1 (gray) or 3 (RGB); of any other number the first channel is shown.
    """
    shown = images[:limit].detach().float().cpu()
    channels = shown.shape[1]
    scale = torch.tensor(list(std)).expand(channels).view(1, -1, 1, 1)
    offset = torch.tensor(list(mean)).expand(channels).view(1, -1, 1, 1)
    pixels = (shown * scale + offset).nan_to_num().clamp(0, 1).mul(255).round().to(torch.uint8)
    if channels not in (1, 3):
        pixels = pixels[:, :1]
    count, _, height, width = pixels.shape
    factor = max(1, _TILE // max(height, width))
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    step_x, step_y = width * factor + _GAP, height * factor + _GAP
    canvas = Image.new("RGB", (columns * step_x + _GAP, rows * step_y + _GAP), "white")
    for index in range(count):
        tile = pixels[index].permute(1, 2, 0).squeeze(-1).numpy()
        picture = Image.fromarray(tile).resize((width * factor, height * factor), Image.Resampling.NEAREST)
        canvas.paste(picture, (_GAP + index % columns * step_x, _GAP + index // columns * step_y))
    canvas.save(path, format="PNG", optimize=True)
