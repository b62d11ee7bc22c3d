"""The network in operators that integer kernels have.

    silu(x)       x · sigmoid(x)          QLinearSigmoid, QLinearMul
    hardswish(x)  x · hardsigmoid(x)      QLinearAdd that saturates, QLinearMul
    batch normalization that no layer absorbs    a depthwise 1 × 1 convolution: QLinearConv

Values are the same up to float rounding. A rewritten node keeps its name.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import torch
from torch import Tensor, fx, nn

from core.networks.fold_bn import batch_norm_gain
from core.networks.graph import BatchNorm, module_of, shape_of

aten = torch.ops.aten

_GATES = {
    aten.silu.default: aten.sigmoid.default,
    aten.hardswish.default: aten.hardsigmoid.default,
}


class ChannelAffine(nn.Conv2d):
    """y = g·x + b per channel, as a depthwise 1 × 1 convolution: a batch normalization of its own.

    Its weight has one number a row, which a symmetric grid of a scale per row represents exactly.
    """

    @classmethod
    @torch.no_grad()
    def of(cls, norm: BatchNorm) -> ChannelAffine:
        gain = batch_norm_gain(norm)
        mean = norm.running_mean
        assert isinstance(mean, Tensor)
        new = cls(len(gain), len(gain), 1, groups=len(gain), device="meta")
        new.weight = nn.Parameter(gain.view(-1, 1, 1, 1).clone())
        new.bias = nn.Parameter(norm.bias - mean * gain)
        return new


def lower(
    graph: fx.GraphModule, foldable: AbstractSet[str] = frozenset(), *, gates: bool = True
) -> fx.GraphModule:
    """Rewrites the graph in place and returns it.

    `foldable` names batch normalizations that stay, since they will be folded into their layers.
    Without `gates` silu and hardswish stay as they are.
    """
    for node in list(graph.graph.nodes):
        gate = _GATES.get(node.target)
        if gate is not None and gates:
            _multiply_by_gate(graph, node, gate)
        norm = module_of(graph, node)
        if isinstance(norm, nn.BatchNorm2d) and node.name not in foldable:
            parent, _, leaf = str(node.target).rpartition(".")
            setattr(graph.get_submodule(parent), leaf, ChannelAffine.of(norm))
    graph.recompile()
    return graph


def _multiply_by_gate(graph: fx.GraphModule, node: fx.Node, gate: torch._ops.OpOverload) -> None:
    x = node.args[0]
    assert isinstance(x, fx.Node)
    with graph.graph.inserting_before(node):
        opened = graph.graph.call_function(gate, (x,))
    opened.meta["shape"] = shape_of(node)
    node.target, node.args, node.kwargs = aten.mul.Tensor, (x, opened), {}
