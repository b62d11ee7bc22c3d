"""Measurements in the report's words: the file's own description, layers, notes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from core.context import RunContext
from core.evaluate.report import Report, SyntheticReport
from core.export.latency import Latency
from core.export.onnx import export_student
from core.export.parity import Parity, TensorParity
from core.export.realized import Realized
from core.methods.base import Summary
from core.networks.fold_bn import fold_bn
from core.networks.inspect import LoadedNetwork
from core.networks.macs import layer_macs
from core.reporting import Measured, assemble, metadata
from core.spec import BitSpec, ExportConfig, LayerBits, MinMaxConfig, QuantizationSpec
from tests.core import small


def loaded() -> LoadedNetwork:
    inspection = {"parameters": 123}
    return LoadedNetwork(small.network("plain"), small.SHAPE, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), 5, inspection)


def assembled(
    tmp_path: Path,
    bits: BitSpec,
    clamped: int = 0,
    no_int8: str | None = None,
    profile: Any = "packed",
    integer_share: float = 1.0,
) -> Report:
    student = small.student("plain", bits, profile=profile)
    exported = export_student(student, small.SHAPE, small.CLASSES, {}, profile)
    macs = layer_macs(student.graph)
    latency = {"float32": Latency(4.0, 5.0, 4.0, 9), "quantized": Latency(2.0, 3.0, 2.0, 9)}
    if no_int8 is None:
        latency["onnxruntime_int8"] = Latency(2.5, 3.5, 2.5, 9)
    measured = Measured(
        parity=Parity([TensorParity(f"x{n}", 100, n, min(n, 1)) for n in range(8)], 1e-7, 16),
        realized=Realized(dict.fromkeys(macs, "QLinearConv"), integer_share, {}, 0),
        latency={1: latency, 0: latency},
        no_onnxruntime_int8=no_int8,
        exported=replace(exported, clamped_biases=clamped),
        bytes=1000,
        float32_bytes=4000,
        sha256="ab",
        macs=macs,
    )
    return assemble(
        spec=QuantizationSpec(bits, MinMaxConfig(), ExportConfig(profile), seed=3),
        loaded=loaded(),
        architecture="cifar/resnet8",
        checkpoint_sha256="cd",
        teacher=fold_bn(small.teacher("plain")),
        student=student,
        summary=Summary(1, 2.5, "calibrated", torch.zeros(1), notes=["A note."]),
        measured=measured,
        synthetic=SyntheticReport(8, 75.0, 0.25),
        activation_sqnr_db={name: float(index) for index, name in enumerate(macs)},
        context=RunContext(tmp_path, device=torch.device("cpu"), timings={"loading": 1.0}),
    )


def test_the_description_in_the_file_is_enough_to_run_it() -> None:
    bits = BitSpec(4, 4, overrides={"first.0": LayerBits(weight=6)})
    student = small.student("plain", bits)
    found = metadata(QuantizationSpec(bits, seed=3), "cd", "cifar/resnet8", loaded(), student, None)
    assert json.loads(found["zsq.mean"]) == [0.5, 0.4, 0.3]
    assert json.loads(found["zsq.std"]) == [0.2, 0.2, 0.2]
    assert json.loads(found["zsq.bits"]) == {
        "first.0": [6, 8],
        "second.0": [4, 4],
        "third.0": [4, 4],
        "linear": [4, 8],
    }
    assert (found["zsq.seed"], found["zsq.checkpoint_sha256"]) == ("3", "cd")
    assert all(isinstance(value, str) for value in found.values())
    assert "zsq.labels" not in found


def test_names_of_classes_stand_in_the_file_as_a_json_list() -> None:
    spec, names = QuantizationSpec(BitSpec(4, 4)), ["tench, Tinca tinca", 'a "b"', "Käfer", "\udc80", "e"]
    found = metadata(spec, "cd", "cifar/resnet8", loaded(), small.student("plain"), names)
    assert json.loads(found["zsq.labels"]) == names
    assert found["zsq.labels"].encode() and '", "' not in found["zsq.labels"]


def test_layers_are_described_from_the_file(tmp_path: Path) -> None:
    report = assembled(tmp_path, BitSpec(4, 4))
    layer = next(entry for entry in report.layers if entry.name == "third.0")
    assert (layer.weights, layer.shape) == (16 * 8 * 9, [16, 8, 3, 3])
    raw = 16 * 8 * 9 // 2 + 16 + 4 * 16 + 4 * 16  # weights, zero-points, scales, biases
    assert raw < layer.bytes < raw + 200
    assert layer.weight_sqnr_db is not None and 10 < layer.weight_sqnr_db < 30


def test_wider_weights_have_less_noise(tmp_path: Path) -> None:
    few, many = assembled(tmp_path, BitSpec(3, 8)), assembled(tmp_path, BitSpec(8, 8))
    for narrow, wide in zip(few.layers, many.layers, strict=True):
        assert narrow.weight_sqnr_db is not None and wide.weight_sqnr_db is not None
        assert narrow.weight_sqnr_db + 20 < wide.weight_sqnr_db


def test_the_average_width_is_weighted_by_the_layers_sizes(tmp_path: Path) -> None:
    report = assembled(tmp_path, BitSpec(4, 4, overrides={"third.0": LayerBits(weight=8)}))
    total = sum(layer.weights for layer in report.layers)
    wide = next(layer.weights for layer in report.layers if layer.name == "third.0")
    assert report.bits.weight_average == pytest.approx(4 + 4 * wide / total)


def test_the_speedup_is_of_the_medians_and_all_threads_are_counted(tmp_path: Path) -> None:
    found = assembled(tmp_path, BitSpec(4, 4)).latency
    assert [entry.speedup for entry in found] == [2.0, 2.0]
    assert found[0].threads == 1
    assert found[1].threads >= 1


def test_the_ratio_to_onnxruntimes_int8_is_of_the_medians(tmp_path: Path) -> None:
    entry = assembled(tmp_path, BitSpec(4, 4)).latency[0]
    assert entry.onnxruntime_int8 is not None and entry.onnxruntime_int8.median_ms == 2.5
    assert entry.ratio_to_onnxruntime_int8 == 0.8


def test_without_onnxruntimes_int8_a_note_says_why(tmp_path: Path) -> None:
    report = assembled(tmp_path, BitSpec(4, 4), no_int8="it knows no such operator")
    assert report.latency[0].onnxruntime_int8 is report.latency[0].ratio_to_onnxruntime_int8 is None
    assert report.notes[-1] == "No latency of ONNX Runtime's own int8 file: it knows no such operator."


def test_the_layers_have_the_noise_of_their_outputs(tmp_path: Path) -> None:
    found = {layer.name: layer.activation_sqnr_db for layer in assembled(tmp_path, BitSpec(4, 4)).layers}
    assert found == {"first.0": 0.0, "second.0": 1.0, "third.0": 2.0, "linear": 3.0}


def test_differing_integers_are_counted_and_the_worst_tensors_named(tmp_path: Path) -> None:
    found = assembled(tmp_path, BitSpec(4, 4)).verification.parity
    assert (found.tensors, found.elements, found.different, found.different_share) == (8, 800, 28, 0.035)
    assert [(t.name, t.different, t.elements, t.largest_step) for t in found.most_different] == [
        (f"x{n}", n, 100, 1) for n in (7, 6, 5, 4, 3)
    ]


def test_eight_bit_weights_are_warned_of_and_narrower_ones_are_not(tmp_path: Path) -> None:
    assert any("saturate" in note for note in assembled(tmp_path, BitSpec(8, 8)).notes)
    assert assembled(tmp_path, BitSpec(4, 4)).notes == ["A note."]


@pytest.mark.parametrize(("profile", "whom"), [("tensorrt", "TensorRT"), ("qdq", "compilers")])
def test_what_onnxruntime_computes_in_float_of_a_file_for_others_is_told(
    tmp_path: Path, profile: str, whom: str
) -> None:
    notes = assembled(tmp_path, BitSpec(4, 8), profile=profile, integer_share=0.25).notes
    assert any(whom in note and "75.0% of its multiply-accumulates in float" in note for note in notes)
    assert assembled(tmp_path, BitSpec(4, 8), profile=profile).notes == ["A note."]


def test_the_ideal_size_counts_a_zero_point_only_where_there_is_one(tmp_path: Path) -> None:
    packed, portable = (
        assembled(tmp_path, BitSpec(4, 8), profile=profile) for profile in ("packed", "portable")
    )
    rows = sum(layer.shape[0] for layer in packed.layers)
    assert packed.artifact.ideal_bytes - portable.artifact.ideal_bytes == rows
    assert packed.artifact.profile == "packed" and portable.artifact.profile == "portable"


def test_clamped_biases_are_told(tmp_path: Path) -> None:
    report = assembled(tmp_path, BitSpec(4, 4), clamped=2)
    assert any(note.startswith("2 biases") for note in report.notes)
    assert report.verification.clamped_biases == 2


def test_provenance_says_with_what_it_was_made(tmp_path: Path) -> None:
    found = assembled(tmp_path, BitSpec(4, 4)).provenance
    assert {"zsq", "torch", "onnxruntime", "onnx", "python", "device", "processor", "finished_at"} <= set(
        found
    )
    assert (found["seed"], found["checkpoint_sha256"]) == (3, "cd")
