"""The report of a job: what was asked, what came out, how it was measured.

Every number is measured, or the field is null. `python -m core.evaluate.report` prints the JSON
Schema, kept in docs/report.schema.json.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter

VERSION = "1"


@dataclass(frozen=True, slots=True)
class AccuracyEntry:
    """`correct` of `total` images; `top1`, `top5` and the Wilson interval `ci95` of top-1 in percent."""

    correct: int
    total: int
    top1: float
    top5: float | None
    ci95: list[float]


@dataclass(frozen=True, slots=True)
class AccuracyReport:
    """On the user's evaluation set. `minmax` is round-to-nearest at the same bits, `student` the result
    as simulated in torch, `onnxruntime` the exported file."""

    float32: AccuracyEntry
    minmax: AccuracyEntry
    student: AccuracyEntry
    onnxruntime: AccuracyEntry


@dataclass(frozen=True, slots=True)
class AgreementReport:
    """Percent of the evaluation images for which two networks name the same class."""

    student_float32: float
    onnxruntime_student: float


@dataclass(frozen=True, slots=True)
class DatasetReport:
    images: int
    sha256: str
    preprocessing: str


@dataclass(frozen=True, slots=True)
class BitsReport:
    """`asked` is the job's bit specification; the rest is what was placed."""

    asked: dict[str, Any]
    weight_average: float
    input_image: int
    last_layer_input: int
    residual: str
    logits: str = "float32"


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One weighted layer. `bytes` are those of its weight, bias and scales in the file; `kernel` is the
    ONNX Runtime operator that runs it.

    Signal-to-quantization-noise ratios are in decibels, null where there is no noise or no signal:
    `weight_sqnr_db` of the weight; `activation_sqnr_db` of the layer's output, batch normalization
    included, on synthetic images that nothing was trained on: everything before it quantized, itself not
    yet rounded, against the float32 network's.
    """

    name: str
    kind: str
    shape: list[int]
    weights: int
    macs: int
    weight_bits: int
    activation_bits: int
    bytes: int
    kernel: str | None
    weight_sqnr_db: float | None
    activation_sqnr_db: float | None


@dataclass(frozen=True, slots=True)
class ArtifactReport:
    """Sizes of files in bytes. `ideal_bytes`: weights at their bits, int32 biases, scales, zero-points."""

    bytes: int
    ideal_bytes: int
    float32_bytes: int
    profile: str
    sha256: str
    opset: int


@dataclass(frozen=True, slots=True)
class LatencyEntry:
    """Milliseconds; `processor_ms` is the median of what all threads together computed, which still
    compares when the machine does other things meanwhile."""

    median_ms: float
    p90_ms: float
    processor_ms: float
    runs: int


@dataclass(frozen=True, slots=True)
class LatencyReport:
    """Batch of one, CPU, ONNX Runtime, all files interleaved in one run, spinning off.

    `quantized` is the job's file, `onnxruntime_int8` what ONNX Runtime's own static quantizer makes of
    the float32 network (null where it cannot; a note says why). By medians, `speedup` is float32 /
    quantized, and `ratio_to_onnxruntime_int8` quantized / onnxruntime_int8: below 1, the job's is faster.
    """

    threads: int
    float32: LatencyEntry
    quantized: LatencyEntry
    onnxruntime_int8: LatencyEntry | None
    speedup: float
    ratio_to_onnxruntime_int8: float | None


@dataclass(frozen=True, slots=True)
class TensorParityReport:
    """One quantized tensor: how many of its integers differ, and by how many steps at most."""

    name: str
    different: int
    elements: int
    largest_step: int


@dataclass(frozen=True, slots=True)
class ParityReport:
    """The file against the student, operator by operator on identical integer inputs.

    `different` of `elements` integers, in `tensors` tensors, are not the same; `most_different` are the
    tensors with most of them, at most five.
    """

    images: int
    tensors: int
    elements: int
    different: int
    different_share: float
    largest_step: int
    most_different: list[TensorParityReport]
    logits_error: float


@dataclass(frozen=True, slots=True)
class VerificationReport:
    integer_mac_share: float
    float_operators: dict[str, dict[str, str | int]]
    conversions: int
    clamped_biases: int
    parity: ParityReport


@dataclass(frozen=True, slots=True)
class MethodReport:
    name: str
    settings: dict[str, Any]
    iterations: int
    seconds: float
    stopped_by: str
    measures: Mapping[str, float | None]
    losses: Sequence[Mapping[str, float | None]]


@dataclass(frozen=True, slots=True)
class SyntheticReport:
    """On synthetic images that nothing was trained on: agreement with the float32 network in percent,
    and the distance of their batch-normalization statistics (null without batch normalization)."""

    images: int
    agreement: float
    bn_statistics: float | None


@dataclass(frozen=True, slots=True)
class NetworkReport:
    architecture: str
    parameters: int
    input_shape: list[int]
    num_classes: int
    mean: list[float]
    std: list[float]


@dataclass(frozen=True, slots=True)
class Report:
    network: NetworkReport
    bits: BitsReport
    method: MethodReport
    accuracy: AccuracyReport | None
    agreement: AgreementReport | None
    dataset: DatasetReport | None
    synthetic: SyntheticReport
    artifact: ArtifactReport
    latency: list[LatencyReport]
    verification: VerificationReport
    layers: list[LayerReport]
    timings: dict[str, float]
    provenance: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    version: str = VERSION

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; numbers that are not finite become null."""
        cleaned: dict[str, Any] = _finite(asdict(self))
        return cleaned


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of `to_json`'s result."""
    schema = TypeAdapter(Report).json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "zsq report"}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
