"""A traced network computes what the network computes, from few operators under the original names."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from core.errors import ArchitectureError
from core.networks import architectures
from core.networks.graph import module_of, shape_of, stage_outputs, trace, with_outputs
from tests.core import small

# One of each way to write a network; the smallest of its family.
FAMILIES = {
    "cifar/resnet20": 32,
    "torchvision/resnet18": 64,
    "torchvision/shufflenet_v2_x0_5": 64,
    "torchvision/squeezenet1_1": 64,
}


@cache
def traced(name: str) -> tuple[nn.Module, fx.GraphModule]:
    torch.manual_seed(0)
    network = architectures.build(name)
    return network, trace(network, (3, FAMILIES[name], FAMILIES[name]))


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_the_graph_computes_what_the_network_computes_at_any_batch_size(name: str) -> None:
    network, graph = traced(name)
    shape = (3, FAMILIES[name], FAMILIES[name])
    for batch in (1, 3):
        x = torch.randn(batch, *shape)
        assert torch.allclose(graph(x), network(x), atol=1e-4, rtol=1e-4)
    names = dict(network.named_modules())
    for node in graph.graph.nodes:
        module = module_of(graph, node)
        if module is not None:
            assert type(module) is type(names[str(node.target)])
    found = {str(n.target) for n in graph.graph.nodes if n.op == "call_module"}
    layers = {n for n, m in names.items() if isinstance(m, nn.Conv2d | nn.Linear | nn.BatchNorm2d)}
    assert found == {n for n in layers if not n.startswith("aux")}


@pytest.mark.parametrize("name", small.NETWORKS)
@torch.no_grad()
def test_the_graph_of_each_small_network_computes_the_same(name: str) -> None:
    network, graph = small.network(name), small.teacher(name)
    for batch in (1, 3):
        x = small.images(batch)
        assert torch.allclose(graph(x), network(x), atol=1e-5)


@pytest.mark.parametrize("name", ["plain", "attention"])
def test_shapes_are_those_of_the_values_with_minus_one_for_the_batch(name: str) -> None:
    graph = small.teacher(name)
    nodes = [n for n in graph.graph.nodes if n.op != "output" and shape_of(n) is not None]
    _, values = with_outputs(graph, [node.name for node in nodes])(small.images(7))
    for node, value in zip(nodes, values, strict=True):
        wanted = shape_of(node)
        assert wanted is not None and len(wanted) == value.dim()
        assert tuple(7 if size == -1 else size for size in wanted) == tuple(value.shape)


def test_the_graph_owns_its_parameters() -> None:
    network = small.Plain().eval()
    graph = trace(network, small.SHAPE)
    x = small.images(2)
    with torch.no_grad():
        before = graph(x)
        for parameter in network.parameters():
            parameter.zero_()
        assert torch.equal(graph(x), before)


def test_tracing_leaves_the_network_as_it_is() -> None:
    network = small.Plain().train()
    trace(network, small.SHAPE)
    assert network.training


def test_channels_last_images_are_welcome() -> None:
    graph, x = small.teacher("shuffle"), small.images(2)
    assert torch.allclose(graph(x.to(memory_format=torch.channels_last)), graph(x), atol=1e-5)


def test_a_forward_pass_that_depends_on_data_is_refused() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(ArchitectureError) as caught:
        trace(Branching(), (3, 4, 4))
    assert caught.value.code == "architecture_not_traceable"
    assert caught.value.field == "architecture"


class OnItsInput(nn.Module):
    """`change` works on the image in place, as a normalization at the start of a network may."""

    def __init__(self, change: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.change, self.convolution = change, nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.change(x)
        y: Tensor = self.convolution(x)
        return y.mean((2, 3))


@pytest.mark.parametrize(
    "change",
    [lambda x: x.sub_(0.5), nn.ReLU(inplace=True), lambda x: x[:, 0].mul_(2)],
    ids=["arithmetic", "relu", "a part of it"],
)
@torch.no_grad()
def test_a_network_that_works_on_its_input_in_place_is_captured_without_that(
    change: Callable[[Tensor], object],
) -> None:
    network, x = OnItsInput(change), torch.randn(3, 3, 8, 8)
    given = x.clone()
    torch.testing.assert_close(trace(network, (3, 8, 8))(given), network(x.clone()))
    assert torch.equal(given, x)


class Counting(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        return input.mean((2, 3)) / self.num_batches_tracked


class Twofold(nn.Conv2d):
    def forward(self, input: Tensor) -> Any:
        y = super().forward(input)
        return y.mean((2, 3)), y


class Deaf(nn.Module):
    def forward(self, x: Tensor) -> int:
        return 3


@pytest.mark.parametrize(
    ("network", "why"),
    [(Counting(3), "num_batches_tracked"), (Twofold(3, 4, 3), "one tensor"), (Deaf(), "one tensor")],
)
def test_a_network_that_is_no_function_from_images_to_logits_is_refused(network: nn.Module, why: str) -> None:
    with pytest.raises(ArchitectureError, match=why) as caught:
        trace(network, (3, 8, 8))
    assert (caught.value.code, caught.value.field) == ("architecture_not_traceable", "architecture")


@torch.no_grad()
def test_what_depends_on_parameters_alone_is_one_constant() -> None:
    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.conv = nn.Linear(2, 4), nn.Conv2d(3, 4, 1)
            self.register_buffer("coordinates", torch.randn(12, 2))

        def forward(self, x: Tensor) -> Tensor:
            bias = torch.sigmoid(self.table(self.coordinates)).transpose(0, 1).unsqueeze(-1)
            return self.conv(x) + bias  # type: ignore[no-any-return]

    network = Biased().eval()
    graph, x = trace(network, small.SHAPE), small.images(3)
    assert torch.allclose(graph(x), network(x), atol=1e-6)
    found = sorted(node.op for node in graph.graph.nodes)
    assert found == ["call_function", "call_module", "get_attr", "output", "placeholder"]


def test_relu6_has_one_spelling() -> None:
    class Six(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu6(x) + nn.ReLU6()(2 * x)

    graph = trace(Six(), (3, 4, 4))
    clips = [n for n in graph.graph.nodes if n.target is torch.ops.aten.hardtanh.default]
    assert [tuple(n.args[1:]) for n in clips] == [(0.0, 6.0), (0.0, 6.0)]


@torch.no_grad()
def test_normalization_of_vectors() -> None:
    class Vectors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(3, 6), nn.BatchNorm1d(6)
            self.norm.running_mean.normal_()  # type: ignore[union-attr]

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(self.linear(x.mean((2, 3))))
            return y

    network = Vectors().eval()
    x = small.images(4)
    assert torch.allclose(trace(network, small.SHAPE)(x), network(x), atol=1e-6)


@torch.no_grad()
def test_with_outputs_returns_the_named_values_and_shares_modules() -> None:
    graph, x = small.teacher("plain"), small.images(2)
    names = [n.name for n in graph.graph.nodes if n.op == "call_module"][:2]
    view = with_outputs(graph, names)
    logits, values = view(x)
    assert torch.equal(logits, graph(x))
    assert torch.equal(values[0], graph.get_submodule("first.0")(x))
    assert view.get_submodule("first.0") is graph.get_submodule("first.0")


def stages(name: str) -> list[tuple[int, ...]]:
    """The stages' shapes, and a check that they are the original's own stage outputs."""
    network, graph = traced(name)
    found = stage_outputs(graph)
    x = torch.randn(2, 3, FAMILIES[name], FAMILIES[name])
    seen: list[Tensor] = []
    parts = [part for part in ("layer1", "layer2", "layer3", "layer4") if hasattr(network, part)]
    hooks = [
        getattr(network, part).register_forward_hook(lambda _m, _i, output: seen.append(output))
        for part in parts
    ]
    with torch.no_grad():
        network(x)
        _, values = with_outputs(graph, found)(x)
    for hook in hooks:
        hook.remove()
    assert len(seen) == len(values)
    for value, wanted in zip(values, seen, strict=True):
        assert torch.allclose(value, wanted, atol=1e-4)
    return [tuple(value.shape[1:]) for value in values]


def test_the_stages_of_resnet20_are_its_three_layers() -> None:
    assert stages("cifar/resnet20") == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_the_stages_of_resnet18_are_its_four_layers_without_the_stem() -> None:
    assert stages("torchvision/resnet18") == [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]
