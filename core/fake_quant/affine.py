"""Affine grids: x ≈ scale · (code − zero_point), code an integer in [low, high].

A grid always represents 0 exactly, since padding, ReLU and absent activations rely on it; so the
range it covers always includes 0. Rounding is half to even, as in ONNX's QuantizeLinear.
Equations: Jacob et al., arXiv 1712.05877, section 2; Krishnamoorthi, arXiv 1806.08342, section 2.

Legend: w_O… a weight whose rows are output channels; per-row quantities have shape [O].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from core.fake_quant.straight_through import RoundToGrid

SMALLEST_SCALE = 1e-8


@dataclass(frozen=True, slots=True)
class Grid:
    """`scale` and `zero_point` (integer values) are float tensors, 0-d for a tensor's grid or [O] per row."""

    scale: Tensor
    zero_point: Tensor
    low: int
    high: int

    @property
    def per_row(self) -> bool:
        return self.scale.dim() == 1

    def codes(self, x: Tensor) -> Tensor:
        """The integers (int32) that stand for x; the same rounding as `fake_quantize`."""
        scale, zero_point = self._broadcast(x)
        codes = torch.round(x * (1.0 / scale)) + zero_point
        return codes.clamp(self.low, self.high).to(torch.int32)

    def values(self, codes: Tensor) -> Tensor:
        """The float32 numbers that integer codes stand for."""
        scale, zero_point = self._broadcast(codes)
        return (codes.to(torch.float32) - zero_point) * scale

    def _broadcast(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not self.per_row:
            return self.scale, self.zero_point
        shape = (-1, *[1] * (x.dim() - 1))
        return self.scale.view(shape), self.zero_point.view(shape)


def fake_quantize(x: Tensor, grid: Grid, factor: float = 0.0) -> Tensor:
    """x rounded to the grid, in float; gradient 1 inside the grid's range and 0 outside (STE).

    The scale of a tensor's grid gets LSQ's gradient times `factor` where it asks for one.
    """
    if grid.per_row:
        zero_point = grid.zero_point.to(torch.int32)
        return torch.fake_quantize_per_channel_affine(x, grid.scale, zero_point, 0, grid.low, grid.high)
    if x.device.type == "cpu" and x.dtype == torch.float32:
        zero = float(grid.zero_point)
        y: Tensor = RoundToGrid.apply(x, grid.scale, grid.low - zero, grid.high - zero, factor)
        return y
    if grid.scale.requires_grad:
        scale, zero_point = grid.scale.view(1), grid.zero_point.view(1)
        return torch._fake_quantize_learnable_per_tensor_affine(
            x, scale, zero_point, grid.low, grid.high, factor
        )
    return torch.fake_quantize_per_tensor_affine(
        x, grid.scale, grid.zero_point.to(torch.int32), grid.low, grid.high
    )


def unsigned_grid(low: Tensor, high: Tensor, bits: int) -> Grid:
    """The asymmetric grid of codes 0 … 2^bits − 1 that covers [min(low, 0), max(high, 0)]."""
    top = 2**bits - 1
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = _scale(high - low, top)
    zero_point = torch.round(-low / scale).clamp(0, top)
    return Grid(scale, zero_point, 0, top)


def signed_grid(low: Tensor, high: Tensor, bits: int) -> Grid:
    """The grid of codes −2^(bits−1) … 2^(bits−1) − 1 around zero-point 0 that covers ±max(−low, high)."""
    top = 2 ** (bits - 1) - 1
    scale = _scale(torch.maximum(-low, high), top)
    return Grid(scale, torch.zeros_like(scale), -top - 1, top)


def symmetric_grid(magnitude: Tensor, bits: int) -> Grid:
    """The narrow symmetric grid −(2^(bits−1) − 1) … 2^(bits−1) − 1 that covers ±magnitude."""
    top = 2 ** (bits - 1) - 1
    scale = _scale(magnitude, top)
    return Grid(scale, torch.zeros_like(scale), -top, top)


def _scale(size: Tensor, steps: int) -> Tensor:
    """Of a range that is all zero any scale will do; a tiny one would take biases beside it out of int32."""
    return torch.where(size > 0, (size / steps).clamp(min=SMALLEST_SCALE), 1.0 / steps)


@torch.no_grad()
def weight_grid(w_O: Tensor, bits: int, bias_O: Tensor | None = None, *, symmetric: bool = False) -> Grid:
    """The min-max grid of every row of a weight.

    8-bit weights are symmetric, narrower ones asymmetric unless `symmetric` is asked for: code −
    zero_point of a 7-bit grid still fits into the int8 that integer kernels read with zero-point 0,
    and at 8 bits symmetry costs next to nothing. (Kernels do accept a zero-point for every row, but
    depthwise ones then run 50 times slower: docs/decisions/0005.)

    A row of almost-zero weights behind a large bias gets a scale that keeps the bias, expressed in
    steps of input scale × weight scale, inside int32 for every input scale above 2^-10.
    """
    rows = w_O.flatten(1)
    low, high = rows.amin(1), rows.amax(1)  # torch.aminmax is far slower on a CPU
    if symmetric or bits == 8:
        grid = symmetric_grid(torch.maximum(-low, high), bits)
    else:
        grid = unsigned_grid(low, high, bits)
    if bias_O is None:
        return grid
    scale = torch.maximum(grid.scale, bias_O.detach().abs() * 2.0**-21)
    zero_point = torch.round(-low.clamp(max=0) / scale) if grid.low == 0 else grid.zero_point
    return Grid(scale, zero_point, grid.low, grid.high)
