"""`fast`: nothing is trained, and yet the student is closer to its teacher than the baseline's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from core.context import Progress, RunContext
from core.errors import Canceled, Diverged
from core.export.onnx import export_student
from core.export.parity import compare
from core.fake_quant.affine import fake_quantize
from core.fake_quant.insert import Student, build_student
from core.fake_quant.modules import QuantConv2d, QuantLinear
from core.methods import fast, layerwise, minmax, regression
from core.methods.layer_matrix import columns, rows
from core.networks.graph import module_of
from core.spec import PROFILES, BitSpec, FastConfig, MinMaxConfig
from tests.core import small
from tests.core.methods.conftest import SHAPE, smooth_images

ROUNDINGS = ["gptq", "squant", "nearest"]


def context(folder: Path, **options: Any) -> RunContext:
    return RunContext(folder, device=torch.device("cpu"), **options)


def distance(teacher: fx.GraphModule, student: Student, images: Tensor) -> float:
    """Of the logits, relative."""
    with torch.no_grad():
        wanted = teacher(images)
        return float((student.eval()(images) - wanted).square().mean() / wanted.square().mean())


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_it_is_closer_to_the_teacher_than_the_baseline(
    classifier: fx.GraphModule, tmp_path: Path, rounding: Any
) -> None:
    baseline, student = (build_student(classifier, BitSpec.parse("w3a3")) for _ in range(2))
    minmax.run(classifier, baseline, MinMaxConfig(images=32, iterations=25), context(tmp_path))
    summary = fast.run(classifier, student, FastConfig(rounding=rounding), context(tmp_path))
    seen = smooth_images(200, seed=99)
    assert distance(classifier, student, seen) < 0.8 * distance(classifier, baseline, seen)
    assert summary.settings == {"images": 32, "iterations": 25, "rounding": rounding}
    assert summary.measures["bn_statistics"] < 0.3 * summary.measures["bn_statistics_noise"]
    assert summary.images.shape == (32, *SHAPE)


def test_regression_and_gptq_beat_rounding_alone(classifier: fx.GraphModule, tmp_path: Path) -> None:
    seen = smooth_images(200, seed=99)
    distances = {}
    for rounding in ("gptq", "nearest"):
        student = build_student(classifier, BitSpec.parse("w2a4"))
        layerwise.solve(student, smooth_images(64, seed=5), rounding=rounding)
        distances[rounding] = distance(classifier, student, seen)
    assert distances["gptq"] < 0.8 * distances["nearest"]


# A profile changes grids alone, and all roundings take theirs from the same place.
@pytest.mark.parametrize(
    "profile, rounding", [*(("packed", r) for r in ROUNDINGS), ("portable", "gptq"), ("qdq", "gptq")]
)
@pytest.mark.parametrize("name", list(small.NETWORKS))
def test_students_export_as_they_are(name: str, profile: str, rounding: Any, tmp_path: Path) -> None:
    teacher = small.teacher(name)
    student = build_student(teacher, BitSpec.parse("w4a4"), PROFILES[profile].grids)
    images = small.images(8, seed=3)
    layerwise.solve(student, images, rounding=rounding)
    assert all(q.calibrated and q.observer is None for q in student.activation_quantizers().values())
    for layer in student.layers().values():
        grid = layer.grid()
        assert torch.equal(grid.values(grid.codes(layer.weight)), layer.low_bit_weight())
        assert torch.allclose(layer.weight, layer.low_bit_weight(), atol=1e-6), "weights lie on their grids"
    exported = export_student(student, small.SHAPE, small.CLASSES, {}, profile)
    assert compare(student, exported, images).largest_step <= 1


def test_at_8_bits_next_to_nothing_is_lost(classifier: fx.GraphModule, tmp_path: Path) -> None:
    student = build_student(classifier, BitSpec.parse("w8a8"))
    fast.run(classifier, student, FastConfig(), context(tmp_path))
    assert distance(classifier, student, smooth_images(200, seed=99)) < 0.005


def test_the_same_seed_gives_the_same_student(teacher: fx.GraphModule, tmp_path: Path) -> None:
    states = []
    for seed in (3, 3, 4):
        student = build_student(teacher, BitSpec.parse("w4a4"))
        fast.run(teacher, student, FastConfig(images=8, iterations=4), context(tmp_path, seed=seed))
        states.append(student.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])


def test_depthwise_networks_are_rounded_without_regression(tmp_path: Path) -> None:
    for name, rounding in (("plain", "gptq"), ("depthwise", "squant")):
        teacher = small.teacher(name)
        student = build_student(teacher, BitSpec.parse("w4a8"))
        summary = fast.run(teacher, student, FastConfig(images=4, iterations=2), context(tmp_path))
        assert summary.settings["rounding"] == rounding


def test_without_bn_it_says_what_the_images_are(teacher_without_bn: fx.GraphModule, tmp_path: Path) -> None:
    student = build_student(teacher_without_bn, BitSpec.parse("w8a8"))
    summary = fast.run(teacher_without_bn, student, FastConfig(images=8), context(tmp_path))
    assert "spectrum" in summary.notes[0] and not summary.measures
    assert distance(teacher_without_bn, student, smooth_images(50, seed=1)) < 0.05


def test_ranges_are_those_with_which_the_reader_errs_least(classifier: fx.GraphModule) -> None:
    images = smooth_images(32, seed=8)
    student = build_student(classifier, BitSpec.parse("w4a3"))
    layerwise.solve(student, images)
    quantizer = next(q for q in student.activation_quantizers().values() if q.bits == 3)
    graph = student.graph
    node = next(n for n in graph.graph.nodes if module_of(graph, n) is quantizer)
    reader = module_of(graph, next(iter(node.users)))
    assert isinstance(reader, QuantConv2d)
    seen: list[Tensor] = []
    quantizer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        student(images)

    def error(factor: float) -> float:
        grid = quantizer.grid_of(torch.zeros(()), factor * quantizer.scale.detach() * quantizer.high)
        difference = columns(reader, fake_quantize(seen[0], grid) - seen[0], 4096)
        return float((rows(reader, reader.weight) @ difference).square().mean())

    assert error(1.0) < min(error(0.6), error(1.7))


def test_values_that_are_not_finite_diverge(teacher: fx.GraphModule, tmp_path: Path) -> None:
    student = build_student(teacher, BitSpec.parse("w4a4"))
    with pytest.raises(Diverged):
        layerwise.solve(student, torch.full((2, *SHAPE), torch.nan))


def test_it_can_be_canceled_in_the_pass(teacher: fx.GraphModule, tmp_path: Path) -> None:
    student = build_student(teacher, BitSpec.parse("w4a4"))
    calls = iter([False] * 5 + [True] * 100)

    def check() -> None:
        if next(calls):
            raise Canceled("enough")

    with pytest.raises(Canceled):
        layerwise.solve(student, smooth_images(4, seed=0), check=check)


def test_samples_are_of_every_place_and_every_image() -> None:
    """56 columns and a stride of 49 would share the factor 7: eight columns, the same of all images."""
    layer = nn.Conv2d(3, 4, 1)
    quantized = QuantConv2d.of(layer, 4)
    row, column = torch.meshgrid(torch.arange(56.0), torch.arange(56.0), indexing="ij")
    x = torch.stack([torch.stack([torch.full((56, 56), float(n)), row, column]) for n in range(16)])
    seen = columns(quantized, x, 1024)[0]
    assert seen.shape == (3, 1024)
    images, rows_seen, columns_seen = (set(channel.tolist()) for channel in seen)
    assert len(images) == 16 and len(rows_seen) == len(columns_seen) == 56
    assert torch.equal(columns(quantized, x, 1024)[0], seen)
    tokens = x.permute(0, 2, 3, 1).reshape(16, 3136, 3)
    linear = QuantLinear.of(nn.Linear(3, 4), 4)
    assert all(len(set(channel.tolist())) >= 16 for channel in columns(linear, tokens, 1024)[0])


def test_very_wide_layers_are_rounded_without_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their cost grows with the cube of the width."""
    monkeypatch.setattr(regression, "_WIDEST", 20)
    students = [build_student(small.teacher("plain"), BitSpec.parse("w4a8")) for _ in range(2)]
    for student, rounding in zip(students, ("gptq", "squant"), strict=True):
        layerwise.solve(student, small.images(4), rounding=rounding)
    wide = [
        torch.equal(a.grid().scale, b.grid().scale)
        for a, b in zip(*(s.layers().values() for s in students), strict=True)
    ]
    widths = [layer.weight[0].numel() > 20 for layer in students[0].layers().values()]
    assert any(widths) and wide[0] == widths[0]


