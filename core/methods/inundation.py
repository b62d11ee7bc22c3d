"""Gradient inundation: steps long enough to change integers, from AIT (arXiv 2203.17008).

A weight that moves by less than half a step of its grid is still rounded to the same integer, and in
low-bit fine-tuning most do. For a weight at w / scale = r that is about to move by m steps of its
grid, the move must be multiplied with  d / |m|  to cross the next rounding threshold, d being its distance
in the direction of m. A layer's moves are all multiplied with the factor at which the wanted share of
its weights crosses, if that is above 1.

Deviation: AIT searches for the factor by trial; the quantile of d / |m| is that factor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from core.fake_quant.affine import Grid
from core.fake_quant.insert import Student

_BEYOND = 1.001  # a threshold that is only just reached rounds to even, not onward


@contextmanager
def inundated(student: Student, share: float) -> Iterator[None]:
    """Lengthens the optimizer step taken inside, layer by layer; a `share` of 0 leaves it as it is."""
    layers = list(student.layers().values()) if share else []
    before = [(layer.weight.detach().clone(), layer.grid()) for layer in layers]
    yield
    with torch.no_grad():
        for layer, (weight, grid) in zip(layers, before, strict=True):
            move = layer.weight - weight
            layer.weight.copy_(weight + crossing_factor(weight, move, grid, share) * move)


def crossing_factor(weight: Tensor, move: Tensor, grid: Grid, share: float) -> float:
    """What to multiply `move` with so that `share` of the weights round to other integers; at least 1."""
    scale = grid.scale.view(-1, *[1] * (weight.dim() - 1))
    position, moved = weight / scale, move / scale
    to_threshold = 0.5 - (position - position.round()) * moved.sign()
    needed = torch.where(moved == 0, torch.inf, to_threshold / moved.abs()).flatten()
    factor = float(needed.kthvalue(max(1, round(share * needed.numel()))).values) * _BEYOND
    return max(1.0, factor) if factor < float("inf") else 1.0
