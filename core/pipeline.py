"""A job from checkpoint to report: load -> method -> evaluate -> export -> verify.

Runs in the worker's child process. Knows files, not databases: what goes in and what comes out are
paths, and everything the world must hear goes through the RunContext.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import safetensors.torch
import torch
from torch import Tensor, fx, nn

from core.context import WEIGHTS_WITHOUT_TRAINING, RunContext
from core.errors import ExportError, OutOfMemory, is_out_of_memory
from core.evaluate import datasets, metrics
from core.evaluate.datasets import ImageDataset
from core.evaluate.layer_noise import activation_sqnr_db
from core.evaluate.report import (
    AccuracyEntry,
    AccuracyReport,
    AgreementReport,
    DatasetReport,
    Report,
    SyntheticReport,
)
from core.export.integer import IntegerStudent
from core.export.latency import Latency, measure_latency
from core.export.onnx import Exported, export_float, export_student
from core.export.onnxruntime_int8 import quantize_int8
from core.export.operators import check_operators
from core.export.parity import compare
from core.export.realized import realized_precision
from core.export.session import open_session
from core.export.session import run as run_session
from core.fake_quant.insert import Student, build_student
from core.methods import registry
from core.methods.base import Summary
from core.networks.fold_bn import fold_bn
from core.networks.graph import trace
from core.networks.inspect import load_network
from core.networks.macs import layer_macs, product_macs
from core.reporting import Measured, assemble, metadata
from core.spec import MinMaxConfig, NetworkSpec, QuantizationSpec
from core.synthesis.frame import set_pixel_range
from core.synthesis.samples import write_grid
from core.synthesis.statistics import BatchNormStatistics

_EVALUATION_BATCH = 64
_PARITY_IMAGES = 16
_NOISE_IMAGES = 32
_LATENCY_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class CheckpointInput:
    path: Path
    sha256: str
    network: NetworkSpec


@dataclass(frozen=True, slots=True)
class DatasetInput:
    path: Path
    sha256: str
    classes: list[str] | None


@dataclass(frozen=True, slots=True)
class ArtifactFile:
    name: str
    path: Path
    media_type: str


@dataclass(frozen=True, slots=True)
class PipelineResult:
    report: dict[str, Any]
    artifacts: list[ArtifactFile]


def inspect_checkpoint(checkpoint: CheckpointInput) -> dict[str, Any]:
    """What the checkpoint holds. Raises CheckpointError and ArchitectureError.

    Traces and exports the network too, so that what cannot be done is refused here and not in a job.
    """
    loaded = load_network(checkpoint.path, checkpoint.network)
    graph = trace(loaded.network, loaded.input_shape)
    check_operators(graph)
    export_float(graph, loaded.input_shape, loaded.num_classes, {})
    return loaded.inspection


def inspect_dataset(dataset: DatasetInput) -> dict[str, Any]:
    """What the evaluation set holds. Raises DatasetError."""
    return datasets.inspect_dataset(dataset.path, dataset.classes)


def quantize(
    checkpoint: CheckpointInput,
    dataset: DatasetInput | None,
    spec: QuantizationSpec,
    output: Path,
    context: RunContext,
) -> PipelineResult:
    """Runs the whole job; artifacts are written into `output`. Raises core's errors."""
    began = time.monotonic()
    torch.backends.cudnn.benchmark = context.device.type == "cuda"
    try:
        result = _Job(checkpoint, dataset, spec, output, context).run()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            "The job needs more memory than there is. Give the method a smaller batch_size or fewer images.",
            field="method",
        ) from error
    result.report["timings"]["total"] = round(time.monotonic() - began, 3)
    (output / "report.json").write_text(json.dumps(result.report, indent=2) + "\n")
    return result


