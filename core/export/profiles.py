"""How the files of each profile are written; what they can hold is `core.spec.PROFILES`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from core.export.builder import IR_VERSION, OPSET

OLD_OPSET, OLD_IR_VERSION = 17, 8  # ONNX 1.12: the last before the axes of reductions became inputs

_INT8 = dict.fromkeys(range(2, 9), 8)


@dataclass(frozen=True, slots=True)
class Format:
    """`containers`: in a type of how many bits weights of each width are stored, by itself read by
    DequantizeLinear; None cuts them into planes instead, which functions of the file join.

    `moves`: operators that only move values do so on codes, on floats, or on floats that are
    quantized once more on the same grid. `float_constants`: numbers and biases are written in float32;
    biases are whole steps of input scale × weight scale all the same.
    """

    opset: int
    ir_version: int
    containers: Mapping[int, int] | None = None
    moves: Literal["codes", "floats", "pairs"] = "codes"
    float_constants: bool = False

    @property
    def integer_kernels(self) -> bool:
        """Whether what ONNX Runtime's integer kernels like best comes before what other tools recognize."""
        return self.moves == "codes"


FORMATS: Mapping[str, Format] = {
    "packed": Format(OPSET, IR_VERSION),
    "portable": Format(OLD_OPSET, OLD_IR_VERSION, _INT8),
    # TensorRT moves quantizers over such operators itself, and dequantizes nothing but INT8.
    "tensorrt": Format(OLD_OPSET, OLD_IR_VERSION, _INT8, moves="floats", float_constants=True),
    # Compilers recognize an operator by the DequantizeLinear before and the QuantizeLinear behind it.
    "qdq": Format(OPSET, IR_VERSION, {2: 2, 3: 4, 4: 4, 5: 8, 6: 8, 7: 8, 8: 8}, moves="pairs"),
}
