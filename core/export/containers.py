"""Weights of 2 to 8 bits as initializers of a type that ONNX has, read by DequantizeLinear itself.

Codes are signed with zero-point 0. INT4 and INT2 hold several to a byte, in two's complement.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from core.export.builder import Builder
from core.export.packing import pack

_TYPES = {2: TensorProto.INT2, 4: TensorProto.INT4}


def emit_contained(
    b: Builder, codes: NDArray[np.int32], width: int, scale: str, name: str
) -> tuple[str, str]:
    """A weight [O, ...] in a type of `width` bits: returns its integer tensor, named `name`, and its
    float tensor. `scale` names the scales [O]. Raises ValueError.
    """
    top = 1 << (width - 1)
    if codes.size and (codes.min() < -top or codes.max() >= top):
        raise ValueError(f"INT{width} holds {-top} to {top - 1}")
    if width == 8:
        integers = b.constant(codes.astype(np.int8), name)
        # Written out: ONNX Runtime's QGemm and older TensorRTs want to see it.
        zeros = b.shared(np.zeros(len(codes)), np.int8)
        return integers, b.node("DequantizeLinear", [integers, scale, zeros], f"{name}.float", axis=0)
    if width == 2:
        b.require_2_bits()
    data = pack((codes & (2 * top - 1)).astype(np.uint8), width)
    integers = b.add_initializer(helper.make_tensor(name, _TYPES[width], codes.shape, data, raw=True))
    return integers, b.node("DequantizeLinear", [integers, scale], f"{name}.float", axis=0)
