"""Folding keeps the function and leaves what cannot be folded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from core.networks.fold_bn import batch_norm_gain, fold_bn, names_after_folding
from core.networks.graph import BatchNorm, trace, with_outputs
from tests.core import small


def norms(graph: fx.GraphModule) -> list[str]:
    return [name for name, module in graph.named_modules() if isinstance(module, BatchNorm)]


def folded(network: nn.Module) -> fx.GraphModule:
    """Traced and folded; checks that the function is the same."""
    return checked(trace(network.eval(), small.SHAPE))


def checked(graph: fx.GraphModule) -> fx.GraphModule:
    result = fold_bn(graph)
    x = small.images(4)
    with torch.no_grad():
        expected = graph(x)
        assert torch.allclose(result(x), expected, atol=1e-5, rtol=1e-5)
    return result


def one(layer: nn.Module, norm: nn.Module) -> nn.Module:
    return nn.Sequential(layer, norm)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("no bias", lambda: nn.Conv2d(3, 6, 3, bias=False)),
        ("a bias", lambda: nn.Conv2d(3, 6, 3, bias=True)),
        ("depthwise", lambda: nn.Conv2d(3, 6, 3, groups=3)),
        ("pointwise, strided", lambda: nn.Conv2d(3, 6, 1, 2)),
    ],
)
def test_a_convolution_takes_its_normalization_in(name: str, make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    norm = small.norm(6)
    assert bool((norm.weight < 0).any())  # negative gains too
    result = folded(one(make(), norm))
    assert norms(result) == []
    (layer,) = (m for m in result.modules() if isinstance(m, nn.Conv2d))
    assert layer.bias is not None


def test_a_linear_layer_takes_its_normalization_in() -> None:
    class Vectors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(3, 6), nn.BatchNorm1d(6)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(self.linear(x.mean((2, 3))))
            return y

    network = Vectors()
    for _ in range(3):
        network(small.images(32))
    assert norms(folded(network)) == []


@pytest.mark.parametrize("name", small.NETWORKS)
def test_the_function_of_every_small_network_is_kept(name: str) -> None:
    checked(small.teacher(name))


def test_the_original_keeps_its_normalization() -> None:
    graph = small.teacher("plain")
    before = norms(graph)
    weight = graph.get_submodule("first.0").weight
    fold_bn(graph)
    assert len(norms(graph)) == len(before) == 3
    assert graph.get_submodule("first.0").weight is weight


def test_one_that_follows_no_layer_stays() -> None:
    assert norms(fold_bn(small.teacher("unfoldable"))) == ["before"]


def test_one_whose_layer_runs_twice_stays() -> None:
    assert norms(fold_bn(small.teacher("twice"))) == ["shared.1"]


def test_one_whose_layer_is_read_elsewhere_too_stays() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 6, 1), small.norm(6)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return F.relu(self.norm(y)) + y

    assert norms(folded(Forked())) == ["norm"]


def test_one_over_another_dimension_than_the_layers_outputs_stays() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(144, 3), nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(self.linear(x.flatten(2)))  # [N, 3, 3]: channels come first
            return y

    network = Tokens()
    for _ in range(3):
        network(small.images(32))
    assert norms(folded(network)) == ["norm"]


def test_the_gain_is_that_of_the_formula() -> None:
    norm = small.norm(5)
    assert norm.running_var is not None
    expected = norm.weight / (norm.running_var + norm.eps) ** 0.5
    assert torch.allclose(batch_norm_gain(norm), expected)


def test_nodes_are_found_by_the_names_they_have_after_folding() -> None:
    graph = trace(nn.Sequential(nn.Conv2d(3, 6, 3), small.norm(6), nn.ReLU()).eval(), small.SHAPE)
    names = [node.name for node in graph.graph.nodes if node.op != "output" and node.name != "sym_size_int"]
    result = fold_bn(graph)
    x = small.images(4)
    with torch.no_grad():
        wanted = with_outputs(graph, names)(x)[1]
        found = with_outputs(result, names_after_folding(graph, result, names))(x)[1]
    by_name = dict(zip(names, zip(wanted, found, strict=True), strict=True))
    convolution = next(iter(by_name))  # the image; then the layer, whose place its normalization takes
    assert torch.equal(*by_name[convolution])
    for name in names[2:]:
        torch.testing.assert_close(*by_name[name])
