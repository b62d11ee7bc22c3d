"""Puts a job's measurements into the report's words. Part of the pipeline."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from importlib import metadata as packages
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import fx

from core.context import RunContext
from core.evaluate.metrics import sqnr_db
from core.evaluate.report import (
    ArtifactReport,
    BitsReport,
    LatencyEntry,
    LatencyReport,
    LayerReport,
    MethodReport,
    NetworkReport,
    ParityReport,
    Report,
    SyntheticReport,
    TensorParityReport,
    VerificationReport,
)
from core.export.latency import Latency
from core.export.onnx import Exported
from core.export.packing import Stored, ideal_bytes
from core.export.parity import Parity
from core.export.realized import Realized
from core.fake_quant.insert import Student
from core.fake_quant.lowering import lower
from core.fake_quant.modules import QuantConv2d, QuantLinear
from core.methods.base import Summary
from core.networks.inspect import LoadedNetwork
from core.spec import QuantizationSpec
from core.version import __version__

_SHOWN_TENSORS = 5
_SATURATION = (
    "Layers with 8-bit weights can saturate on x86 processors that have AVX2 but no VNNI, as any int8 "
    "ONNX file can there; 7 bits and fewer cannot."
)
# Profiles whose files are meant for another runtime than the one that everything is measured with.
_MEANT_FOR = {"tensorrt": "TensorRT", "qdq": "compilers that take low-bit types"}


@dataclass(frozen=True, slots=True)
class Measured:
    """What `verify` found out about the exported file.

    `latency` by number of threads, 0 for all, and file: "float32", "quantized" and "onnxruntime_int8", unless
    `no_onnxruntime_int8` says why there is none.
    """

    parity: Parity
    realized: Realized
    latency: dict[int, dict[str, Latency]]
    no_onnxruntime_int8: str | None
    exported: Exported
    bytes: int
    float32_bytes: int
    sha256: str
    macs: dict[str, int]


def assemble(
    *,
    spec: QuantizationSpec,
    loaded: LoadedNetwork,
    architecture: str,
    checkpoint_sha256: str,
    teacher: fx.GraphModule,
    student: Student,
    summary: Summary,
    measured: Measured,
    synthetic: SyntheticReport,
    activation_sqnr_db: Mapping[str, float],
    context: RunContext,
) -> Report:
    """Everything but the accuracy; `teacher` is folded, so that its weights compare with the student's."""
    layers = _layers(teacher, student, measured, activation_sqnr_db)
    weights = sum(layer.weights for layer in layers)
    notes = [*summary.notes, *_notes(spec, layers, measured)]
    ideal = ideal_bytes(map(stored, student.layers().values()))
    return Report(
        network=NetworkReport(
            architecture,
            int(loaded.inspection["parameters"]),
            list(loaded.input_shape),
            loaded.num_classes,
            list(loaded.mean),
            list(loaded.std),
        ),
        bits=BitsReport(
            asked=spec.to_json()["bits"],
            weight_average=sum(layer.weights * layer.weight_bits for layer in layers) / weights,
            input_image=student.placement.input_bits,
            last_layer_input=student.placement.last_input_bits,
            residual=student.placement.residual,
        ),
        method=MethodReport(
            spec.method.name,
            json.loads(json.dumps(dict(summary.settings), default=str)),
            summary.iterations,
            summary.seconds,
            summary.stopped_by,
            dict(summary.measures),
            list(summary.losses),
        ),
        accuracy=None,
        agreement=None,
        dataset=None,
        synthetic=synthetic,
        artifact=ArtifactReport(
            measured.bytes,
            ideal,
            measured.float32_bytes,
            spec.export.profile,
            measured.sha256,
            measured.exported.model.opset_import[0].version,
        ),
        latency=[_latency(threads, found) for threads, found in measured.latency.items()],
        verification=VerificationReport(
            measured.realized.integer_share,
            measured.realized.float_operators,
            measured.realized.conversions,
            measured.exported.clamped_biases,
            _parity(measured.parity),
        ),
        layers=layers,
        timings=dict(context.timings),
        provenance=_provenance(spec, checkpoint_sha256, context),
        notes=notes,
    )


