"""Grids hold 0, fake quantization is values(codes(x)), gradients pass inside the range alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from core.fake_quant.affine import (
    Grid,
    fake_quantize,
    signed_grid,
    symmetric_grid,
    unsigned_grid,
    weight_grid,
)

BITS = range(2, 9)
numbers = st.floats(-1e4, 1e4, width=32)


def scalar(value: float) -> Tensor:
    return torch.tensor(value)


@settings(max_examples=150, deadline=None)
@given(numbers, numbers, st.integers(2, 8), st.lists(numbers, min_size=1, max_size=20))
def test_fake_quantize_is_the_values_of_the_codes_bit_for_bit(
    a: float, b: float, bits: int, values: list[float]
) -> None:
    grid = unsigned_grid(scalar(min(a, b)), scalar(max(a, b)), bits)
    x = torch.tensor(values)
    assert torch.equal(fake_quantize(x, grid), grid.values(grid.codes(x)))


@pytest.mark.parametrize("bits", BITS)
def test_fake_quantize_of_rows_is_the_values_of_the_codes_bit_for_bit(bits: int) -> None:
    w_OI = (
        torch.randn(64, 200, generator=torch.Generator().manual_seed(bits))
        * torch.logspace(-4, 2, 64)[:, None]
    )
    grid = weight_grid(w_OI, bits)
    assert torch.equal(fake_quantize(w_OI, grid), grid.values(grid.codes(w_OI)))


@settings(max_examples=100, deadline=None)
@given(numbers, numbers, st.integers(2, 8))
def test_an_unsigned_grid_holds_zero_and_covers_its_range(a: float, b: float, bits: int) -> None:
    low, high = min(a, b), max(a, b)
    grid = unsigned_grid(scalar(low), scalar(high), bits)
    assert (grid.low, grid.high) == (0, 2**bits - 1)
    assert float(fake_quantize(scalar(0.0), grid)) == 0.0
    # Nothing inside is further from its value than the zero-point's and its own half steps.
    ends = torch.tensor([low, high])
    assert float((fake_quantize(ends, grid) - ends).abs().max()) <= 1.001 * float(grid.scale)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_rows_of_one_sign_still_hold_zero_and_zero_points_fit(bits: int, sign: float) -> None:
    w_OI = sign * (5 + torch.rand(4, 9))
    grid = weight_grid(w_OI, bits)
    assert torch.equal(fake_quantize(torch.zeros_like(w_OI), grid), torch.zeros_like(w_OI))
    assert bool(((grid.zero_point >= grid.low) & (grid.zero_point <= grid.high)).all())


@pytest.mark.parametrize("bits", BITS)
def test_integers_that_kernels_see_fit_into_int8_with_zero_point_0(bits: int) -> None:
    w_OI = torch.randn(32, 50) * torch.where(torch.rand(32, 1) < 0.5, 1.0, 0.1) + torch.randn(32, 1)
    grid = weight_grid(w_OI, bits)
    seen = grid.codes(w_OI) - grid.zero_point[:, None].int()
    assert int(seen.abs().max()) <= 127


def test_weights_are_symmetric_at_8_bits_and_asymmetric_below() -> None:
    w_OI = torch.tensor([[-1.0, 0.2, 3.0]])
    eight = weight_grid(w_OI, 8)
    assert (eight.low, eight.high, float(eight.zero_point)) == (-127, 127, 0.0)
    for bits in range(2, 8):
        grid = weight_grid(w_OI, bits)
        assert (grid.low, grid.high) == (0, 2**bits - 1)
        assert float(grid.zero_point) == round((2**bits - 1) / 4)
        assert float(grid.scale) == pytest.approx(4 / (2**bits - 1))


@pytest.mark.parametrize("bits", BITS)
def test_symmetric_weights_have_no_zero_point_and_a_mirrored_range(bits: int) -> None:
    w_OI = torch.randn(16, 40, generator=torch.Generator().manual_seed(bits)) + torch.randn(16, 1)
    grid = weight_grid(w_OI, bits, symmetric=True)
    top = 2 ** (bits - 1) - 1
    assert (grid.low, grid.high) == (-top, top)
    assert not grid.zero_point.any()
    assert torch.allclose(grid.scale * top, w_OI.abs().amax(1))
    # A negative gain of a folded batch normalization mirrors the codes, and moves none.
    mirrored = weight_grid(-4.0 * w_OI, bits, symmetric=True)
    assert torch.equal(mirrored.codes(-4.0 * w_OI), -grid.codes(w_OI))


@settings(max_examples=100, deadline=None)
@given(numbers, numbers, st.integers(2, 8))
def test_a_signed_grid_has_zero_point_0_and_covers_its_range(a: float, b: float, bits: int) -> None:
    low, high = min(a, b), max(a, b)
    grid = signed_grid(scalar(low), scalar(high), bits)
    assert (grid.low, grid.high, float(grid.zero_point)) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 0.0)
    ends = torch.tensor([low, high])
    assert float((fake_quantize(ends, grid) - ends).abs().max()) <= 0.501 * float(grid.scale)


def test_a_signed_grid_saturates_where_int8_does() -> None:
    grid = signed_grid(scalar(-1.0), scalar(1.27), 8)
    assert float(grid.scale) == pytest.approx(0.01)
    assert grid.codes(torch.tensor([-9.0, -1.28, 0.0, 9.0])).tolist() == [-128, -128, 0, 127]


def test_a_symmetric_grid_is_narrow() -> None:
    grid = symmetric_grid(scalar(3.5), 4)
    assert (grid.low, grid.high) == (-7, 7)
    assert grid.codes(torch.tensor([-9.0, -3.5, 0.0, 3.5])).tolist() == [-7, -7, 0, 7]


def test_ties_go_to_the_even_code() -> None:
    grid = Grid(scalar(1.0), scalar(0.0), 0, 15)
    x = torch.tensor([0.5, 1.5, 2.5, 3.5])
    assert grid.codes(x).tolist() == [0, 2, 2, 4]
    assert fake_quantize(x, grid).tolist() == [0, 2, 2, 4]


@pytest.mark.parametrize("per_row", [False, True])
def test_the_gradient_is_1_inside_the_range_and_0_outside(per_row: bool) -> None:
    scale, zero_point = scalar(0.5), scalar(3.0)
    if per_row:
        scale, zero_point = scale.view(1), zero_point.view(1)
    grid = Grid(scale, zero_point, 0, 7)  # covers -1.5 … 2
    x = torch.tensor([[-3.0, -1.5, -0.3, 0.0, 1.9, 2.0, 4.0]], requires_grad=True)
    fake_quantize(x, grid).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 1, 1, 1, 1, 1, 0]]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 7, 8])
def test_almost_zero_weights_behind_a_large_bias_keep_the_bias_in_int32(bits: int, symmetric: bool) -> None:
    w_OI = torch.tensor([[1e-7, -2e-7, 0.0], [0.0, 0.0, 0.0], [0.3, -0.1, 0.2]])
    bias_O = torch.tensor([40.0, -3.0, 0.5])
    grid = weight_grid(w_OI, bits, bias_O, symmetric=symmetric)
    steps = bias_O.double() / (grid.scale.double() * 2.0**-10 * 1.0001)
    assert float(steps.abs().max()) < 2**31
    assert float(fake_quantize(torch.zeros_like(w_OI), grid).abs().max()) == 0
    assert bool(((grid.zero_point >= grid.low) & (grid.zero_point <= grid.high)).all())
    plain = weight_grid(w_OI[2:], bits, symmetric=symmetric)  # an ordinary row is left as it is
    assert torch.equal(grid.scale[2:], plain.scale)
    assert torch.equal(grid.zero_point[2:], plain.zero_point)


def test_scaling_a_row_scales_its_grid_and_negating_it_mirrors_the_codes() -> None:
    """Why folding batch normalization moves no weight: DESIGN's argument for per-channel grids."""
    w_OI = torch.randn(16, 30, generator=torch.Generator().manual_seed(1))
    for bits in BITS:
        plain, scaled = weight_grid(w_OI, bits), weight_grid(-4.0 * w_OI, bits)
        assert torch.equal(scaled.scale, 4.0 * plain.scale)
        error = fake_quantize(-4.0 * w_OI, scaled) + 4.0 * fake_quantize(w_OI, plain)
        # The zero-point's own rounding may fall on the other side: at most ties move, by one step.
        assert float((error.abs() / scaled.scale[:, None]).max()) <= 1.0001
        assert float((error.abs() > 1e-4).float().mean()) < 0.1


@pytest.mark.parametrize("grid", [unsigned_grid, signed_grid])
def test_a_range_that_is_all_zero_gets_an_ordinary_scale(grid: Callable[..., Grid]) -> None:
    """1e-8 would take every bias beside it out of int32."""
    found = grid(torch.tensor(0.0), torch.tensor(0.0), 8)
    assert 1e-3 < float(found.scale) < 1
    assert float(fake_quantize(torch.tensor(0.0), found)) == 0
