"""For whom the file is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ValidationInfo
from pydantic_core import PydanticCustomError

from core.spec.bits import BitSpec
from core.spec.fields import CONFIG


@dataclass(frozen=True, slots=True)
class GridStyle:
    """Which grids a profile's files can hold. The student is built on them.

    `symmetric_weights`: zero-point 0 at every width, not at 8 bits alone. `signed_activations`: int8
    with zero-point 0 instead of uint8 with any. `float_epilogues`: the addition or activation function
    that alone reads a layer's result gets it unrounded, since the layer's kernel goes on with it.
    """

    symmetric_weights: bool = False
    signed_activations: bool = False
    float_epilogues: bool = False


ANY_GRID = GridStyle()


@dataclass(frozen=True, slots=True)
class Profile:
    """For whom a file is written. `summary` is a line for people."""

    summary: str
    grids: GridStyle


PROFILES: Mapping[str, Profile] = {
    "packed": Profile(
        "stock ONNX Runtime on CPUs: weights take just their bits, integer kernels at every width",
        ANY_GRID,
    ),
    "portable": Profile(
        "OpenVINO and older ONNX Runtimes: int8 containers, opset 17",
        GridStyle(symmetric_weights=True),
    ),
    "tensorrt": Profile(
        "NVIDIA GPUs with TensorRT: int8 around zero, 8-bit activations only, opset 17",
        GridStyle(symmetric_weights=True, signed_activations=True, float_epilogues=True),
    ),
    "qdq": Profile(
        "compilers that take native INT2, INT4 and INT8 weights: plain QuantizeLinear and DequantizeLinear",
        GridStyle(symmetric_weights=True),
    ),
}


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """`profile`: for whom the file is written, see `PROFILES`."""

    __pydantic_config__ = CONFIG

    profile: Literal["packed", "portable", "tensorrt", "qdq"] = "packed"

    @property
    def grids(self) -> GridStyle:
        return PROFILES[self.profile].grids


def _export_shorthand(value: Any) -> Any:
    return {"profile": value} if isinstance(value, str) else value


def _holds_the_bits(export: ExportConfig, info: ValidationInfo) -> ExportConfig:
    bits = info.data.get("bits")  # absent when it was refused itself
    if isinstance(bits, BitSpec) and export.grids.signed_activations:
        for where, width in bits.activations():
            if width < 8:
                raise PydanticCustomError(
                    "narrow_activations",
                    "the profile {profile} has 8-bit activations only, but {where} is {width}",
                    {"profile": export.profile, "where": where, "width": width},
                )
    return export


# Behind a field `bits`: together they may ask for what no file of the profile can hold.
AnyExport = Annotated[ExportConfig, BeforeValidator(_export_shorthand), AfterValidator(_holds_the_bits)]
