"""What a layer makes of a tensor that it reads through a grid."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.fake_quant.affine import Grid
from core.fake_quant.modules import QuantConv2d
from core.methods.reader import Reader


def depthwise(bias: float) -> QuantConv2d:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 4, 3, groups=4).requires_grad_(False)
    assert layer.bias is not None
    layer.bias.fill_(bias)
    return QuantConv2d.of(layer, 8)


def tensor() -> Tensor:
    return torch.rand(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def grid(scale: Tensor) -> Grid:
    return Grid(scale, torch.zeros_like(scale), 0, 7)


@torch.no_grad()
def test_what_the_activation_cuts_off_does_not_count() -> None:
    coarse = grid(torch.tensor(0.14))
    for bias, ceiling in ((-100.0, float("inf")), (100.0, 6.0)):
        layer = depthwise(bias)
        assert Reader.of(layer, tensor(), ceiling).errors(coarse).abs().max() == 0
        assert (Reader.of(layer, tensor(), None).errors(coarse) > 1e-4).all()


@torch.no_grad()
def test_a_grid_for_each_group() -> None:
    reader = Reader.of(depthwise(0.0), tensor(), None)
    scales = torch.tensor([0.05, 0.1, 0.15, 0.2])
    errors = reader.errors(grid(scales))
    assert errors.shape == (4, 1)
    for channel, scale in enumerate(scales):
        assert torch.allclose(errors[channel], reader.errors(grid(scale))[channel])
