"""The integer student gives ONNX Runtime's very codes, end to end."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, fx

from core.export import integer
from core.export.builder import INPUT, OUTPUT
from core.export.integer import Codes, IntegerStudent
from core.export.onnx import Exported
from core.export.session import as_input, open_session, run
from core.fake_quant.affine import Grid
from core.fake_quant.insert import Student
from core.spec import PROFILES
from tests.core import small

Export = Callable[..., tuple[Student, Exported]]

# Networks of layers, additions, global pools and moves alone. Additions are those of x86-64.
EXACT = ["plain", "shuffle", "padded", "twice", "unfoldable"]
if platform.machine() in ("x86_64", "AMD64"):
    EXACT += ["residual", "depthwise", "gated", "swish", "grouped", "dead"]


def differing(student: Student, exported: Exported, x: Tensor) -> dict[str, int]:
    """Codes that differ, by quantizer; nothing is forced, so one difference would grow."""
    model = onnx.ModelProto()
    model.CopyFrom(exported.model)
    names = list(dict.fromkeys(exported.codes.values()))
    model.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.UINT8, None) for n in names)
    results = open_session(model).run([OUTPUT, *names], {INPUT: as_input(x)})
    theirs = {name: torch.from_numpy(value) for name, value in zip(names, results[1:], strict=True)}
    found: dict[str, int] = {}

    class Recorder(integer._Walk):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n.name in exported.codes:
                assert isinstance(value, Codes)
                codes = (value.centered + value.grid.zero_point + exported.raised_by[n.name]).to(torch.uint8)
                found[n.name] = int((codes != theirs[exported.codes[n.name]].view_as(codes)).sum())
            return value

    with torch.no_grad():
        logits = Recorder(student.graph).run(x)
    assert torch.allclose(logits, torch.from_numpy(results[0]), atol=1e-5)
    return found


@pytest.mark.parametrize("bits", ["w8a8", "w4a8", "w4a4", "w2a3", "w6a6"])
@pytest.mark.parametrize("name", EXACT)
def test_every_code_is_onnxruntimes(export: Export, name: str, bits: str) -> None:
    student, exported = export(name, bits)
    found = differing(student, exported, small.images(64, seed=4))
    assert len(found) == len(student.activation_quantizers())
    assert not any(found.values()), found


@pytest.mark.parametrize("bits", ["w4a8", "w3a3"])
@pytest.mark.parametrize("name", EXACT)
def test_every_code_of_a_portable_file_is_too(export: Export, name: str, bits: str) -> None:
    student, exported = export(name, bits, profile="portable")
    found = differing(student, exported, small.images(64, seed=4))
    assert len(found) == len(student.activation_quantizers())
    assert not any(found.values()), found


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", small.NETWORKS)
@torch.no_grad()
def test_it_computes_what_the_student_computes(export: Export, name: str, profile: str) -> None:
    student, _ = export(name, "w8a8", profile=profile)
    x = small.images(32, seed=6)
    expected = student(x)
    assert float((IntegerStudent(student)(x) - expected).norm() / expected.norm()) < 0.02


@pytest.mark.parametrize("name", EXACT)
def test_file_and_student_name_the_same_classes(export: Export, name: str) -> None:
    student, exported = export(name, "w3a3")
    x = small.images(300, seed=5)
    assert torch.equal(run(open_session(exported.model), x).argmax(1), IntegerStudent(student)(x).argmax(1))


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="additions of x86-64")
@pytest.mark.parametrize("seed", range(8))
def test_sums_of_all_pairs_of_codes_are_onnxruntimes(seed: int) -> None:
    """Any scales and zero-points: how the constant part is rounded shows in a few pairs in a million."""
    random = torch.Generator().manual_seed(seed)
    codes = torch.arange(256)
    for _ in range(12):
        scales = (torch.rand(3, generator=random) + 0.05) / 50
        zeros = torch.randint(1, 255, (3,), generator=random).float()
        left, right, to = (Grid(s, z, 0, 255) for s, z in zip(scales, zeros, strict=True))
        a, b = codes.repeat_interleave(256), codes.repeat(256)
        added = integer._add(Codes(a - left.zero_point, left), Codes(b - right.zero_point, right), to)
        ours = (added + to.zero_point).clamp(0, 255).to(torch.uint8)
        assert torch.equal(ours, _qlinear_add(a, left, b, right, to))


@pytest.mark.parametrize("seed", range(4))
def test_pixels_are_rounded_as_onnxruntime_rounds_them(seed: int) -> None:
    """An image has 256 values a channel: where one lies on a tie, it does in every image."""
    random = torch.Generator().manual_seed(seed)
    pixels = (torch.arange(256) / 255 - 0.485) / 0.229
    for _ in range(64):
        tie = pixels[torch.randint(256, (), generator=random)].abs()
        scale = tie / (torch.randint(20, 100, (), generator=random) + 0.5)
        grid = Grid(scale, torch.tensor(128.0), 0, 255)
        ours = integer._quantize(pixels, grid).centered + grid.zero_point
        assert torch.equal(ours.to(torch.uint8), _quantize_linear(pixels, grid))


def _quantize_linear(x: Tensor, grid: Grid) -> Tensor:
    constants = {"scale": grid.scale.numpy(), "zero": grid.zero_point.to(torch.uint8).numpy()}
    graph = helper.make_graph(
        [helper.make_node("QuantizeLinear", ["x", *constants], ["y"])],
        "codes",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, x.shape)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return torch.from_numpy(open_session(model).run(None, {"x": x.numpy()})[0])


def _qlinear_add(a: Tensor, left: Grid, b: Tensor, right: Grid, to: Grid) -> Tensor:
    names = ["a", "a_scale", "a_zero", "b", "b_scale", "b_zero", "c_scale", "c_zero"]
    constants = {}
    for name, grid in (("a", left), ("b", right), ("c", to)):
        constants[f"{name}_scale"] = grid.scale.numpy()
        constants[f"{name}_zero"] = grid.zero_point.to(torch.uint8).numpy()
    values = [helper.make_tensor_value_info(n, TensorProto.UINT8, [a.numel()]) for n in ("a", "b", "c")]
    graph = helper.make_graph(
        [helper.make_node("QLinearAdd", names, ["c"], domain="com.microsoft")],
        "sum",
        values[:2],
        values[2:],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    feed = {"a": a.to(torch.uint8).numpy(), "b": b.to(torch.uint8).numpy()}
    return torch.from_numpy(open_session(model).run(None, feed)[0])
