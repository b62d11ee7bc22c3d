"""Each rounding's own claim: SQuant's sums of errors, GPTQ's error of the outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from core.fake_quant.affine import Grid, weight_grid
from core.fake_quant.rounding import gptq, squant


def positions(channels: int, kernels: int, size: int, bits: int, seed: int) -> tuple[Tensor, int, int]:
    """Where weights lie on their min-max grids."""
    w_OD = torch.randn(channels, kernels * size, generator=torch.Generator().manual_seed(seed))
    grid = weight_grid(w_OD, bits)
    position_OD = w_OD / grid.scale[:, None] + grid.zero_point[:, None]
    return position_OD.view(channels, kernels, size), grid.low, grid.high


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
@pytest.mark.parametrize("kernels, size", [(16, 9), (3, 25), (32, 1), (1, 9)])
def test_squant_lets_errors_of_kernels_and_channels_cancel(kernels: int, size: int, bits: int) -> None:
    position, low, high = positions(24, kernels, size, bits, seed=bits)
    codes = squant(position, low, high)
    assert torch.equal(codes, codes.round()) and low <= codes.min() and codes.max() <= high
    assert ((codes - position).abs() < 1).all(), "every weight goes to one of its two neighbours"
    sums_OI = (codes - position).sum(2)
    slack = 1e-4
    assert (sums_OI.sum(1).abs() <= 0.5 + slack).all()
    assert (sums_OI.abs() <= 1 + slack).all()
    nearest = position.round().clamp(low, high)
    assert ((nearest - position).sum((1, 2)).abs() > 0.5 + slack).any(), "rounding to nearest does not"


def test_squant_keeps_kernels_where_the_channel_asks_for_nothing() -> None:
    """A single kernel a channel: its sum is the channel's, and stays within half a step."""
    position, low, high = positions(50, 1, 25, 4, seed=0)
    assert ((squant(position, low, high) - position).sum(2).abs() <= 0.5 + 1e-4).all()


def test_squant_leaves_what_lies_beyond_the_grid_at_its_end() -> None:
    position = torch.tensor([[[-3.0, 9.0, 1.4, 1.4, 1.4]]])
    codes = squant(position, 0, 7)
    assert codes[0, 0, :2].tolist() == [0, 7]
    assert set(codes[0, 0, 2:].tolist()) <= {1, 2}


def correlated(groups: int, width: int, samples: int, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(groups, width, width, generator=random)
    return mixing @ torch.randn(groups, width, samples, generator=random)


@pytest.mark.parametrize("width", [9, 100])  # less than a block of columns, and more
@pytest.mark.parametrize("groups", [1, 3])
def test_gptq_errs_less_than_rounding_to_nearest(groups: int, width: int) -> None:
    x_GDN = correlated(groups, width, 400, seed=1)
    w_GOD = torch.randn(groups, 12, width, generator=torch.Generator().manual_seed(2))
    grid = weight_grid(w_GOD.flatten(0, 1), 4)
    hessian = x_GDN @ x_GDN.transpose(1, 2) / 400 + 0.01 * torch.eye(width)
    codes = gptq(w_GOD, grid, hessian)
    assert torch.equal(codes, codes.round()) and grid.low <= codes.min() and codes.max() <= grid.high
    rounded = grid.values(codes.flatten(0, 1)).view_as(w_GOD)
    nearest = grid.values(grid.codes(w_GOD.flatten(0, 1))).view_as(w_GOD)

    def error(weight: Tensor) -> float:
        return float(((weight - w_GOD) @ x_GDN).square().mean())

    assert error(rounded) < 0.75 * error(nearest)


def test_gptq_with_uncorrelated_inputs_is_rounding_to_nearest() -> None:
    w_GOD = torch.randn(1, 6, 80, generator=torch.Generator().manual_seed(3))
    grid = weight_grid(w_GOD[0], 3)
    diagonal = torch.diag(torch.rand(80, generator=torch.Generator().manual_seed(4)) + 0.1)[None]
    position = w_GOD[0] / grid.scale[:, None]
    expected = (position.round() + grid.zero_point[:, None]).clamp(grid.low, grid.high)
    assert torch.equal(gptq(w_GOD, grid, diagonal)[0], expected)


def test_gptq_follows_the_definition_column_by_column() -> None:
    """Optimal Brain Compression without blocks: the inverse of what is left is updated at every step."""
    x_DN = correlated(1, 70, 300, seed=5)[0].double()
    w_OD = torch.randn(4, 70, generator=torch.Generator().manual_seed(6)).double()
    grid = weight_grid(w_OD.float(), 4)
    wide = Grid(grid.scale.double(), grid.zero_point.double(), grid.low, grid.high)
    hessian = x_DN @ x_DN.T / 300 + 0.05 * torch.eye(70)
    codes = gptq(w_OD[None], wide, hessian[None])[0]
    left, order = w_OD.clone(), hessian.diagonal().argsort(descending=True)
    inverse = torch.linalg.inv(hessian)
    for j in order.tolist():
        code = (left[:, j] / wide.scale).round() + wide.zero_point
        code = code.clamp(wide.low, wide.high)
        assert torch.equal(codes[:, j], code)
        error = (left[:, j] - (code - wide.zero_point) * wide.scale) / inverse[j, j]
        left -= error[:, None] * inverse[j]
        inverse = inverse - inverse[:, j : j + 1] @ inverse[j : j + 1] / inverse[j, j]
