"""Multiply-accumulates of a traced network, for one image."""

from __future__ import annotations

from math import prod

import torch
from torch import fx, nn

from core.networks.graph import module_of, shape_of

aten = torch.ops.aten


def layer_macs(graph: fx.GraphModule) -> dict[str, int]:
    """Multiply-accumulates of every convolution and linear layer, by name; summed where one runs twice."""
    found: dict[str, int] = {}
    for node in graph.graph.nodes:
        module = module_of(graph, node)
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight = module.weight
            outputs = _elements(node)  # each needs one product with every weight of its row
            found[str(node.target)] = found.get(str(node.target), 0) + outputs * weight[0].numel()
    return found


def product_macs(graph: fx.GraphModule) -> dict[str, int]:
    """Multiply-accumulates of products of two computed tensors (attention), by node name."""
    found: dict[str, int] = {}
    for node in graph.graph.nodes:
        if node.target is aten.matmul.default:
            left = shape_of(node.args[0])
            assert left is not None
            found[node.name] = _elements(node) * left[-1]
        elif node.target is aten.scaled_dot_product_attention.default:
            query, key = shape_of(node.args[0]), shape_of(node.args[1])
            assert query is not None and key is not None
            found[node.name] = 2 * prod(abs(size) for size in query) * key[-2]
    return found


def _elements(node: fx.Node) -> int:
    """Elements of the node's value for one image (a batch size of -1 counts once)."""
    shape = shape_of(node)
    assert shape is not None
    return prod(abs(size) for size in shape)