class _Job:
    def __init__(
        self,
        checkpoint: CheckpointInput,
        dataset: DatasetInput | None,
        spec: QuantizationSpec,
        output: Path,
        context: RunContext,
    ) -> None:
        self.checkpoint, self.spec, self.output, self.context = checkpoint, spec, output, context
        self.dataset_input = dataset
        self.dataset: ImageDataset | None = None

    def run(self) -> PipelineResult:
        context, spec = self.context, self.spec
        with context.phase("loading"):
            self.loaded = load_network(self.checkpoint.path, self.checkpoint.network)
            if self.dataset_input is not None:
                self.dataset = datasets.open_dataset(self.dataset_input.path, self.dataset_input.classes)
                self.dataset.check(self.loaded.num_classes, self.loaded.input_shape)
            teacher = trace(self.loaded.network, self.loaded.input_shape)
            teacher.requires_grad_(False)
            set_pixel_range(teacher, self.loaded.mean, self.loaded.std)
            check_operators(teacher)
        baseline, student, summary = self.quantized(teacher)
        with context.phase("evaluating"):
            accuracies = self.evaluate(teacher, baseline, student)
            synthetic = self.measure_synthetic(teacher, student, summary.images)
            teacher = fold_bn(teacher)
            noise = activation_sqnr_db(
                teacher, student, summary.images[:_NOISE_IMAGES], context.device, context.check
            )
        with context.phase("exporting"):
            # Simulation and file must be compared on one machine's arithmetic.
            teacher, student = teacher.cpu(), student.cpu()
            exported, float_path = self.export(teacher, student)
        with context.phase("verifying"):
            measured = self.verify(student, exported, float_path, summary.images)
            if self.dataset is not None:
                accuracies["onnxruntime"] = self.evaluate_file()
        report = assemble(
            spec=spec,
            loaded=self.loaded,
            architecture=self.checkpoint.network.architecture,
            checkpoint_sha256=self.checkpoint.sha256,
            teacher=teacher,
            student=student,
            summary=summary,
            measured=measured,
            synthetic=synthetic,
            activation_sqnr_db=noise,
            context=context,
        )
        report = replace(report, **self.accuracy_fields(accuracies))
        return PipelineResult(report.to_json(), self.artifacts(student, summary, report))

    # --- method ---

    def quantized(self, teacher: fx.GraphModule) -> tuple[Student, Student, Summary]:
        """(round-to-nearest student, the method's student, its summary).

        Round to nearest at the same bits is what a method has to beat; asked for, it is the method.
        """
        context, config = self.context, self.spec.method
        if not registry.trains(config):
            context.weights = WEIGHTS_WITHOUT_TRAINING
        if isinstance(config, MinMaxConfig):
            student, summary = self.run_method(teacher, config)
            baseline = student
        else:
            with context.phase("baseline"):
                baseline, _ = self.run_method(teacher, baseline_config(self.loaded.input_shape))
            student, summary = self.run_method(teacher, config)
        context.timings["method"] = summary.seconds
        return baseline, student, summary

    def run_method(self, teacher: fx.GraphModule, config: Any) -> tuple[Student, Summary]:
        fold, grids = registry.folds_bn(config), self.spec.export.grids
        student = build_student(teacher, self.spec.bits, grids, fold=fold)
        for network in (student, teacher):
            channels_last(network.to(self.context.device))
        summary = registry.run(teacher, student, config, self.context)
        return student.folded(), summary

    # --- measuring ---

    def evaluate(
        self, teacher: fx.GraphModule, baseline: Student, student: Student
    ) -> dict[str, tuple[metrics.Accuracy, Tensor]]:
        if self.dataset is None:
            return {}
        return {
            name: metrics.measure(self.predictor(network), self.batches())
            for name, network in (
                ("float32", teacher),
                ("minmax", IntegerStudent(baseline)),
                ("student", IntegerStudent(student)),
            )
        }

    def predictor(self, network: nn.Module) -> Any:
        network.eval()

        def predict(x_NCHW: Tensor) -> Tensor:
            self.context.check()
            logits: Tensor = network(x_NCHW.to(self.context.device))
            return logits

        return predict

    def evaluate_file(self) -> tuple[metrics.Accuracy, Tensor]:
        session = open_session(self.output / "model.onnx")

        def predict(x_NCHW: Tensor) -> Tensor:
            self.context.check()
            return run_session(session, x_NCHW)

        return metrics.measure(predict, self.batches())

    def batches(self) -> Any:
        assert self.dataset is not None
        loaded = self.loaded
        return self.dataset.batches(loaded.input_shape, loaded.mean, loaded.std, _EVALUATION_BATCH)

    def measure_synthetic(self, teacher: fx.GraphModule, student: Student, images: Tensor) -> SyntheticReport:
        same, distance = 0, None
        with torch.no_grad(), BatchNormStatistics(teacher) as statistics:
            for batch in images.split(_EVALUATION_BATCH):
                x = batch.to(self.context.device)
                expected = teacher(x).argmax(1)
                if distance is None and (loss := statistics.loss()) is not None:
                    distance = float(loss)
                same += int((student(x).argmax(1) == expected).sum())
        return SyntheticReport(len(images), 100 * same / max(1, len(images)), distance)

    def accuracy_fields(self, found: dict[str, tuple[metrics.Accuracy, Tensor]]) -> dict[str, Any]:
        if self.dataset is None or self.dataset_input is None:
            return {}
        entries = {name: AccuracyEntry(**accuracy.to_json()) for name, (accuracy, _) in found.items()}
        classes = {name: predictions for name, (_, predictions) in found.items()}
        return {
            "accuracy": AccuracyReport(**entries),
            "agreement": AgreementReport(
                metrics.agreement(classes["student"], classes["float32"]),
                metrics.agreement(classes["onnxruntime"], classes["student"]),
            ),
            "dataset": DatasetReport(
                len(self.dataset),
                self.dataset_input.sha256,
                self.dataset.preprocessing(self.loaded.input_shape),
            ),
        }

    # --- the file ---

    def export(self, teacher: fx.GraphModule, student: Student) -> tuple[Exported, Path]:
        loaded, profile = self.loaded, self.spec.export.profile
        properties = metadata(
            self.spec,
            self.checkpoint.sha256,
            self.checkpoint.network.architecture,
            loaded,
            student,
            self.class_names(),
        )
        exported = export_student(student, loaded.input_shape, loaded.num_classes, properties, profile)
        onnx.save(exported.model, self.output / "model.onnx")
        float_path = self.context.scratch / "float32.onnx"
        onnx.save(export_float(teacher, loaded.input_shape, loaded.num_classes, {}, profile), float_path)
        return exported, float_path

    def verify(self, student: Student, exported: Exported, float_path: Path, synthetic: Tensor) -> Measured:
        path = self.output / "model.onnx"
        images = synthetic if self.dataset is None else next(iter(self.batches()))[0]
        parity = compare(student, exported, images[:_PARITY_IMAGES])
        self.context.check()
        layers, products = layer_macs(student.graph), product_macs(student.graph)
        realized = realized_precision(path, layers, products, self.context.scratch)
        latency, no_int8 = self.measure_latency({"float32": float_path, "quantized": path}, synthetic)
        return Measured(
            parity=parity,
            realized=realized,
            latency=latency,
            no_onnxruntime_int8=no_int8,
            exported=exported,
            bytes=path.stat().st_size,
            float32_bytes=float_path.stat().st_size,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            macs=layers,
        )

    def measure_latency(
        self, files: dict[str, Path], synthetic: Tensor
    ) -> tuple[dict[int, dict[str, Latency]], str | None]:
        """(By number of threads, 0 for all, and file; why ONNX Runtime's own int8 file is not among them.)"""
        int8, reason = self.context.scratch / "onnxruntime_int8.onnx", None
        self.context.check()
        try:
            quantize_int8(files["float32"], synthetic, int8)
            files = {**files, "onnxruntime_int8": int8}
        except ExportError as error:
            reason = error.detail
        found = {
            threads: measure_latency(
                files,
                self.loaded.input_shape,
                threads=threads,
                seconds=_LATENCY_SECONDS,
                check=self.context.check,
            )
            for threads in (1, 0)
        }
        int8.unlink(missing_ok=True)
        return found, reason

    def class_names(self) -> Sequence[str] | None:
        """Of the network's classes, in the order of its logits: the checkpoint's own, else the set's."""
        if self.checkpoint.network.classes is not None:
            return self.checkpoint.network.classes
        return None if self.dataset is None else self.dataset.class_names(self.loaded.num_classes)

    def artifacts(self, student: Student, summary: Summary, report: Report) -> list[ArtifactFile]:
        write_grid(
            summary.images,
            self.output / "samples.png",
            self.loaded.mean,
            self.loaded.std,
            labels=summary.labels,
        )
        tensors = {name: t.detach().contiguous() for name, t in student.graph.state_dict().items()}
        safetensors.torch.save_file(tensors, self.output / "student.safetensors", {"format": "pt"})
        return [
            ArtifactFile("model.onnx", self.output / "model.onnx", "application/octet-stream"),
            ArtifactFile("report.json", self.output / "report.json", "application/json"),
            ArtifactFile("samples.png", self.output / "samples.png", "image/png"),
            ArtifactFile(
                "student.safetensors", self.output / "student.safetensors", "application/octet-stream"
            ),
        ]


def channels_last(network: nn.Module) -> None:
    """Convolutions run faster on channels-last tensors, on CPUs as on GPUs.

    Theirs alone: torch refuses the format for tensors of five dimensions, such as position biases.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)


def baseline_config(input_shape: tuple[int, int, int]) -> MinMaxConfig:
    """The baseline's images and steps: fewer for large inputs, so that the comparison stays a side matter."""
    if input_shape[1] * input_shape[2] <= 64 * 64:
        return MinMaxConfig()
    return MinMaxConfig(images=16, iterations=30)
