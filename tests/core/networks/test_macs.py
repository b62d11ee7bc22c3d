"""Multiply-accumulates against counts by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.networks import architectures
from core.networks.graph import trace
from core.networks.macs import layer_macs, product_macs
from tests.core import small


def test_convolutions_and_linear_layers() -> None:
    class Kinds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Conv2d(3, 8, 3, stride=2, padding=1)  # 12 -> 6
            self.grouped = nn.Conv2d(8, 16, 3, groups=4)  # 6 -> 4
            self.depthwise = nn.Conv2d(16, 16, 3, groups=16, padding=1)
            self.linear = nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.linear(self.depthwise(self.grouped(self.dense(x))).mean((2, 3)))
            return y

    assert layer_macs(trace(Kinds(), (3, 12, 12))) == {
        "dense": 8 * 6 * 6 * 3 * 9,
        "grouped": 16 * 4 * 4 * 2 * 9,
        "depthwise": 16 * 4 * 4 * 9,
        "linear": 16 * 5,
    }


def test_a_layer_that_runs_twice_counts_twice() -> None:
    assert layer_macs(small.teacher("twice"))["shared.0"] == 2 * 8 * 12 * 12 * 8 * 9


def test_linear_layers_on_tokens() -> None:
    found = layer_macs(small.teacher("mixer"))
    assert found["up"] == found["down"] == 9 * 16 * 32


def test_products_of_attention() -> None:
    (macs,) = product_macs(small.teacher("attention")).values()
    assert macs == 2 * (2 * 10 * 10 * 8)  # q·kᵀ and weights·v, two heads of 8, ten tokens


def test_products_of_matrices() -> None:
    class Gram(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            rows = x.flatten(2)  # [N, 3, 144]
            return torch.matmul(rows, rows.transpose(1, 2)).flatten(1)

    assert list(product_macs(trace(Gram(), (3, 12, 12))).values()) == [3 * 3 * 144]


def test_networks_without_products_have_none() -> None:
    assert product_macs(small.teacher("plain")) == {}


def test_resnet8_at_32_pixels() -> None:
    total = sum(layer_macs(trace(architectures.build("cifar/resnet8"), (3, 32, 32))).values())
    stem = 16 * 27 * 32**2
    stages = (2 * 16 * 144 * 32**2) + (32 * 144 + 32 * 288) * 16**2 + (64 * 288 + 64 * 576) * 8**2
    assert total == stem + stages + 640
