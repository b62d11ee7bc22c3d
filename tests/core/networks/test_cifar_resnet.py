"""The CIFAR ResNets are those of He et al. 2015, section 4.2."""

from __future__ import annotations

import pytest
import torch

from core.networks.cifar_resnet import BasicBlock, CifarResNet


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_parameters_are_the_papers(depth: int, millions: float) -> None:
    # Table 6 of the paper.
    count = sum(p.numel() for p in CifarResNet(depth).parameters()) / 1e6
    assert count == pytest.approx(millions, rel=0.03)


def test_the_layers_are_as_many_as_the_name_says() -> None:
    for depth in (20, 56):
        layers = [m for m in CifarResNet(depth).modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
        assert len(layers) == depth


def test_the_shortcut_takes_every_second_pixel_and_pads_channels_on_both_sides() -> None:
    block = BasicBlock(4, 8, stride=2)
    x_NCHW = torch.randn(2, 4, 6, 6)
    short_NCHW = block._shortcut(x_NCHW)
    assert short_NCHW.shape == (2, 8, 3, 3)
    assert torch.equal(short_NCHW[:, 2:6], x_NCHW[:, :, ::2, ::2])
    assert not short_NCHW[:, :2].any() and not short_NCHW[:, 6:].any()


@pytest.mark.parametrize("side", [8, 28, 32, 64])
def test_any_size_and_any_channels(side: int) -> None:
    assert CifarResNet(8, num_classes=3, in_channels=1).eval()(torch.zeros(2, 1, side, side)).shape == (2, 3)


def test_a_depth_that_is_none() -> None:
    with pytest.raises(ValueError, match="6n"):
        CifarResNet(21)
