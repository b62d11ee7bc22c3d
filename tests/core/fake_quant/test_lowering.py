"""The lowered network computes what the network computes, in operators that have integer kernels."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from core.fake_quant.lowering import ChannelAffine, lower
from core.fake_quant.placement import place
from core.networks.fold_bn import fold_bn
from core.spec import BitSpec
from tests.core import small

aten = torch.ops.aten


@pytest.mark.parametrize("name", small.NETWORKS)
@torch.no_grad()
def test_values_stay_the_same(name: str) -> None:
    teacher = small.teacher(name)
    x = small.images(8)
    assert torch.allclose(lower(fold_bn(teacher))(x), teacher(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "activation"), [("swish", aten.silu.default), ("gated", aten.hardswish.default)]
)
def test_without_gates_activations_stay(name: str, activation: object) -> None:
    before = [node.target for node in small.teacher(name).graph.nodes]
    after = [node.target for node in lower(deepcopy(small.teacher(name)), gates=False).graph.nodes]
    assert activation in before
    assert after == before


@pytest.mark.parametrize(
    ("name", "activation", "gate"),
    [
        ("swish", aten.silu.default, aten.sigmoid.default),
        ("gated", aten.hardswish.default, aten.hardsigmoid.default),
    ],
)
def test_a_gated_activation_becomes_a_gate_and_a_product_under_its_name(
    name: str, activation: object, gate: object
) -> None:
    teacher = small.teacher(name)
    named = [node.name for node in teacher.graph.nodes if node.target is activation]
    nodes = {node.name: node for node in lower(deepcopy(teacher)).graph.nodes}
    assert named
    for each in named:
        product = nodes[each]
        assert product.target is aten.mul.Tensor
        assert product.args[1].target is gate
        assert product.args[1].args[0] is product.args[0]


def test_gates_never_exceed_one() -> None:
    for name in ("swish", "gated"):
        graph = lower(fold_bn(small.teacher(name)))
        ceilings = place(graph, BitSpec(4, 4)).ceilings
        gates = [
            n.name for n in graph.graph.nodes if n.target in (aten.sigmoid.default, aten.hardsigmoid.default)
        ]
        assert gates
        assert all(ceilings[gate] == 1.0 for gate in gates)


def test_a_lone_batch_normalization_becomes_a_layer_of_8_bits() -> None:
    graph = lower(fold_bn(small.teacher("unfoldable")))
    assert isinstance(graph.get_submodule("before"), ChannelAffine)
    (layer,) = [layer for layer in place(graph, BitSpec(2, 2)).layers if layer.kind == "batch_norm"]
    assert (layer.name, layer.weight_bits, layer.activation_bits) == ("before", 8, 8)


@torch.no_grad()
def test_its_weight_is_represented_exactly() -> None:
    student = small.student("unfoldable", "w2a2")
    layer = student.layers()["before"]
    assert torch.allclose(layer.low_bit_weight(), layer.weight, rtol=1e-6)


def test_what_will_be_folded_is_left_alone() -> None:
    teacher = deepcopy(small.teacher("unfoldable"))
    lower(teacher, {"before"})
    assert isinstance(teacher.get_submodule("before"), nn.BatchNorm2d)
