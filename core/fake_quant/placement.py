"""Where quantizers stand on a graph, as the integer runtime needs them (docs/architecture/core.md).

The rules, for a graph whose batch normalizations are folded:

- A convolution or linear layer reads its input at the activation width; the network's input image
  and the input of the last linear layer are read at 8 bits.
- Additions, concatenations, average pooling and every other operator read at 8 bits
  (`residual: "shared"` lets an addition read at the width of a convolution that reads the same tensor).
- An activation function that only clips (ReLU, ReLU6) belongs to the operator before it: their
  common result is one tensor.
- A batch normalization that no layer absorbs is a layer of 8-bit weights, one a channel, which reads
  at 8 bits.
- Operators that only move values (max-pooling, reshape, slice, zero padding …) pass the codes through.

So each tensor is stored once, at the widest width that any reader asks for, and a reader that asks
for less gets a second, narrower quantizer behind the first: exactly what the exported file does.
The logits are not quantized.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import inf, isfinite
from typing import Any

import torch
from torch import fx, nn

from core.errors import SpecError
from core.fake_quant.lowering import ChannelAffine
from core.networks.graph import constant_nodes, module_of, shape_of
from core.networks.layers import is_depthwise
from core.spec import BitSpec

aten = torch.ops.aten

WIDE = 8  # bits at which everything but convolutions and linear layers reads


@dataclass(frozen=True, slots=True)
class LayerPlacement:
    """One weighted layer: its weight's width, and the width at which it reads its input."""

    name: str
    kind: str
    weight_bits: int
    activation_bits: int
    shape: tuple[int, ...]


@dataclass(slots=True)
class Placement:
    """Which widths were decided. `stored` maps a node's name to the width its value is kept at;
    `ceilings` to the largest value it can have; `read` maps (node, reader) to the width asked for."""

    layers: list[LayerPlacement] = field(default_factory=list)
    stored: dict[str, int] = field(default_factory=dict)
    ceilings: dict[str, float] = field(default_factory=dict)
    read: dict[tuple[str, str], int] = field(default_factory=dict)
    input_bits: int = WIDE
    last_input_bits: int = WIDE
    residual: str = "8"


def place(graph: fx.GraphModule, bits: BitSpec, *, float_epilogues: bool = False) -> Placement:
    """Decides every width. `float_epilogues`: see GridStyle.

    Raises SpecError when an override matches no layer.
    """
    layers = [node for node in graph.graph.nodes if _has_weights_of_its_own(graph, node)]
    if not layers:
        raise SpecError(
            "The network has no convolution or linear layer to quantize.", code="nothing_to_quantize"
        )
    _refuse_idle_overrides(bits, [str(node.target) for node in layers])
    placement = Placement(residual=str(bits.residual))
    constants = constant_nodes(graph)
    wanted = {}
    for node in graph.graph.nodes:
        module = module_of(graph, node)
        if isinstance(module, ChannelAffine):
            _record(placement, node, module, "batch_norm", WIDE, WIDE)
        elif node in layers:
            wanted[node] = _layer(graph, node, layers, bits, placement)
    for node in graph.graph.nodes:
        if node in constants or not _is_stored(graph, node):
            continue
        if float_epilogues and _goes_on_in_its_kernel(node, wanted):
            continue
        demands = dict(_demands(graph, node, wanted))
        if not demands:
            continue
        if bits.residual == "shared":
            _share(demands, wanted)
        placement.stored[node.name] = max(demands.values())
        placement.read.update({(node.name, reader.name): width for reader, width in demands.items()})
        ceiling = 1.0 if node.target in GATES else ceiling_of(node)
        if ceiling is not None and isfinite(ceiling):
            placement.ceilings[node.name] = ceiling
    return placement


