"""Rounding a float32 tensor in memory to a per-tensor grid, and its straight-through gradients.

    forward    y = s · clamp(round(x / s), low − z, high − z)
    backward   dx = dy where the code is inside [low, high], else 0                    (STE)
               ds = f · Σ dy · (round(x / s) − x / s inside, the bound outside)        (LSQ, eq. 3)
                  = f · (dy · y − dx · x) / s

with f LSQ's gradient factor (Esser et al., arXiv 1902.08153). PyTorch's own kernels for this run
element by element on a CPU and take four to nine times as long as these few vectorized passes, or
more than the convolution that reads the result. The second form of ds is what makes it two dot products.

Infinities saturate, and NaN stays NaN: a student that diverges shows it in its loss.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

aten = torch.ops.aten


class RoundToGrid(torch.autograd.Function):
    """apply(x, scale, first, last, factor): `first` and `last` are the bounds of code − zero_point."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, first: float, last: float, factor: float) -> Tensor:
        y = (x * (1.0 / scale)).round_().clamp_(first, last).mul_(scale)
        ctx.bounds, ctx.factor = (first, last), factor
        ctx.save_for_backward(x, scale, y if ctx.needs_input_grad[1] else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        x, scale, y = ctx.saved_tensors
        below, above = clip_edges(scale.item(), *ctx.bounds)
        dx = aten.hardtanh_backward(dy, x, below, above)
        if y is None:
            return dx, None, None, None, None
        dscale = (_dot(dy, y) - _dot(dx, x)) * (ctx.factor / scale)
        return dx, dscale, None, None, None


def clip_edges(scale: float, first: float, last: float) -> tuple[float, float]:
    """The two numbers between which, both excluded, x is rounded to something from `first` to `last`."""
    inverse = np.float32(1) / np.float32(scale)
    return -_smallest_above(-first, inverse), _smallest_above(last, inverse)


def _smallest_above(code: float, inverse: np.float32) -> float:
    """The smallest float32 that is rounded to more than `code`: a tie's neighbours, or the tie itself."""
    x = np.float32((code + 0.5) / float(inverse))
    while np.rint(x * inverse) > code:
        x = np.nextafter(x, np.float32(-np.inf))
    while np.rint(x * inverse) <= code:
        x = np.nextafter(x, np.float32(np.inf))
    return float(x)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Σ a · b, read in the order in which the elements of `a` lie in memory."""
    if a.is_contiguous(memory_format=torch.channels_last):
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
    return torch.dot(a.reshape(-1), b.reshape(-1))
