"""Batch normalization folded into the convolution or linear layer that feeds it.

In evaluation mode BN is y = g·(x − μ)/√(v + ε) + β per channel; behind a layer Wx + b it is the
layer (g/√(v + ε))·W, β + (b − μ)·g/√(v + ε) (Jacob et al., arXiv 1712.05877, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, fx, nn

from core.networks.graph import BatchNorm, module_of, shape_of

Layer = nn.Conv2d | nn.Linear


def fold_bn(graph: fx.GraphModule) -> fx.GraphModule:
    """A copy of `graph` in which every batch normalization that can be folded is gone.

    One that does not follow a layer directly, or whose layer is read elsewhere too, stays.
    """
    graph = deepcopy(graph)
    uses: dict[str, int] = {}
    for node in graph.graph.nodes:
        if node.op == "call_module":
            uses[str(node.target)] = uses.get(str(node.target), 0) + 1
    for node in list(graph.graph.nodes):
        norm = module_of(graph, node)
        if not isinstance(norm, BatchNorm):
            continue
        before = node.args[0]
        layer = module_of(graph, before)
        if not isinstance(layer, Layer) or len(before.users) > 1 or uses[str(before.target)] > 1:
            continue
        if isinstance(layer, nn.Linear) and len(shape_of(before) or ()) != 2:
            continue  # it normalizes another dimension than the layer's outputs
        fold_into(layer, norm)
        node.replace_all_uses_with(before)
        graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def names_after_folding(graph: fx.GraphModule, folded: fx.GraphModule, names: Sequence[str]) -> list[str]:
    """Nodes of `graph` by their names in `fold_bn(graph)`: a layer has its normalization's values there."""
    left = {node.name for node in folded.graph.nodes}
    before = {node.name: node.args[0].name for node in graph.graph.nodes if node.name not in left}
    return [before.get(name, name) for name in names]


@torch.no_grad()
def fold_into(layer: Layer, norm: BatchNorm) -> None:
    """Rewrites the layer's weight (rows are output channels) and bias in place."""
    gain = batch_norm_gain(norm)
    weight = layer.weight
    bias = layer.bias if layer.bias is not None else torch.zeros(len(weight), device=weight.device)
    mean = norm.running_mean
    assert mean is not None
    layer.weight = nn.Parameter(weight * gain.view(-1, *[1] * (weight.dim() - 1)))
    layer.bias = nn.Parameter(norm.bias + (bias - mean) * gain)


def batch_norm_gain(norm: BatchNorm) -> Tensor:
    """g/√(v + ε) per channel, shape [C]."""
    assert norm.running_var is not None
    return norm.weight / torch.sqrt(norm.running_var + norm.eps)
