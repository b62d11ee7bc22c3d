"""The file: loads in stock ONNX Runtime, takes any batch, is small, and says what it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.errors import ArchitectureError, ExportError
from core.export.builder import INPUT, OUTPUT
from core.export.onnx import Exported, export_float, export_student
from core.export.session import open_session, run
from core.fake_quant.insert import Student, build_student
from core.networks.fold_bn import fold_bn
from core.networks.graph import trace
from core.spec import BitSpec
from tests.core import small

Export = Callable[..., tuple[Student, Exported]]


@pytest.mark.parametrize("name", small.NETWORKS)
def test_a_float_network_computes_the_same_in_onnx_runtime(name: str) -> None:
    graph = fold_bn(small.teacher(name))
    session = open_session(export_float(graph, small.SHAPE, small.CLASSES, {}))
    for batch in (1, 3):
        x = small.images(batch)
        assert torch.allclose(run(session, x), graph(x), atol=1e-4)


@pytest.mark.parametrize("name", small.NETWORKS)
@torch.no_grad()
def test_an_8_bit_file_is_close_to_the_float_network(export: Export, name: str) -> None:
    _, exported = export(name, "w8a8")
    x = small.images(16)
    expected = small.teacher(name)(x)
    found = run(open_session(exported.model), x)
    assert float((found - expected).norm() / expected.norm()) < 0.05


@pytest.mark.parametrize("name", ["plain", "mixer", "attention", "shuffle"])
def test_the_batch_is_dynamic(export: Export, name: str) -> None:
    _, exported = export(name)
    session = open_session(exported.model)
    x = small.images(5)
    together = run(session, x)
    assert together.shape == (5, small.CLASSES)
    one_by_one = torch.cat([run(session, image[None]) for image in x])
    assert torch.allclose(together, one_by_one, atol=1e-5)


def test_one_named_float_input_and_output_of_the_documented_shapes(export: Export) -> None:
    _, exported = export("plain")
    session = open_session(exported.model)
    (given,), (result,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == (INPUT, "tensor(float)", ["batch", *small.SHAPE])
    assert (result.name, result.type, result.shape) == (OUTPUT, "tensor(float)", ["batch", small.CLASSES])


def test_the_metadata_stands_in_the_file(export: Export) -> None:
    _, exported = export("plain")
    assert {p.key: p.value for p in exported.model.metadata_props} == {"zsq.mean": "[0, 0, 0]"}
    found = open_session(exported.model).get_modelmeta()
    assert found.custom_metadata_map == {"zsq.mean": "[0, 0, 0]"}
    assert found.producer_name == "zsq"


def test_the_file_is_valid_and_every_name_is_its_own(export: Export) -> None:
    for name in small.NETWORKS:
        model = export(name)[1].model
        onnx.checker.check_model(model, full_check=True)
        outputs = [output for node in model.graph.node for output in node.output]
        assert len(outputs) == len(set(outputs))


def wide() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 128, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8192, 5)
    )


@torch.no_grad()
def test_fewer_bits_make_a_smaller_file() -> None:
    torch.manual_seed(0)
    graph = trace(wide(), small.SHAPE)
    sizes = {}
    for bits in ("w8a8", "w4a8"):
        student = build_student(graph, BitSpec.parse(bits))
        with student.observing():
            student(small.images(4))
        sizes[bits] = len(export_student(student, small.SHAPE, 5, {}).model.SerializeToString())
    float32 = len(export_float(graph, small.SHAPE, 5, {}).SerializeToString())
    assert sizes["w8a8"] < 0.3 * float32
    assert sizes["w4a8"] < 0.6 * sizes["w8a8"]


def test_a_student_whose_ranges_were_never_found_is_refused() -> None:
    student = build_student(small.teacher("plain"), BitSpec(4, 4))
    with pytest.raises(ExportError) as caught:
        export_student(student, small.SHAPE, small.CLASSES, {})
    assert caught.value.code == "not_calibrated"


def test_exporting_leaves_the_student_as_it_is(export: Export) -> None:
    student = small.student("plain", "w4a4", fold=False)
    x = small.images(4)
    before = student(x)
    export_student(student, small.SHAPE, small.CLASSES, {})
    assert torch.equal(student(x), before)


@torch.no_grad()
def test_folded_late_or_at_once_is_the_same_file() -> None:
    x = small.images(8)
    logits = []
    for fold in (True, False):
        student = small.student("depthwise", "w8a8", fold=fold)
        exported = export_student(student, small.SHAPE, small.CLASSES, {})
        logits.append(run(open_session(exported.model), x))
    assert float((logits[0] - logits[1]).norm() / logits[0].norm()) < 0.02


def test_a_layer_that_runs_twice_is_stored_once(export: Export) -> None:
    _, exported = export("twice")
    made = [name for node in exported.model.graph.node for name in node.output]
    assert made.count("shared.0.weight") == 1
    assert sum(node.op_type == "Weight4" for node in exported.model.graph.node) == 3


def test_a_layer_may_bear_the_name_of_the_files_input_or_output() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image, self.relu_default, self.logits = (
                nn.Conv2d(3, 4, 3),
                nn.Conv2d(4, 4, 1),
                nn.Linear(4, 5),
            )

        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(self.relu_default(F.relu(self.image(x))))
            return self.logits(y.mean((2, 3)))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    graph = trace(Named(), small.SHAPE).requires_grad_(False)
    student = build_student(graph, BitSpec(8, 8))
    x = small.images(4)
    with torch.no_grad(), student.observing():
        expected = student(x)
    exported = export_student(student, small.SHAPE, 5, {})
    assert torch.allclose(run(open_session(exported.model), x), expected, atol=0.05)
    names = {t.name for t in exported.model.graph.initializer}  # 8 bits: no node makes the weight
    assert {"image.weight", "relu_default.weight", "logits.weight"} <= names


def test_biases_that_int32_cannot_hold_are_counted() -> None:
    class Huge(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 4)
            with torch.no_grad():
                self.linear.weight.mul_(1e-6)
                self.linear.bias.fill_(1000.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.mean((2, 3)))  # type: ignore[no-any-return]

    student = build_student(trace(Huge(), small.SHAPE), BitSpec(8, 8))
    with torch.no_grad(), student.observing():
        student(1e-6 * small.images(4))
    exported = export_student(student, small.SHAPE, 4, {})
    assert exported.clamped_biases == 4


def test_an_operator_that_the_exporter_does_not_know_is_named() -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.erf(self.conv(x)).mean((2, 3))

    graph = trace(Sorted(), small.SHAPE)
    with pytest.raises(ArchitectureError) as caught:
        export_float(graph, small.SHAPE, 4, {})
    assert caught.value.code == "unsupported_operator"
    assert "erf" in caught.value.detail


def test_weights_in_the_file_are_the_students(export: Export) -> None:
    student, exported = export("plain", "w8a8")
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in exported.model.graph.initializer}
    for name, layer in student.layers().items():
        values = stored[f"{name}.weight"].astype(np.float32)
        (reader,) = (n for n in exported.model.graph.node if f"{name}.weight" in n.input)
        scale = stored[reader.input[1]].reshape(-1, *[1] * (values.ndim - 1))
        assert np.array_equal(values * scale, layer.low_bit_weight().detach().numpy())
