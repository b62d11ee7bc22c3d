"""A network as a graph of few, well-defined operators.

`trace` captures the network with `torch.export`, whose functional ATen graph has one spelling for
each operator, and puts the layers that carry weights back as modules under their original names:

    call_module    nn.Conv2d, nn.Linear, nn.LayerNorm, BatchNorm        ("layer1.0.conv1")
    call_function  ATen overloads without weights                       (aten.relu.default)
    get_attr       parameters that stand alone                          ("encoder.pos_embedding")

Every tensor-valued node carries `meta["shape"]`: a tuple of ints, -1 where the batch size stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import fx, nn

from core.errors import ArchitectureError
from core.networks.normalize import Normalizer

aten = torch.ops.aten

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


def trace(network: nn.Module, input_shape: Sequence[int]) -> fx.GraphModule:
    """Captures `network` (evaluation mode) for inputs of shape (N, *input_shape), any N ≥ 1.

    The returned graph owns copies of the parameters and takes one tensor to one tensor (the logits), and
    leaves the former as it is even where the network does not. Raises ArchitectureError
    (`architecture_not_traceable`) when the network's Python cannot be captured as one graph, or gives
    anything but one tensor, or changes its own buffers.
    """
    network = deepcopy(network).cpu().eval()
    example = torch.zeros(2, *input_shape)
    batch = torch.export.Dim.DYNAMIC
    try:
        program = torch.export.export(network, (example,), dynamic_shapes=({0: batch},), strict=False)
        program = program.run_decompositions({})
    except Exception as error:  # torch.export raises many unrelated types for user code
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ArchitectureError(
            "This network cannot be captured as a graph: its forward pass depends on data, or uses an "
            f"operator that torch.export does not know ({reason}).",
            code="architecture_not_traceable",
            field="architecture",
        ) from error
    graph = Normalizer(program).run()
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()
    return graph.eval()


def with_outputs(graph: fx.GraphModule, names: Sequence[str]) -> fx.GraphModule:
    """The same network, also returning the values of the nodes `names`: (logits, [values]).

    Shares every module with `graph`.
    """
    copy = fx.Graph()
    mapped: dict[fx.Node, fx.Node] = {}
    logits = copy.graph_copy(graph.graph, mapped)
    by_name = {node.name: mapped[node] for node in graph.graph.nodes if node in mapped}
    copy.output((logits, [by_name[name] for name in names]))
    return fx.GraphModule(graph, copy)


def stage_outputs(graph: fx.GraphModule) -> list[str]:
    """Names of the nodes where the network's stages end, in order.

    A stage is a run of layers at one spatial resolution; its end is the last activation before the
    next downsampling. Resolutions with fewer than two convolutions (a stem) and 1 × 1 maps are left
    out. For ResNet-20 at 32 × 32 these are the outputs of layer1, layer2 and layer3.
    """
    convolutions: Counter[tuple[int, ...]] = Counter()
    last: dict[tuple[int, ...], str] = {}
    for node in graph.graph.nodes:
        shape = node.meta.get("shape")
        if shape is None or len(shape) != 4 or shape[2] * shape[3] <= 1:
            continue
        module = module_of(graph, node)
        if isinstance(module, nn.Conv2d):
            convolutions[shape[2:]] += 1
        if module is not None or node.target in STAGE_END_OPERATORS:
            last[shape[2:]] = node.name
    return [name for size, name in last.items() if convolutions[size] >= 2]


def module_of(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module that a `call_module` node calls; None for other nodes."""
    return graph.get_submodule(str(node.target)) if node.op == "call_module" else None


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """Shape of the node's value, -1 for the batch size; None when it is no tensor."""
    shape = node.meta.get("shape")
    return None if shape is None else tuple(shape)


STAGE_END_OPERATORS: frozenset[Any] = frozenset(
    {
        aten.relu.default,
        aten.hardtanh.default,
        aten.hardswish.default,
        aten.silu.default,
        aten.gelu.default,
        aten.add.Tensor,
        aten.cat.default,
    }
)


def constant_nodes(graph: fx.GraphModule) -> set[fx.Node]:
    """The nodes whose values are the same for every input image."""
    found: set[fx.Node] = set()
    for node in graph.graph.nodes:
        if node.op in ("get_attr", "call_function", "call_module") and all(
            source in found for source in node.all_input_nodes
        ):
            found.add(node)
    return found
