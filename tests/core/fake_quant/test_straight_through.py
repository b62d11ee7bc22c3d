"""The vectorized passes give the codes' values bit for bit, and PyTorch's own gradients."""

from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from core.fake_quant.affine import Grid, fake_quantize, signed_grid, unsigned_grid
from core.fake_quant.straight_through import clip_edges

SCALES = st.floats(2.0**-26, 2.0**13, width=32)


def around_ties(scale: Tensor, low: float, high: float) -> Tensor:
    """Every point where the code changes, with its float32 neighbours, and some beyond the range."""
    halves = torch.arange(low - 3, high + 4) + 0.5
    ties = (halves.double() * scale.double()).float().numpy()
    below, above = np.nextafter(ties, np.float32(-inf)), np.nextafter(ties, np.float32(inf))
    further = np.nextafter(below, np.float32(-inf)), np.nextafter(above, np.float32(inf))
    return torch.from_numpy(np.concatenate([ties, below, above, *further]))


def grid_of(scale: float, bits: int, zero_point: int, *, signed: bool) -> Grid:
    low = -(1 << (bits - 1)) if signed else 0
    high = low + (1 << bits) - 1
    zero = 0 if signed else min(zero_point, high)
    return Grid(torch.tensor(scale), torch.tensor(float(zero)), low, high)


@settings(max_examples=200, deadline=None)
@given(SCALES, st.integers(2, 8), st.integers(0, 255), st.booleans())
def test_values_and_gradient_agree_with_the_codes_at_every_tie(
    scale: float, bits: int, zero_point: int, signed: bool
) -> None:
    grid = grid_of(scale, bits, zero_point, signed=signed)
    zero = float(grid.zero_point)
    x = around_ties(grid.scale, grid.low - zero, grid.high - zero).requires_grad_()
    y = fake_quantize(x, grid)
    assert torch.equal(y, grid.values(grid.codes(x.detach())))
    (slope,) = torch.autograd.grad(y.sum(), x)
    code = torch.round(x.detach() * (1.0 / grid.scale)) + zero
    assert torch.equal(slope, ((code >= grid.low) & (code <= grid.high)).float())


@settings(max_examples=200, deadline=None)
@given(SCALES, st.integers(-256, 0), st.integers(1, 256))
def test_the_edges_are_the_last_numbers_outside(scale: float, first: int, last: int) -> None:
    inverse = np.float32(1) / np.float32(scale)
    below, above = (np.float32(edge) for edge in clip_edges(scale, first, last))
    assert np.rint(below * inverse) < first <= np.rint(np.nextafter(below, np.float32(inf)) * inverse)
    assert np.rint(above * inverse) > last >= np.rint(np.nextafter(above, np.float32(-inf)) * inverse)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("upstream_layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("low", "high", "signed"), [(0.0, 2.0, False), (-1.3, 2.0, False), (-1.0, 2.0, True)]
)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gradients_are_those_of_pytorchs_learnable_quantizer(
    bits: int,
    low: float,
    high: float,
    signed: bool,
    layout: torch.memory_format,
    upstream_layout: torch.memory_format,
) -> None:
    grid = (signed_grid if signed else unsigned_grid)(torch.tensor(low), torch.tensor(high), bits)
    random = torch.Generator().manual_seed(bits)
    x = (2 * torch.randn(4, 6, 9, 7, generator=random)).to(memory_format=layout).requires_grad_()
    upstream = torch.randn(4, 6, 9, 7, generator=random).to(memory_format=upstream_layout)
    scale = grid.scale.clone().requires_grad_()
    ours = fake_quantize(x, Grid(scale, grid.zero_point, grid.low, grid.high), 0.01)
    assert ours.is_contiguous(memory_format=layout)
    theirs = torch._fake_quantize_learnable_per_tensor_affine(
        x, scale.view(1), grid.zero_point.view(1), grid.low, grid.high, 0.01
    )
    assert torch.equal(ours, theirs)
    found, wanted = (torch.autograd.grad(y, (x, scale), upstream) for y in (ours, theirs))
    assert torch.equal(found[0], wanted[0])
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-4, atol=1e-6)


def test_only_the_scale_may_ask_for_a_gradient() -> None:
    grid = unsigned_grid(torch.tensor(-1.0), torch.tensor(2.0), 4)
    scale = grid.scale.clone().requires_grad_()
    x = torch.randn(50, generator=torch.Generator().manual_seed(0))
    fake_quantize(x, Grid(scale, grid.zero_point, grid.low, grid.high), 1.0).sum().backward()
    assert scale.grad is not None and bool(scale.grad.isfinite())


def test_infinities_saturate_and_nan_stays() -> None:
    grid = unsigned_grid(torch.tensor(-1.0), torch.tensor(2.0), 4)
    y = fake_quantize(torch.tensor([inf, -inf, 1e38, -1e38, nan]), grid)
    assert torch.equal(y[:4], torch.tensor([2.0, -1.0, 2.0, -1.0]))
    assert bool(y[4].isnan())
