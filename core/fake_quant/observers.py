"""How an activation quantizer finds its range from the tensors it sees.

An observer is called with each batch and answers with the range to use from now on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from core.fake_quant.affine import Grid, fake_quantize

Range = tuple[Tensor, Tensor]
GridOf = Callable[[Tensor, Tensor], Grid]


class Observer(Protocol):
    def __call__(self, x: Tensor, grid_of: GridOf) -> Range:
        """Low and high (0-d tensors) after seeing x; `grid_of` is the grid that a range would lead to."""


class MinMax:
    """The absolute minimum and maximum of all batches so far: the range only ever widens."""

    def __init__(self) -> None:
        self.range: Range | None = None

    def __call__(self, x: Tensor, grid_of: GridOf) -> Range:
        low, high = x.amin(), x.amax()  # torch.aminmax is far slower on a CPU
        if self.range is not None:
            low, high = torch.minimum(low, self.range[0]), torch.maximum(high, self.range[1])
        self.range = (low, high)
        return self.range


class MovingAverage:
    """Exponential moving averages of the batches' minima and maxima (GDFQ's code, Jacob et al. section 3.1).

    The average starts at 0; what it lacks for that, a factor of 1 - decay^batches, is divided out of
    the range on reading it, never of the average itself.
    """

    def __init__(self, decay: float = 0.9) -> None:
        self.decay = decay
        self.average: Range | None = None
        self.batches = 0

    def __call__(self, x: Tensor, grid_of: GridOf) -> Range:
        low, high = torch.aminmax(x)
        average = self.average or (torch.zeros_like(low), torch.zeros_like(high))
        self.average = (average[0].lerp(low, 1 - self.decay), average[1].lerp(high, 1 - self.decay))
        self.batches += 1
        seen = 1 - self.decay**self.batches
        return self.average[0] / seen, self.average[1] / seen


class MinError:
    """The range with the smallest mean squared rounding error, averaged over batches.

    Below 8 bits, covering the rare extremes costs more than clipping them. Candidates are the
    min-max range shrunk in `steps` equal steps to `smallest` of its size (Banner et al., arXiv
    1810.05723, do it in closed form for Gaussian and Laplacian tensors); at most `samples` elements
    are looked at.
    """

    def __init__(self, steps: int = 40, smallest: float = 0.2, samples: int = 1 << 17) -> None:
        self.ratios = torch.linspace(1.0, smallest, steps).tolist()
        self.samples = samples
        self.sum: Range | None = None
        self.batches = 0

    def __call__(self, x: Tensor, grid_of: GridOf) -> Range:
        flat = x.flatten()
        if flat.numel() > self.samples:
            # An odd stride: one that divides the width of an image would look at its border alone.
            flat = flat[:: -(-flat.numel() // self.samples) | 1]
        low, high = x.amin(), x.amax()
        errors = torch.stack(
            [(fake_quantize(flat, grid_of(low * r, high * r)) - flat).square().mean() for r in self.ratios]
        )
        ratio = self.ratios[int(errors.argmin())]
        best = (low * ratio, high * ratio)
        self.sum = best if self.sum is None else (self.sum[0] + best[0], self.sum[1] + best[1])
        self.batches += 1
        return self.sum[0] / self.batches, self.sum[1] / self.batches


ObserverFactory = Callable[[], Observer]