def metadata(
    spec: QuantizationSpec,
    checkpoint_sha256: str,
    architecture: str,
    loaded: LoadedNetwork,
    student: Student,
    class_names: Sequence[str] | None,
) -> dict[str, str]:
    """What stands in the ONNX file itself: enough to run it right without the report.

    `class_names` are those of the logits, in their order; without any, there is no "zsq.labels".
    """
    labels = {} if class_names is None else {"zsq.labels": json.dumps(class_names, separators=(",", ":"))}
    return {
        "zsq.version": __version__,
        "zsq.architecture": architecture,
        "zsq.bits": json.dumps(
            {layer.name: [layer.weight_bits, layer.activation_bits] for layer in student.placement.layers}
        ),
        "zsq.profile": spec.export.profile,
        "zsq.method": spec.method.name,
        "zsq.seed": str(spec.seed),
        "zsq.checkpoint_sha256": checkpoint_sha256,
        "zsq.mean": json.dumps(list(loaded.mean)),
        "zsq.std": json.dumps(list(loaded.std)),
        "zsq.layout": "NCHW, RGB, pixels scaled to [0, 1], then (x - mean) / std",
        **labels,
    }


def _layers(
    teacher: fx.GraphModule, student: Student, measured: Measured, activation_sqnr_db: Mapping[str, float]
) -> list[LayerReport]:
    found = []
    teacher = lower(deepcopy(teacher))
    for placed in student.placement.layers:
        layer = student.layers()[placed.name]
        with torch.no_grad():
            reference = teacher.get_submodule(placed.name).weight
            assert isinstance(reference, torch.Tensor)
            sqnr = sqnr_db(reference.cpu(), layer.unscaled_weight())
        found.append(
            LayerReport(
                name=placed.name,
                kind=placed.kind,
                shape=list(placed.shape),
                weights=layer.weight.numel(),
                macs=measured.macs.get(placed.name, 0),
                weight_bits=placed.weight_bits,
                activation_bits=placed.activation_bits,
                bytes=measured.exported.layer_bytes[placed.name],
                kernel=measured.realized.kernels.get(placed.name),
                weight_sqnr_db=sqnr,
                activation_sqnr_db=activation_sqnr_db[placed.name],
            )
        )
    return found


def stored(layer: QuantConv2d | QuantLinear) -> Stored:
    """What a layer has to store, see `ideal_bytes`."""
    weights, rows, symmetric = layer.weight.numel(), len(layer.weight), layer.grid().low < 0
    return Stored(weights, layer.bits, rows, bias=layer.bias is not None, zero_points=not symmetric)


def _notes(spec: QuantizationSpec, layers: list[LayerReport], measured: Measured) -> Iterator[str]:
    """What a reader of the numbers must know about the file."""
    whom, floats = _MEANT_FOR.get(spec.export.profile), 1 - measured.realized.integer_share
    if whom and floats:
        yield (
            f"The file is written for {whom}. ONNX Runtime on CPU, with which it was verified, computes "
            f"{floats:.1%} of its multiply-accumulates in float; the latency is not that of its target."
        )
    if not spec.export.grids.signed_activations and any(layer.weight_bits == 8 for layer in layers):
        yield _SATURATION
    if measured.exported.clamped_biases:
        yield f"{measured.exported.clamped_biases} biases did not fit into int32 and were clamped."
    if measured.no_onnxruntime_int8:
        yield f"No latency of ONNX Runtime's own int8 file: {measured.no_onnxruntime_int8}."


def _latency(threads: int, found: dict[str, Latency]) -> LatencyReport:
    entries = {name: LatencyEntry(**asdict(latency)) for name, latency in found.items()}
    float32, quantized, int8 = (entries.get(n) for n in ("float32", "quantized", "onnxruntime_int8"))
    assert float32 is not None and quantized is not None
    return LatencyReport(
        threads=threads or _processors(),
        float32=float32,
        quantized=quantized,
        onnxruntime_int8=int8,
        speedup=float32.median_ms / quantized.median_ms,
        ratio_to_onnxruntime_int8=quantized.median_ms / int8.median_ms if int8 else None,
    )


def _parity(parity: Parity) -> ParityReport:
    return ParityReport(
        images=parity.images,
        tensors=len(parity.tensors),
        elements=parity.elements,
        different=parity.different,
        different_share=parity.different_share,
        largest_step=parity.largest_step,
        most_different=[
            TensorParityReport(t.name, t.different, t.elements, t.largest_step)
            for t in parity.most_different(_SHOWN_TENSORS)
        ],
        logits_error=parity.logits_error,
    )


def _provenance(spec: QuantizationSpec, checkpoint_sha256: str, context: RunContext) -> dict[str, Any]:
    device = str(context.device)
    if context.device.type == "cuda":
        device = torch.cuda.get_device_name(context.device)
    return {
        "zsq": __version__,
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "onnx": packages.version("onnx"),
        "python": platform.python_version(),
        "device": device,
        "machine": platform.machine(),
        "processor": processor(),
        "seed": spec.seed,
        "checkpoint_sha256": checkpoint_sha256,
        "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as stream:
            for line in stream:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
