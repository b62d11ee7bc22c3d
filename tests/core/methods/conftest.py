"""A small teacher whose batch normalization remembers smooth, colored images."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import fx, nn

from core.networks.graph import trace

SHAPE = (3, 12, 12)


def smooth_images(count: int, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 3, 3, generator=random)
    return nn.functional.interpolate(coarse, size=SHAPE[1:], mode="bilinear")


class SmallNetwork(nn.Module):
    """Two stages of two convolutions and a linear layer, 7 classes."""

    def __init__(self, *, norm: bool = True) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
            convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=not norm)
            return [convolution, *([nn.BatchNorm2d(outputs)] if norm else []), nn.ReLU()]

        self.stages = nn.Sequential(*block(3, 8), *block(8, 8), *block(8, 16, 2), *block(16, 16))
        self.linear = nn.Linear(16, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(self.stages(x).mean((2, 3)))
        return logits


def traced(*, norm: bool = True) -> fx.GraphModule:
    torch.manual_seed(0)
    network = SmallNetwork(norm=norm)
    if norm:
        for seed in range(30):
            network(smooth_images(32, seed))
    return trace(network, SHAPE)


@pytest.fixture(scope="session")
def _teacher() -> fx.GraphModule:
    return traced()


@pytest.fixture
def teacher(_teacher: fx.GraphModule) -> fx.GraphModule:
    return deepcopy(_teacher)


@pytest.fixture
def teacher_without_bn() -> fx.GraphModule:
    return traced(norm=False)
