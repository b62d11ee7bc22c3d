"""Weights of 2 to 8 bits as ONNX initializers of just as many bits.

ONNX has containers of 2 and 4 bits. Other widths are cut into planes, highest bits first, which
stock ONNX Runtime puts together again while it loads the file (constant folding), so that integer
kernels read int8:

    2 bits   UINT2                       5 bits   UINT4, 1-bit
    3 bits   UINT2, 1-bit                6 bits   UINT4, UINT2
    4 bits   UINT4                       7 bits   UINT4, UINT2, 1-bit

A plane of 2 or 4 bits is cast to INT8. A 1-bit plane is bytes, shifted and masked to one bit each.
Planes join by int8 arithmetic, joined · 2^bits + plane, and each row's zero-point is subtracted.
8-bit weights are symmetric and stored as they are.

The integers that kernels see are code − zero_point, within −127 … 127 at every width, so their own
zero-point is always 0 (see `weight_grid`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from core.export.builder import Builder, Function
from core.fake_quant.affine import Grid

PLANES: dict[int, tuple[int, ...]] = {
    2: (2,),
    3: (2, 1),
    4: (4,),
    5: (4, 1),
    6: (4, 2),
    7: (4, 2, 1),
}
_CONTAINERS = {2: TensorProto.UINT2, 4: TensorProto.UINT4}


def planes_of(codes: NDArray[np.integer], bits: int) -> list[NDArray[np.uint8]]:
    """Codes 0 … 2^bits − 1 cut into `PLANES[bits]`, same shape, highest bits first. Raises ValueError."""
    if codes.size and (codes.min() < 0 or codes.max() >= 1 << bits):
        raise ValueError(f"{bits} bits hold 0 to {(1 << bits) - 1}")
    planes, left = [], bits
    for width in PLANES[bits]:
        left -= width
        planes.append(((codes >> left) & ((1 << width) - 1)).astype(np.uint8))
    return planes


def pack(plane: NDArray[np.uint8], width: int) -> bytes:
    """Values of `width` (1, 2 or 4) bits, 8 / width to a byte, the first in the lowest bits."""
    each = 8 // width
    flat = np.pad(plane.reshape(-1), (0, -plane.size % each)).reshape(-1, each)
    shifted = flat << np.arange(0, 8, width, dtype=np.uint8)
    return np.bitwise_or.reduce(shifted, axis=1).astype(np.uint8).tobytes()


def emit_weight(b: Builder, codes: NDArray[np.int32], grid: Grid, bits: int, name: str) -> str:
    """Initializers for a weight [O, ...] and what joins them; returns the INT8 tensor, named `name`."""
    if bits == 8:
        return b.constant(codes.astype(np.int8), name)
    inputs = [
        _store(b, plane, width, f"{name}.{width}bit")
        for plane, width in zip(planes_of(codes, bits), PLANES[bits], strict=True)
    ]
    zero_point = grid.zero_point.cpu().numpy().astype(np.int8).reshape(-1, *[1] * (codes.ndim - 1))
    inputs.append(b.constant(zero_point, f"{name}.zero_point"))
    return b.call(_joining(bits), inputs, name)


def _store(b: Builder, plane: NDArray[np.uint8], width: int, name: str) -> str:
    """One plane as UINT2 or UINT4 of its own shape, or eight bits in each byte of a column."""
    data = pack(plane, width)
    if width == 1:
        return b.constant(np.frombuffer(data, np.uint8).reshape(-1, 1), name)
    if width == 2:
        b.require_2_bits()
    return b.add_initializer(helper.make_tensor(name, _CONTAINERS[width], plane.shape, data, raw=True))


@cache
def _joining(bits: int) -> Function:
    """Planes and zero-points to int8. A function: written once, not in every layer."""
    planes = [f"bits{width}" for width in PLANES[bits]]
    nodes: list[onnx.NodeProto] = []

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(value: Any, dtype: Any, name: str) -> str:
        return node("Constant", [], name, value=onnx.numpy_helper.from_array(np.asarray(value, dtype)))

    joined = ""
    for plane, width in zip(planes, PLANES[bits], strict=True):
        if width == 1:
            # There is no 1-bit type: each byte is shifted by 0 … 7, and what fills up the last is cut off.
            shifts = constant(range(8), np.uint8, "shifts")
            shifted = node("BitShift", [plane, shifts], "shifted", direction="RIGHT")
            column = node("BitwiseAnd", [shifted, constant(1, np.uint8, "one")], "column")
            rest = constant([-1], np.int64, "rest")
            row = node("Reshape", [column, rest], "row")
            count = node("Shape", [node("Reshape", [joined, rest], "flat")], "count")
            cut = node("Slice", [row, constant([0], np.int64, "first"), count], "cut")
            plane = node("Reshape", [cut, node("Shape", [joined], "shape")], "shaped")
        part = node("Cast", [plane], f"part{width}", to=TensorProto.INT8)
        if joined:
            raised = node("Mul", [joined, constant(1 << width, np.int8, f"step{width}")], f"raised{width}")
            joined = node("Add", [raised, part], f"joined{width}")
        else:
            joined = part
    node("Sub", [joined, "zero_point"], "weight")
    return Function(f"Weight{bits}", (*planes, "zero_point"), "weight", tuple(nodes))


@dataclass(frozen=True, slots=True)
class Stored:
    """How much a layer has to store: `weights` of `bits` bits, in `rows` output channels."""

    weights: int
    bits: int
    rows: int
    bias: bool


def ideal_bytes(layers: Iterable[Stored]) -> int:
    """What the numbers alone take: weights at their bits, and for each row a float32 scale, an int32
    bias where the layer has one, and a byte of zero-point where weights have one (not at 8 bits).
    """
    return sum(
        -(-layer.weights * layer.bits // 8) + layer.rows * (4 + 4 * layer.bias + (layer.bits < 8))
        for layer in layers
    )
