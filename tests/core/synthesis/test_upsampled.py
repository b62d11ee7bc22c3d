"""The transposed convolution is the enlarged image's convolution, gradients too."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core.synthesis.upsampled import UpsampledConv2d


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 5, 1, 1), (3, 2, 3, 7)])
def test_it_is_upsampling_and_then_convolution(shape: tuple[int, int, int, int]) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(shape[1], 6, 3, padding=1)).double()
    ours = UpsampledConv2d(shape[1], 6).double()
    ours.load_state_dict(plain[1].state_dict())
    x = torch.randn(shape, dtype=torch.double, requires_grad=True)
    upstream = torch.randn(shape[0], 6, 2 * shape[2], 2 * shape[3], dtype=torch.double)
    expected, found = plain(x), ours(x)
    torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad(expected, [x, *plain.parameters()], upstream)
    for a, b in zip(torch.autograd.grad(found, [x, *ours.parameters()], upstream), wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_in_float32_it_agrees_to_rounding_and_keeps_channels_last() -> None:
    torch.manual_seed(1)
    ours = UpsampledConv2d(32, 16).to(memory_format=torch.channels_last)
    x = torch.randn(4, 32, 8, 8).to(memory_format=torch.channels_last)
    enlarged = nn.functional.interpolate(x, scale_factor=2.0)
    plain = nn.functional.conv2d(enlarged, ours.weight, ours.bias, padding=1)
    torch.testing.assert_close(ours(x), plain, atol=2e-6, rtol=1e-5)
    assert ours(x).is_contiguous(memory_format=torch.channels_last)
