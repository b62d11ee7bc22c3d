"""Low-bit integers as ONNX initializers.

A weight of `bits` bits is stored in the narrowest container that stock ONNX Runtime turns back into
int8 while it loads the file (constant folding), so that integer kernels read it:

    4 bits        INT4 → Cast to INT8 → Sub zero-point      half a byte a weight
    2, 3, 5-7     INT8, zero-point already subtracted       one byte a weight
    8 bits        INT8, symmetric                           one byte a weight

The integers that kernels see are code − zero_point, within −127 … 127 at every width, so their own
zero-point is always 0 (see `weight_grid`).
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from core.fake_quant.affine import Grid


def pack_int4(values: NDArray[np.integer], name: str) -> onnx.TensorProto:
    """An INT4 initializer of values in −8 … 7, two to a byte, the first in the low half, raw."""
    flat = values.reshape(-1)
    if flat.size and (flat.min() < -8 or flat.max() > 7):
        raise ValueError("INT4 holds -8 to 7")
    nibbles = (flat & 0xF).astype(np.uint8)
    if len(nibbles) % 2:
        nibbles = np.append(nibbles, np.uint8(0))
    packed = nibbles[0::2] | (nibbles[1::2] << 4)
    return helper.make_tensor(
        name, TensorProto.INT4, values.shape, packed.astype(np.uint8).tobytes(), raw=True
    )


def weight_nodes(
    codes: NDArray[np.int32], grid: Grid, bits: int, name: str
) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto], str]:
    """Initializers and load-time nodes for a weight [O, ...]; the name of the resulting INT8 tensor."""
    zero_point = grid.zero_point.cpu().numpy().astype(np.int32).reshape(-1, *[1] * (codes.ndim - 1))
    if bits != 4:
        return [onnx.numpy_helper.from_array((codes - zero_point).astype(np.int8), name)], [], name
    packed = pack_int4(codes - 8, f"{name}.int4")
    shift = onnx.numpy_helper.from_array((zero_point - 8).astype(np.int8), f"{name}.zero_point")
    nodes = [
        helper.make_node("Cast", [packed.name], [f"{name}.cast"], to=TensorProto.INT8),
        helper.make_node("Sub", [f"{name}.cast", shift.name], [name]),
    ]
    return [packed, shift], nodes, name


def ideal_bytes(weights: list[tuple[int, int, int]]) -> int:
    """Σ over layers of (weights × bits)/8 + 4 bytes a bias + scale and zero-point (4 + 1) a channel.

    `weights` lists (number of weights, bits, output channels). Bytes, rounded up for each layer.
    """
    return sum(-(-count * bits // 8) + channels * (4 + 4 + 1) for count, bits, channels in weights)