def is_passthrough(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the operator only moves values of its first argument, so that codes pass through it."""
    if node.target is aten.pad.default:
        mode = node.args[2] if len(node.args) > 2 else node.kwargs.get("mode", "constant")
        value = node.args[3] if len(node.args) > 3 else node.kwargs.get("value", None)
        return bool(mode == "constant" and (value in (None, 0) or pads_for_maximum(node)))
    if node.target is aten.constant_pad_nd.default:
        return bool(len(node.args) < 3 or node.args[2] in (None, 0))
    return node.target in PASSTHROUGH or _is_getitem_of_split(node)


def pads_for_maximum(node: fx.Node) -> bool:
    """Whether a padding with -∞ is there for max-pooling alone: the lowest code does as well."""
    only_maximum = all(reader.target is aten.max_pool2d.default for reader in node.users)
    return bool(len(node.args) > 3 and node.args[3] == -inf and only_maximum)


def source_of(graph: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Where the values that the node reads first come from, behind everything that only moves them."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return source_of(graph, source) if is_passthrough(graph, source) else source


PASSTHROUGH: frozenset[Any] = frozenset(
    {
        aten.max_pool2d.default,
        aten.reshape.default,
        aten.flatten.using_ints,
        aten.permute.default,
        aten.transpose.int,
        aten.slice.Tensor,
        aten.select.int,
        aten.roll.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.unsqueeze.default,
        aten.split.Tensor,
        aten.split_with_sizes.default,
        aten.chunk.default,
        aten.upsample_nearest2d.vec,
    }
)
# Attention scores stay float. ONNX Runtime fuses a quantized softmax into QLinearSoftmax, which is wrong
# by up to 255 steps for any range but [0, 1], and over many tokens [0, 1] leaves few steps that are used.
# Norms stay float because something is divided by them, and a small one would round to 0.
FLOAT_RESULTS: frozenset[Any] = frozenset(
    {
        aten.softmax.int,
        aten._softmax.default,
        aten.linalg_vector_norm.default,
        aten.clamp_min.default,
        aten.expand.default,  # repeats one of them, or a parameter
    }
)
# What kernels of layers can do before they store a result, besides clipping: see GridStyle.
EPILOGUES: frozenset[Any] = frozenset(
    {
        aten.silu.default,
        aten.hardswish.default,
        aten.gelu.default,
        aten.leaky_relu.default,
        aten.sigmoid.default,
        aten.hardsigmoid.default,
        aten.tanh.default,
    }
)
GATES: frozenset[Any] = frozenset({aten.sigmoid.default, aten.hardsigmoid.default})
SPLITS = (aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default)


def _is_getitem_of_split(node: fx.Node) -> bool:
    source = node.args[0] if node.args else None
    return (
        node.op == "call_function"
        and getattr(node.target, "__name__", "") == "getitem"
        and isinstance(source, fx.Node)
        and source.target in SPLITS
    )


def clip_before(node: fx.Node) -> fx.Node | None:
    """The clipping activation that belongs to this operator: its only reader."""
    if len(node.users) != 1:
        return None
    (reader,) = node.users
    return reader if ceiling_of(reader) is not None else None


def ceiling_of(node: fx.Node) -> float | None:
    """The largest value that a clipping activation lets through: infinity for ReLU, 6 for ReLU6.

    None for any other operator; one that does not clip at 0 is an ordinary function.
    """
    if node.target is aten.relu.default:
        return inf
    if node.target is aten.hardtanh.default:
        given: list[Any] = list(node.args[1:3])
        low, high = given + [-1.0, 1.0][len(given) :]
        return float(high) if low == 0 < high else None
    return None


def _is_stored(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node's value is a tensor of its own: not moved, not clipped next, not a parameter."""
    if node.op == "output" or shape_of(node) is None or is_passthrough(graph, node):
        return False
    if node.target in FLOAT_RESULTS or _is_divisor(graph, node):
        return False
    return clip_before(node) is None or node.op == "placeholder"


def _is_divisor(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether something is divided by the value, or by what a number is added to it (linear attention):
    a small one would round to 0."""
    return any(
        (reader.target is aten.div.Tensor and reader.args[1] is node)
        or ((is_passthrough(graph, reader) or _adds_a_number(reader)) and _is_divisor(graph, reader))
        for reader in node.users
    )


def _adds_a_number(node: fx.Node) -> bool:
    return node.target is aten.add.Tensor and not isinstance(node.args[1], fx.Node)


def _goes_on_in_its_kernel(node: fx.Node, layers: Mapping[fx.Node, int]) -> bool:
    """Whether an activation function or an addition alone reads the layer; where two layers are added,
    the later one."""
    if node not in layers or len(node.users) != 1:
        return False
    (reader,) = node.users
    if reader.target is not aten.add.Tensor:
        return reader.target in EPILOGUES
    return node is max(each for each in reader.all_input_nodes if each in layers and len(each.users) == 1)


def _demands(
    graph: fx.GraphModule, node: fx.Node, wanted: dict[fx.Node, int]
) -> Iterator[tuple[fx.Node, int]]:
    """(reader, width) of everything that reads the node's values, also behind pass-through operators."""
    for reader in node.users:
        if reader.op == "output" or (shape_of(reader) is None and not is_passthrough(graph, reader)):
            continue  # the logits, and operators that only ask for the shape
        if is_passthrough(graph, reader):
            yield from _demands(graph, reader, wanted)
        else:
            yield reader, wanted.get(reader, WIDE)


def _share(demands: dict[fx.Node, int], wanted: dict[fx.Node, int]) -> None:
    """`residual: "shared"`: additions read what the convolutions beside them read."""
    widths = [width for reader, width in demands.items() if reader in wanted]
    if widths:
        demands.update({r: max(widths) for r in demands if r.target is aten.add.Tensor})


def _layer(
    graph: fx.GraphModule, node: fx.Node, layers: list[fx.Node], bits: BitSpec, placement: Placement
) -> int:
    """Records the layer's widths; returns the width at which it reads its input."""
    module = module_of(graph, node)
    assert isinstance(module, nn.Conv2d | nn.Linear)
    override = bits.for_layer(str(node.target))
    edge = node is layers[0] or node is layers[-1]
    weight = override.weight or (bits.first_last if edge and bits.first_last else bits.weight)
    reads_image = source_of(graph, node).op == "placeholder"
    wide = reads_image or (node is layers[-1] and isinstance(module, nn.Linear))
    activation = override.activation or (WIDE if wide else bits.activation)
    if reads_image:
        placement.input_bits = activation
    if node is layers[-1]:
        placement.last_input_bits = activation
    kind = "linear" if isinstance(module, nn.Linear) else _kind_of_convolution(module)
    _record(placement, node, module, kind, weight, activation)
    return activation


def _record(
    placement: Placement,
    node: fx.Node,
    module: nn.Conv2d | nn.Linear,
    kind: str,
    weight_bits: int,
    activation_bits: int,
) -> None:
    """Once for a layer, however often it runs."""
    name, shape = str(node.target), tuple(module.weight.shape)
    if not any(known.name == name for known in placement.layers):
        placement.layers.append(LayerPlacement(name, kind, weight_bits, activation_bits, shape))


def _has_weights_of_its_own(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the user's widths are about this layer: a convolution or linear layer of the network."""
    module = module_of(graph, node)
    return isinstance(module, nn.Conv2d | nn.Linear) and not isinstance(module, ChannelAffine)


def _kind_of_convolution(module: nn.Conv2d) -> str:
    if module.groups == 1:
        return "conv"
    return "depthwise" if is_depthwise(module) else "grouped"


def _refuse_idle_overrides(bits: BitSpec, names: list[str]) -> None:
    for pattern in bits.overrides:
        if not any(fnmatchcase(name, pattern) for name in names):
            some = ", ".join(names[:5])
            raise SpecError(
                f"The override {pattern!r} matches no layer. The layers are named: {some}, …",
                code="override_matches_nothing",
                field="bits.overrides",
            )
