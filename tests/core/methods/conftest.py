"""Small teachers whose batch normalization remembers smooth, colored images; one tells them apart."""

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


def trained() -> fx.GraphModule:
    """Learned which of seven patterns lies below the noise."""
    torch.manual_seed(0)
    network = SmallNetwork()
    patterns = nn.functional.interpolate(1.5 * torch.randn(7, 3, 3, 3), size=SHAPE[1:], mode="bilinear")
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for seed in range(80):
        y_N = torch.randint(7, (32,))
        loss = nn.functional.cross_entropy(network(patterns[y_N] + smooth_images(32, seed)), y_N)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.zero_grad()
    return trace(network, SHAPE)


@pytest.fixture(scope="session")
def _classifier() -> fx.GraphModule:
    return trained()


@pytest.fixture
def classifier(_classifier: fx.GraphModule) -> fx.GraphModule:
    return deepcopy(_classifier)


@pytest.fixture(scope="session")
def _teacher() -> fx.GraphModule:
    return traced()


@pytest.fixture
def teacher(_teacher: fx.GraphModule) -> fx.GraphModule:
    return deepcopy(_teacher)


@pytest.fixture
def teacher_without_bn() -> fx.GraphModule:
    return traced(norm=False)


@pytest.fixture
def short_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.methods.prepare._IMAGES", 16)
    monkeypatch.setattr("core.methods.prepare._ITERATIONS", 5)
