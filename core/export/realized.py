"""What ONNX Runtime really runs: read from its own optimized graph, not from what we meant.

A layer is integer when its weight ends up as the int8 input of an integer kernel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from core.export.session import open_session

INTEGER_KERNELS = frozenset(
    {
        "QLinearConv",
        "QGemm",
        "QLinearMatMul",
        "ConvInteger",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
    }
)
# Work that moves or converts values; not arithmetic of the network.
_MOVES = frozenset(
    {
        "Reshape", "Transpose", "Slice", "Split", "Gather", "Pad", "Concat", "Identity", "Squeeze",
        "Unsqueeze", "Expand", "Shape", "Flatten", "Cast",
    }
)  # fmt: skip
_CODES_ONLY = frozenset({"MaxPool", "NhwcMaxPool", "Clip"})  # integer here, since they stand on uint8 tensors
_CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear"})

_REASONS = {
    "Gelu": "no integer kernel",
    "Softmax": "kept in float: exponentials of attention scores",
    "LayerNormalization": "kept in float: needs each image's own statistics",
    "GlobalAveragePool": "makes the logits, which are not quantized",
    "MatMul": "a product of two computed tensors, or unequal pooling bins",
    "ReduceMean": "not over height and width",
}


@dataclass(frozen=True, slots=True)
class Realized:
    """`kernels` maps each layer to the operator that runs it; `integer_share` is of the
    multiply-accumulates; `float_operators` counts what computes in float, with the reason;
    `conversions` counts QuantizeLinear and DequantizeLinear left in the graph besides the input's."""

    kernels: dict[str, str]
    integer_share: float
    float_operators: dict[str, dict[str, str | int]]
    conversions: int


def realized_precision(
    model: Path, layer_macs: Mapping[str, int], product_macs: Mapping[str, int], scratch: Path
) -> Realized:
    """Loads the file at default settings and reads the graph that ONNX Runtime made of it."""
    path = scratch / "optimized.onnx"
    open_session(model, optimized=path)
    graph = onnx.load(path).graph
    path.unlink()
    codes = _integer_tensors(graph)
    kernels = _kernels(graph, set(layer_macs))
    integer = sum(macs for name, macs in layer_macs.items() if kernels.get(name) in INTEGER_KERNELS)
    total = sum(layer_macs.values()) + sum(product_macs.values())
    floats: Counter[str] = Counter()
    conversions = 0
    for node in graph.node:
        if node.op_type in _CONVERSIONS:
            conversions += 1
        elif _computes_in_float(node, codes):
            floats[node.op_type] += 1
    reasons: dict[str, dict[str, str | int]] = {
        kind: {
            "count": count,
            "reason": _REASONS.get(kind, "ONNX Runtime did not fuse it into an integer kernel"),
        }
        for kind, count in sorted(floats.items())
    }
    return Realized(kernels, integer / total if total else 0.0, reasons, max(0, conversions - 1))


def _kernels(graph: onnx.GraphProto, layers: set[str]) -> dict[str, str]:
    """Which operator reads each layer's weight, directly or through a DequantizeLinear."""
    through = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    found: dict[str, str] = {}
    for node in graph.node:
        if node.op_type in _CONVERSIONS:
            continue
        for name in node.input:
            while name in through:
                name = through[name]
            layer = name.removesuffix(".weight")
            if name.endswith(".weight") and layer in layers:
                found[layer] = node.op_type
    return found


def _integer_tensors(graph: onnx.GraphProto) -> set[str]:
    """Tensors that hold codes: what integer kernels and QuantizeLinear make, and what is moved from it."""
    found: set[str] = set()
    for node in graph.node:  # the runtime writes them in the order in which they run
        made = node.op_type == "QuantizeLinear" or (
            node.op_type.startswith(("QLinear", "QGemm"))
            and not (node.op_type == "QGemm" and len(node.input) < 9)
        )
        moved = node.op_type in _MOVES | _CODES_ONLY and node.input[0] in found
        if made or moved:
            found.update(node.output)
    return found


def _computes_in_float(node: onnx.NodeProto, codes: set[str]) -> bool:
    if node.op_type in INTEGER_KERNELS or node.op_type in _MOVES or node.op_type.startswith("QLinear"):
        return False
    return not (node.op_type in _CODES_ONLY and node.output[0] in codes)
