"""Weights of 2 to 8 bits as ONNX initializers of just as many bits.

ONNX has containers of 2 and 4 bits. Other widths are cut into planes, highest bits first, which
stock ONNX Runtime puts together again while it loads the file (constant folding), so that integer
kernels read int8:

    2 bits   UINT2                       5 bits   UINT4, 1-bit
    3 bits   UINT2, 1-bit                6 bits   UINT4, UINT2
    4 bits   UINT4                       7 bits   UINT4, UINT2, 1-bit

A plane of 2 or 4 bits is cast to INT8. A 1-bit plane is bytes, taken apart into their bits.
Planes join by int8 arithmetic, joined · 2^bits + plane, and each row's zero-point is subtracted.
8-bit weights are symmetric and stored as they are.

The integers that kernels see are code − zero_point, within −127 … 127 at every width, so their own
zero-point is always 0 (see `weight_grid`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
    """Values of 2 or 4 bits, 8 / width to a byte, the first in the lowest bits, as ONNX has it."""
    each = 8 // width
    values = np.pad(plane.reshape(-1), (0, -plane.size % each)).reshape(-1, each)
    return _joined(values << np.arange(0, 8, width, dtype=np.uint8), axis=1)


def pack_bits(plane: NDArray[np.uint8]) -> bytes:
    """Single bits: the first eighth of them in the bytes' lowest bits, the last in the highest.

    Taken apart, each eighth is one row, shifted by the same number of bits.
    """
    rows = np.pad(plane.reshape(-1), (0, -plane.size % 8)).reshape(8, -1)
    return _joined(rows << np.arange(8, dtype=np.uint8)[:, None], axis=0)


def _joined(shifted: NDArray[np.uint8], axis: int) -> bytes:
    joined: NDArray[np.uint8] = np.bitwise_or.reduce(shifted, axis=axis)
    return bytes(joined)


def emit_weight(
    b: Builder, codes: NDArray[np.int32], grid: Grid, bits: int, scale: list[str], name: str
) -> tuple[str, str]:
    """A weight [O, ...]: returns its INT8 tensor, named `name`, and its float tensor.

    `scale` names what DequantizeLinear reads besides: the scales and, if need be, zeros [O].
    """
    if bits == 8:
        integers = b.constant(codes.astype(np.int8), name)
        return integers, b.node("DequantizeLinear", [integers, *scale], f"{name}.float", axis=0)
    inputs = [
        _store(b, plane, width, f"{name}.{width}bit")
        for plane, width in zip(planes_of(codes, bits), PLANES[bits], strict=True)
    ]
    zero_point = grid.zero_point.cpu().numpy().astype(np.int8).reshape(-1, *[1] * (codes.ndim - 1))
    inputs.append(b.constant(zero_point, f"{name}.zero_point"))
    integers, floats = b.call(_joining(bits), [*inputs, *scale], name, f"{name}.float")
    return integers, floats


def _store(b: Builder, plane: NDArray[np.uint8], width: int, name: str) -> str:
    """One plane as UINT2 or UINT4 of its own shape, or as a row of bytes of eight bits each."""
    if width == 1:
        return b.constant(np.frombuffer(pack_bits(plane), np.uint8).reshape(1, -1), name)
    data = pack(plane, width)
    if width == 2:
        b.require_2_bits()
    return b.add_initializer(helper.make_tensor(name, _CONTAINERS[width], plane.shape, data, raw=True))


@cache
def _joining(bits: int) -> Function:
    """Planes, zero-point, scale to integers and floats. A function: written once, not in every layer."""
    planes = tuple(f"p{width}" for width in PLANES[bits])
    nodes: list[onnx.NodeProto] = []

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(value: Any, dtype: Any, name: str) -> str:
        tensor = onnx.numpy_helper.from_array(np.asarray(value, dtype))
        return node("Constant", [], name, value=tensor)

    joined = ""
    for plane, width in zip(planes, PLANES[bits], strict=True):
        if width == 1:
            plane = _emit_bits(node, constant, plane, joined)
        part = node("Cast", [plane], f"i{width}", to=TensorProto.INT8)
        if joined:
            raised = node("Mul", [joined, constant(1 << width, np.int8, f"m{width}")], f"r{width}")
            joined = node("Add", [raised, part], f"j{width}")
        else:
            joined = part
    integers = node("Sub", [joined, "z"], "w")
    floats = node("DequantizeLinear", [integers, "s", "s0"], "f", axis=0)
    return Function(f"Weight{bits}", (*planes, "z", "s", "s0"), (integers, floats), tuple(nodes))


def _emit_bits(node: Callable[..., str], constant: Callable[..., str], plane: str, like: str) -> str:
    """Bytes [1, n / 8] to their bits, in the shape of `like`: what fills up the last byte is cut off.

    ONNX has no 1-bit type.
    """
    shifts = constant(np.arange(8)[:, None], np.uint8, "d")
    shifted = node("BitShift", [plane, shifts], "q", direction="RIGHT")
    bits = node("BitwiseAnd", [shifted, constant(1, np.uint8, "one")], "c")
    rest = constant([-1], np.int64, "n1")
    row = node("Reshape", [bits, rest], "r")
    count = node("Shape", [node("Reshape", [like, rest], "l")], "n")
    cut = node("Slice", [row, constant([0], np.int64, "n0"), count], "b")
    return node("Reshape", [cut, node("Shape", [like], "h")], "p")


@dataclass(frozen=True, slots=True)
class Stored:
    """How much a layer has to store: `weights` of `bits` bits, in `rows` output channels, each with a
    zero-point of its own or none."""

    weights: int
    bits: int
    rows: int
    bias: bool
    zero_points: bool


def ideal_bytes(layers: Iterable[Stored]) -> int:
    """What the numbers alone take: weights at their bits, and for each row a float32 scale, an int32
    bias where the layer has one, and a byte of zero-point where weights have one (no symmetric ones).
    """
    return sum(
        -(-layer.weights * layer.bits // 8) + layer.rows * (4 + 4 * layer.bias + layer.zero_points)
        for layer in layers
    )
