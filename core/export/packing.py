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

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from core.export.builder import Builder
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
    """Initializers and load-time nodes for a weight [O, ...]; returns the INT8 tensor, named `name`."""
    if bits == 8:
        return b.constant(codes.astype(np.int8), name)
    joined = ""
    for plane, width in zip(planes_of(codes, bits), PLANES[bits], strict=True):
        part = _emit_plane(b, plane, width, f"{name}.{width}bit")
        if joined:
            joined = b.node("Mul", [joined, b.shared(1 << width, np.int8)], f"{name}.shifted")
            joined = b.node("Add", [joined, part], f"{name}.joined")
        else:
            joined = part
    zero_point = grid.zero_point.cpu().numpy().astype(np.int8).reshape(-1, *[1] * (codes.ndim - 1))
    return b.node("Sub", [joined, b.constant(zero_point, f"{name}.zero_point")], name)


def _emit_plane(b: Builder, plane: NDArray[np.uint8], width: int, name: str) -> str:
    """One plane as INT8."""
    data = pack(plane, width)
    if width in _CONTAINERS:
        if width == 2:
            b.require_2_bits()
        stored = helper.make_tensor(name, _CONTAINERS[width], plane.shape, data, raw=True)
        bits = b.add_initializer(stored)
    else:
        bits = _emit_bits(b, data, plane.shape, name)
    return b.node("Cast", [bits], f"{name}.int8", to=TensorProto.INT8)


def _emit_bits(b: Builder, data: bytes, shape: tuple[int, ...], name: str) -> str:
    """Bytes [n / 8] -> bits [n / 8, 8] -> uint8 of the shape asked for."""
    stored = b.constant(np.frombuffer(data, np.uint8).reshape(-1, 1), name)
    shifts = b.shared(np.arange(8), np.uint8)
    bits = b.node("BitShift", [stored, shifts], f"{name}.shifted", direction="RIGHT")
    bits = b.node("BitwiseAnd", [bits, b.shared(1, np.uint8)], f"{name}.bits")
    count = int(np.prod(shape))
    if count % 8:
        bits = b.node("Reshape", [bits, b.shared([-1], np.int64)], f"{name}.flat")
        first, last = (b.shared([at], np.int64) for at in (0, count))
        bits = b.node("Slice", [bits, first, last], f"{name}.cut")
    return b.node("Reshape", [bits, b.shared([-1, *shape[1:]], np.int64)], f"{name}.shaped")


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