@pytest.mark.parametrize(
    ("name", "rounding"), [("depthwise", "squant"), ("unfoldable", "gptq"), ("plain", "gptq")]
)
def test_only_networks_with_depthwise_kernels_are_rounded_without_regression(
    name: str, rounding: str
) -> None:
    assert layerwise.default_rounding(small.student(name)) == rounding


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (3, 5), "padding": "same", "dilation": 2},
        {"kernel_size": 4, "stride": (4, 2), "groups": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1, "groups": 8},
    ],
    ids=str,
)
@torch.no_grad()
def test_rows_times_columns_are_what_the_layer_computes(options: dict[str, Any]) -> None:
    layer = nn.Conv2d(8, 16, **options, bias=False)
    x = torch.randn(3, 8, 13, 17, generator=torch.Generator().manual_seed(0))
    quantized = QuantConv2d.of(nn.Conv2d(8, 16, **options, bias=False), 4)
    quantized.load_state_dict(layer.state_dict(), strict=False)
    product_GON = rows(quantized, layer.weight) @ columns(quantized, x, 10**6)
    wanted_NOHW = layer(x)
    assert torch.allclose(product_GON.flatten(0, 1), wanted_NOHW.transpose(0, 1).flatten(1), atol=1e-5)


def test_progress_ends_with_the_pass(classifier: fx.GraphModule, tmp_path: Path) -> None:
    seen: list[Progress] = []
    student = build_student(classifier, BitSpec.parse("w4a4"))
    fast.run(
        classifier,
        student,
        FastConfig(images=16, iterations=3),
        context(tmp_path, emit=seen.append, interval=0.0),
    )
    steps = [each.step for each in seen if each.steps]
    assert steps == sorted(set(steps)) and steps[-1] == seen[-1].steps


def test_without_memory_the_pass_begins_anew_with_half_the_images(
    classifier: fx.GraphModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = smooth_images(12, seed=3)
    wanted = build_student(classifier, BitSpec.parse("w4a4"))
    assert layerwise.solve(wanted, images[:6]) == []
    find, calls = layerwise.find_weight, iter(range(100))

    def fails_once(*arguments: Any) -> None:
        if next(calls) == 2:
            raise torch.OutOfMemoryError("out of memory")
        find(*arguments)

    monkeypatch.setattr(layerwise, "find_weight", fails_once)
    student = build_student(classifier, BitSpec.parse("w4a4"))
    (note,) = layerwise.solve(student, images)
    assert "6 images" in note
    found, expected = student.state_dict(), wanted.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
