"""MinMax widens; MovingAverage starts right; MinError's range never rounds worse than the whole range."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from core.fake_quant.affine import fake_quantize
from core.fake_quant.modules import ActivationQuantizer
from core.fake_quant.observers import GridOf, MinError, MinMax, MovingAverage, Range


def grid_of(bits: int, signed: bool = False) -> GridOf:
    return ActivationQuantizer(bits, signed=signed).grid_of


def error(x: Tensor, found: Range, grid_of: GridOf) -> float:
    return float((fake_quantize(x, grid_of(*found)) - x).square().mean())


def long_tailed(seed: int, shift: float = 0.0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(8, 4, 10, 10, generator=random) ** 3 + shift


def test_min_max_is_the_range_of_all_batches_so_far() -> None:
    observer = MinMax()
    batches = [long_tailed(seed) for seed in range(3)]
    for count, batch in enumerate(batches, 1):
        low, high = observer(batch, grid_of(8))
        seen = torch.cat(batches[:count])
        assert (low, high) == (seen.min(), seen.max())


def test_a_moving_average_of_constant_input_is_that_input_from_the_first_batch_on() -> None:
    """GDFQ's code corrects what it has already corrected: 5.3 after two batches, 3945 after 21."""
    observer = MovingAverage()
    for _ in range(150):
        low, high = observer(torch.tensor([-0.5, 1.0]), grid_of(8))
        assert float(low) == pytest.approx(-0.5, rel=1e-5)
        assert float(high) == pytest.approx(1.0, rel=1e-5)


def test_a_moving_average_weighs_recent_batches_more() -> None:
    observer, decay = MovingAverage(), 0.9
    batches = [long_tailed(seed) for seed in range(4)]
    for batch in batches:
        low, high = observer(batch, grid_of(8))
    weights = torch.tensor([decay ** (3 - index) for index in range(4)])
    for found, ends in ((low, [b.min() for b in batches]), (high, [b.max() for b in batches])):
        torch.testing.assert_close(found, (weights * torch.stack(ends)).sum() / weights.sum())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 8), st.booleans(), st.floats(-5, 5))
def test_min_error_rounds_no_worse_than_min_max(seed: int, bits: int, signed: bool, shift: float) -> None:
    x, grid = long_tailed(seed, shift), grid_of(bits, signed)
    assert error(x, MinError()(x, grid), grid) <= error(x, MinMax()(x, grid), grid)


@pytest.mark.parametrize("signed", [False, True])
def test_min_error_clips_rare_extremes_at_few_bits(signed: bool) -> None:
    x, grid = long_tailed(0), grid_of(3, signed)
    assert error(x, MinError()(x, grid), grid) < 0.7 * error(x, MinMax()(x, grid), grid)


def test_min_error_averages_its_ranges_over_batches() -> None:
    a, b = long_tailed(1), 3 * long_tailed(2)
    observer = MinError()
    observer(a, grid_of(4))
    low, high = observer(b, grid_of(4))
    alone = [MinError()(x, grid_of(4)) for x in (a, b)]
    assert float(low) == pytest.approx(sum(float(r[0]) for r in alone) / 2)
    assert float(high) == pytest.approx(sum(float(r[1]) for r in alone) / 2)


def test_min_error_looks_at_a_sample_of_a_large_tensor() -> None:
    x = torch.rand(50_000)
    low, high = MinError(samples=1000)(x, grid_of(8))
    assert float(low) <= 0.01
    assert float(high) == pytest.approx(1.0, abs=0.05)
