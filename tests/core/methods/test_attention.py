"""The series is the exact attention up to its third order, and its gradient is its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from core.methods.attention import SeriesAttention, feature_count
from core.methods.discrepancy import spatial_attention


def pixels(channels: int, count: int, seed: int = 0) -> Tensor:
    """Maps as networks have them behind a ReLU: no pixel far from the mean."""
    random = torch.Generator().manual_seed(seed)
    common = torch.rand(3, channels, 1, generator=random, dtype=torch.double)
    own = torch.randn(3, channels, count, generator=random, dtype=torch.double)
    return F.normalize((common + 0.4 * own).relu(), dim=1, eps=1e-3)


def series(x_BCP: Tensor) -> Tensor:
    """As written in the module's head, with a P x P map."""
    m_BC1 = x_BCP.detach().mean(2, keepdim=True)
    d_BCP = x_BCP - m_BC1
    s_BPP = d_BCP.transpose(1, 2) @ d_BCP
    weight_BPP = (m_BC1.transpose(1, 2) @ d_BCP).exp() * (1 + s_BPP + s_BPP.square() / 2)
    return m_BC1 + d_BCP @ weight_BPP.transpose(1, 2) / weight_BPP.sum(2).unsqueeze(1)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7, 16])
def test_moments_are_the_sum_over_pixels(channels: int) -> None:
    x = pixels(channels, 40).requires_grad_()
    upstream = torch.randn_like(x)
    found, expected = SeriesAttention.apply(x), series(x)
    torch.testing.assert_close(found, expected)
    for a, b in zip(
        torch.autograd.grad(found, x, upstream), torch.autograd.grad(expected, x, upstream), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("channels", [8, 16])
def test_a_long_map_is_close_to_exact_attention(channels: int) -> None:
    x = pixels(channels, 2 * feature_count(channels)).requires_grad_()
    upstream = torch.randn_like(x)
    exact = x + 0.1 * (x @ torch.softmax(x.transpose(1, 2) @ x, dim=-1).transpose(1, 2))
    found = spatial_attention(x)
    assert float((found - exact).detach().abs().max()) < 5e-4  # of pixels of length 1
    (a,), (b,) = (torch.autograd.grad(y, x, upstream) for y in (found, exact))
    assert float((a - b).norm() / b.norm()) < 1e-3


def test_the_distance_between_maps_is_kept() -> None:
    x, noise = pixels(16, 400), torch.randn(3, 16, 400, generator=torch.Generator().manual_seed(1))
    y = F.normalize((x + 0.05 * noise).relu(), dim=1)

    def attended(x_BCP: Tensor) -> Tensor:
        return x_BCP + 0.1 * (x_BCP @ torch.softmax(x_BCP.transpose(1, 2) @ x_BCP, -1).transpose(1, 2))

    exact = F.l1_loss(attended(x), attended(y))
    assert float((F.l1_loss(spatial_attention(x), spatial_attention(y)) - exact).abs() / exact) < 1e-4
