"""Each rewrite computes what the operator did, and leaves operators that placement and export know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from core.errors import ArchitectureError
from core.export.operators import check_operators
from core.networks.graph import module_of, shape_of, trace, with_outputs
from tests.core import small

aten = torch.ops.aten


class Operator(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x).flatten(1)


def replaced(x: Tensor, part: Callable[[Tensor], Tensor]) -> Tensor:
    """As an assignment in place does it."""
    y = x * 1
    part(y).add_(1)
    return y


REWRITTEN: dict[str, Callable[[Tensor], Tensor]] = {
    "unbind": lambda x: torch.cat([row * i for i, row in enumerate(x.unbind(2))], 1),
    "stack": lambda x: torch.stack([x, 2 * x, x + 1], -2),
    "stack, a new first axis": lambda x: torch.stack([x[:, 0], x[:, 1]]).sum(0),
    "repeat of size 1": lambda x: x[:, :1].repeat(1, 3, 1, 1) + x.mean(3, keepdim=True).repeat(1, 1, 1, 12),
    "all of it replaced": lambda x: replaced(x, lambda y: y[:, :3]),
    "the beginning replaced": lambda x: replaced(x, lambda y: y[:, :1]),
    "the middle replaced": lambda x: replaced(x, lambda y: y[:, :, 3:5]),
    "the end replaced": lambda x: replaced(x, lambda y: y[..., -4:]),
    "a cast to the type that it has": lambda x: x.type_as(x[:1]) + x.to(torch.float32),
    "average pool in one dimension": lambda x: F.avg_pool1d(x.flatten(2), 3, 2, 1),
    "average pool in one dimension, padding not counted": lambda x: F.avg_pool1d(
        x.flatten(2), 3, padding=1, count_include_pad=False
    ),
}


@pytest.mark.parametrize("name", REWRITTEN)
@torch.no_grad()
def test_a_rewritten_operator_computes_the_same_and_can_be_exported(name: str) -> None:
    network = Operator(REWRITTEN[name])
    graph = trace(network, small.SHAPE)
    for batch in (1, 3):
        x = small.images(batch)
        torch.testing.assert_close(graph(x), network(x))
    check_operators(graph)
    nodes = [n for n in graph.graph.nodes if n.op != "output" and shape_of(n) is not None]
    _, values = with_outputs(graph, [node.name for node in nodes])(small.images(7))
    for node, value in zip(nodes, values, strict=True):
        assert tuple(7 if size == -1 else size for size in shape_of(node) or ()) == tuple(value.shape)


class Standardized(nn.Conv2d):
    """Weight standardization, Qiao et al. 2019 (arXiv 1903.10520), as timm writes it."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(rows, None, None, training=True, momentum=0.0, eps=1e-6)
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias, self.stride, self.padding)


def layers_of(graph: fx.GraphModule) -> dict[str, nn.Module]:
    return {str(n.target): m for n in graph.graph.nodes if (m := module_of(graph, n)) is not None}


@torch.no_grad()
def test_a_weight_computed_from_parameters_is_a_layers_weight() -> None:
    network = Operator(nn.Sequential(Standardized(3, 4, 3), nn.ReLU(), Standardized(4, 2, 1)))
    graph, x = trace(network, small.SHAPE), small.images(2)
    torch.testing.assert_close(graph(x), network(x))
    layers = layers_of(graph)
    assert list(layers) == ["function.0", "function.2"]
    weight = layers["function.0"].weight
    assert isinstance(weight, nn.Parameter)
    torch.testing.assert_close(weight.mean((1, 2, 3)), torch.zeros(4), atol=1e-6, rtol=0)
    assert [key for key in graph.state_dict() if "weight" in key] == [
        "function.0.weight",
        "function.2.weight",
    ]


@torch.no_grad()
def test_a_parameter_may_be_a_weight_and_read_alone() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.plain, self.standardized = nn.Conv2d(3, 3, 1), Standardized(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = x * self.plain.weight.mean(1) + self.plain(x) * self.plain.weight.view(1, 9, 1, 1)[:, :3]
            before = x * self.standardized.weight.view(1, 9, 1, 1)[:, 3:6]
            return before + self.standardized(x) * self.standardized.weight[0, 0, 0, 0]

    network = Both()
    graph, x = trace(network, small.SHAPE), small.images(2)
    torch.testing.assert_close(graph(x), network(x))


@torch.no_grad()
def test_two_layers_computed_from_one_parameter_are_two() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both = nn.Linear(12, 8, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.both.weight[:4]) * F.linear(x, self.both.weight[4:])

    network = Halves()
    graph, x = trace(network, small.SHAPE), small.images(2)
    torch.testing.assert_close(graph(x), network(x))
    assert list(layers_of(graph)) == ["both", "both_2"]


def test_a_weight_computed_from_the_image_is_refused() -> None:
    class Conditional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight * x.mean()).mean((2, 3))

    with pytest.raises(ArchitectureError) as caught:
        trace(Conditional(), small.SHAPE)
    assert caught.value.code == "architecture_not_traceable" and "from the image" in caught.value.detail


@pytest.mark.parametrize(
    "options", [{}, {"padding": 1, "stride": 2}, {"groups": 3, "bias": False, "dilation": 2}]
)
@torch.no_grad()
def test_a_convolution_in_one_dimension_is_one_over_images_of_height_1(options: dict[str, Any]) -> None:
    class Wave(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(3, 6, 3, **options)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.conv(x.flatten(2))
            return y

    network = Wave()
    graph, x = trace(network, small.SHAPE), small.images(2)
    torch.testing.assert_close(graph(x), network(x))
    (layer,) = layers_of(graph).values()
    assert isinstance(layer, nn.Conv2d) and list(layers_of(graph)) == ["conv"]


@torch.no_grad()
def test_a_constant_that_feeds_constants_and_values_is_computed_once() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("coordinates", torch.linspace(-1, 1, 12))

        def forward(self, x: Tensor) -> Tensor:
            table = torch.sin(self.coordinates * torch.arange(1, 13))
            return x * table + torch.cos(table.to(torch.float64)).to(torch.float32).cumsum(0)

    network = Table()
    graph, x = trace(network, small.SHAPE), small.images(3)
    torch.testing.assert_close(graph(x), network(x))
    assert [n.op for n in graph.graph.nodes] == [
        "placeholder", "get_attr", "call_function", "get_attr", "call_function", "output",
    ]  # fmt: skip


@torch.no_grad()
def test_normalization_without_gain_and_offset() -> None:
    network = Operator(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False))).eval()
    network.function[1].running_mean.normal_()  # type: ignore[index,union-attr,operator]
    graph, x = trace(network, small.SHAPE), small.images(2)
    torch.testing.assert_close(graph(x), network(x))
