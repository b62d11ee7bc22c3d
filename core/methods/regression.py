"""A layer's low-bit weight and its bias, from what its inputs have become.

With x what the teacher's layer reads and y what the student's does, both centred:

    W' = argmin |W x - W' y|² + ridge |W - W'|²      then rounded by GPTQ
    b' = mean of the teacher's outputs - mean of W' y     (bias correction: Nagel et al., ICCV 2019,
                                                       arXiv 1906.04721, section 4.2; here from images)

or, without the regression, W itself rounded by SQuant or to nearest, and b' for the weight's error alone.

Shapes: as in `core.methods.layer_matrix`; R rows, those of all groups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from core.fake_quant.affine import Grid, weight_grid
from core.fake_quant.rounding import gptq, squant
from core.methods.layer_matrix import Layer, apply, channel_dim, columns, rows

Rounding = Literal["gptq", "squant", "nearest"]

_SAMPLES = 4096  # at most, of all positions of all images
_WEIGHT_RATIOS = torch.linspace(1.0, 0.5, 11).tolist()
_GRID_STRIDE = 4  # of the samples, on which grids are compared
_WIDEST = 4608  # inputs of an output, beyond which a layer is rounded by SQuant: D³ would be minutes
_RIDGE, _DAMPING = 10.0, 1.0  # times the mean second moment: see docs/methods/fast.md


def find_weight(
    layer: Layer,
    x: Tensor,
    y: Tensor,
    wanted: Tensor,
    rounding: Rounding,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Rounds the layer's weight, still the teacher's, and corrects its bias.

    x is what the teacher's layer reads and `wanted` what comes out; y is what the student's layer reads.
    """
    weight_GOD = rows(layer, layer.weight)
    if rounding == "gptq" and weight_GOD.shape[2] > _WIDEST:
        rounding = "squant"
    if rounding == "gptq":
        seen_GDN = columns(layer, y, _SAMPLES)
        seen_GDN -= seen_GDN.mean(2, keepdim=True)
        full_GDN = columns(layer, x, _SAMPLES)
        full_GDN -= full_GDN.mean(2, keepdim=True)
        moments = _Moments.of(seen_GDN)
        across_GOD = weight_GOD @ (full_GDN @ seen_GDN.transpose(1, 2) / seen_GDN.shape[2])
        weight_GOD = moments.regression(across_GOD, weight_GOD)
        grid = moments.grid(layer, weight_GOD)
        codes = gptq(weight_GOD, grid, moments.damped(_DAMPING), check)
    else:
        grid = weight_grid(layer.weight, layer.bits, layer.bias, symmetric=layer.symmetric)
        codes = _rounded(layer, grid, rounding)
        wanted = apply(layer, y, layer.weight, layer.bias)  # without regression, the weight's error alone
    rounded = grid.values(codes.flatten(0, 1)).view_as(layer.weight)
    if layer.bias is not None:
        missing = wanted - apply(layer, y, rounded, None)
        layer.bias.copy_(missing.mean([d for d in range(missing.dim()) if d != channel_dim(layer, missing)]))
    layer.weight.copy_(rounded)
    layer.fix_grid(grid)


@dataclass(frozen=True, slots=True)
class _Moments:
    """Second moments of a layer's centred inputs: `matrix` [G, D, D], and their mean diagonal [G];
    `seen` [G, D, N] are some of these inputs."""

    matrix: Tensor
    mean: Tensor
    seen: Tensor

    @classmethod
    def of(cls, seen_GDN: Tensor) -> _Moments:
        matrix = seen_GDN @ seen_GDN.transpose(1, 2) / seen_GDN.shape[2]
        mean = matrix.diagonal(dim1=1, dim2=2).mean(1)
        return cls(matrix, torch.where(mean > 0, mean, 1.0), seen_GDN[:, :, ::_GRID_STRIDE])

    def damped(self, share: float) -> Tensor:
        return self.matrix + torch.diag_embed((share * self.mean)[:, None].expand(self.matrix.shape[:2]))

    def regression(self, across_GOD: Tensor, weight_GOD: Tensor) -> Tensor:
        """argmin over W' of |wanted - W' seen|² + ridge |W - W'|², `across_GOD` being wanted seenᵀ / N."""
        pulled_GOD = across_GOD + _RIDGE * self.mean[:, None, None] * weight_GOD
        factor = torch.linalg.cholesky(self.damped(_RIDGE))
        return torch.cholesky_solve(pulled_GOD.transpose(1, 2), factor).transpose(1, 2).contiguous()

    def grid(self, layer: Layer, weight_GOD: Tensor) -> Grid:
        """Of each channel, the part of its min-max range with which its outputs err least."""
        weight_RD = weight_GOD.flatten(0, 1)
        grids = [
            weight_grid(weight_RD * ratio, layer.bits, layer.bias, symmetric=layer.symmetric)
            for ratio in (_WEIGHT_RATIOS if layer.bits < 8 else [1.0])
        ]
        errors = []
        for grid in grids:
            error_GOD = (grid.values(grid.codes(weight_RD)) - weight_RD).view_as(weight_GOD)
            errors.append((error_GOD @ self.seen).square().mean(2).flatten())
        best = torch.stack(errors).argmin(0, keepdim=True)
        scale = torch.stack([grid.scale for grid in grids]).gather(0, best)[0]
        zero_point = torch.stack([grid.zero_point for grid in grids]).gather(0, best)[0]
        return Grid(scale, zero_point, grids[0].low, grids[0].high)


def _rounded(layer: Layer, grid: Grid, rounding: Rounding) -> Tensor:
    """Codes [1, O, D] without data."""
    weight_RD = layer.weight.flatten(1)
    if rounding == "nearest":
        return grid.codes(weight_RD).float()[None]
    position = weight_RD / grid.scale[:, None] + grid.zero_point[:, None]
    kernels = layer.weight.shape[1]
    return squant(position.view(len(weight_RD), kernels, -1), grid.low, grid.high).flatten(1)[None]
