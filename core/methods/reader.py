"""What a layer makes of a tensor that it reads through a grid.

Shapes: as in `core.methods.layer_matrix`.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from core.fake_quant.affine import Grid, fake_quantize, weight_grid
from core.methods.layer_matrix import Layer, columns, rows

_SAMPLES = 1024


class Reader(NamedTuple):
    """A layer that reads a tensor: its weight rounded to nearest, the tensor as columns, what to come out."""

    rounded_GOD: Tensor
    bias_GO1: Tensor
    ceiling: float | None  # of the ReLU behind it
    x_GDN: Tensor
    wanted_GON: Tensor

    @classmethod
    def of(cls, layer: Layer, seen: Tensor, ceiling: float | None) -> Reader:
        weight_GOD = rows(layer, layer.weight)
        flat = weight_GOD.flatten(0, 1)
        grid = weight_grid(flat, layer.bits, layer.bias, symmetric=layer.symmetric)
        rounded_GOD = grid.values(grid.codes(flat)).view_as(weight_GOD)
        bias_O = flat.new_zeros(len(flat)) if layer.bias is None else layer.bias
        bias_GO1, x_GDN = bias_O.view(*weight_GOD.shape[:2], 1), columns(layer, seen, _SAMPLES)
        wanted_GON = _clipped(weight_GOD @ x_GDN + bias_GO1, ceiling)
        return cls(rounded_GOD, bias_GO1, ceiling, x_GDN, wanted_GON)

    def errors(self, grid: Grid) -> Tensor:
        """Mean squared errors [G, O] of the layer's outputs when it reads through `grid`: one for the
        tensor, or one for each of its groups."""
        result_GON = self.rounded_GOD @ fake_quantize(self.x_GDN, grid) + self.bias_GO1
        return (_clipped(result_GON, self.ceiling) - self.wanted_GON).square().mean(2)


def _clipped(x: Tensor, ceiling: float | None) -> Tensor:
    return x if ceiling is None else x.clamp(0, ceiling)
