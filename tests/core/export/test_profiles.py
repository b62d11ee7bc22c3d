"""Each profile's files hold what their readers take, and nothing newer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from core.export.onnx import Exported
from core.export.parity import compare
from core.export.profiles import FORMATS
from core.export.session import open_session, run
from core.fake_quant.insert import Student
from core.spec import PROFILES
from tests.core import small

Export = Callable[..., tuple[Student, Exported]]

OTHERS = sorted(set(PROFILES) - {"packed"})
CASES = [("portable", "w3a4"), ("tensorrt", "w3a8"), ("qdq", "w4a4")]


def kinds(exported: Exported) -> Counter[str]:
    return Counter(node.op_type for node in exported.model.graph.node)


def types(exported: Exported) -> set[int]:
    return {tensor.data_type for tensor in exported.model.graph.initializer}


def test_every_profile_has_a_format() -> None:
    assert FORMATS.keys() == PROFILES.keys()


@pytest.mark.parametrize(("profile", "bits"), CASES)
@pytest.mark.parametrize("name", small.NETWORKS)
def test_files_are_valid_for_their_opset(export: Export, name: str, profile: str, bits: str) -> None:
    model = export(name, bits, profile=profile)[1].model
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version <= FORMATS[profile].opset) for entry in model.opset_import] == [
        ("", True)
    ]
    assert not model.functions
    outputs = [output for node in model.graph.node for output in node.output]
    assert len(outputs) == len(set(outputs))
    read = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= read


@pytest.mark.parametrize(
    ("profile", "bits", "versions"),
    [
        ("portable", "w2a3", (17, 8)),
        ("tensorrt", "w2a8", (17, 8)),
        ("qdq", "w4a4", (21, 10)),
        ("qdq", "w2a4", (25, 13)),
    ],
)
def test_opset_and_ir_version(export: Export, profile: str, bits: str, versions: tuple[int, int]) -> None:
    model = export("plain", bits, profile=profile)[1].model
    assert (model.opset_import[0].version, model.ir_version) == versions


@pytest.mark.parametrize("profile", OTHERS)
@pytest.mark.parametrize("name", ["plain", "mixer", "attention", "shuffle"])
def test_the_batch_is_dynamic(export: Export, name: str, profile: str) -> None:
    session = open_session(export(name, "w4a8", profile=profile)[1].model)
    x = small.images(5)
    together = run(session, x)
    one_by_one = torch.cat([run(session, image[None]) for image in x])
    assert together.shape == (5, small.CLASSES)
    assert torch.allclose(together, one_by_one, atol=1e-5)


@pytest.mark.parametrize("profile", OTHERS)
def test_the_metadata_stands_in_the_file(export: Export, profile: str) -> None:
    found = open_session(export("plain", "w4a8", profile=profile)[1].model).get_modelmeta()
    assert found.custom_metadata_map == {"zsq.mean": "[0, 0, 0]"}


# --- the same numbers as the student's -------------------------------------------------------------


def agrees(export: Export, name: str, bits: str, profile: str, different: float = 2e-3) -> None:
    student, exported = export(name, bits, profile=profile)
    found = compare(student, exported, small.images(16, seed=3))
    assert len(found.tensors) == len(student.activation_quantizers())
    assert found.largest_step <= 1
    assert found.different_share < different
    assert found.logits_error < 1e-5


@pytest.mark.parametrize(
    ("profile", "bits"),
    [
        *(("portable", f"w{width}a{width}") for width in range(2, 9)),
        *(("tensorrt", f"w{width}a8") for width in range(2, 9)),
        *(("qdq", f"w{width}a{width}") for width in range(2, 9)),
    ],
)
@pytest.mark.parametrize("name", ["plain", "grouped"])
def test_at_every_width_tensors_are_at_most_one_step_apart(
    export: Export, name: str, profile: str, bits: str
) -> None:
    # Where both sides have few levels few sums are possible, and many fall just between two steps.
    agrees(export, name, bits, profile, different=5e-3 if bits in ("w2a2", "w3a3") else 2e-3)


@pytest.mark.parametrize(("profile", "bits"), [*CASES, ("portable", "w8a8"), ("tensorrt", "w8a8")])
@pytest.mark.parametrize("name", small.NETWORKS)
def test_every_tensor_is_at_most_one_step_apart(export: Export, name: str, profile: str, bits: str) -> None:
    agrees(export, name, bits, profile)


@torch.no_grad()
@pytest.mark.parametrize(("profile", "bits"), CASES)
def test_end_to_end_the_file_names_the_students_classes(export: Export, profile: str, bits: str) -> None:
    student, exported = export("residual", bits, profile=profile)
    x = small.images(200, seed=5)
    same = run(open_session(exported.model), x).argmax(1) == student(x).argmax(1)
    assert float(same.float().mean()) >= 0.98


# --- portable ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", ["w2a8", "w5a5", "w8a8"])
def test_portable_files_hold_int8_weights_and_uint8_activations_alone(export: Export, bits: str) -> None:
    _, exported = export("depthwise", bits, profile="portable")
    assert types(exported) & {TensorProto.INT4, TensorProto.UINT4, TensorProto.UINT8} == {TensorProto.UINT8}
    assert zero_points(exported, TensorProto.INT8) == {0}


def zero_points(exported: Exported, kind: int) -> set[int]:
    """What stands as zero-point of that type in the file's QuantizeLinear and DequantizeLinear."""
    constants = {t.name: t for t in exported.model.graph.initializer}
    found = [
        constants[node.input[2]]
        for node in exported.model.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2
    ]
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in found if tensor.data_type == kind]
    return {int(value) for array in arrays for value in np.unique(array)}


# --- tensorrt ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", small.NETWORKS)
def test_tensorrt_finds_int8_around_zero_and_nothing_between_quantizing_and_dequantizing(
    export: Export, name: str
) -> None:
    """What its parser asks for: no UINT8, no INT32 to dequantize, zero-points written out, all 0."""
    _, exported = export(name, "w4a8", profile="tensorrt")
    graph = exported.model.graph
    assert types(exported) <= {TensorProto.INT8, TensorProto.FLOAT, TensorProto.INT64}
    assert zero_points(exported, TensorProto.INT8) == {0}
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert len(node.input) == 3
        if node.op_type == "DequantizeLinear":
            assert made_by.get(node.input[0], "a weight") in ("QuantizeLinear", "a weight")
        else:
            assert "QuantizeLinear" not in {made_by.get(name) for name in node.input}


def test_scales_and_zero_points_are_of_one_length(export: Export) -> None:
    """TensorRT compares them."""
    graph = export("grouped", "w4a8", profile="tensorrt")[1].model.graph
    sizes = {t.name: onnx.numpy_helper.to_array(t).size for t in graph.initializer}
    pairs = [node.input[1:] for node in graph.node if node.op_type.endswith("quantizeLinear")]
    pairs += [node.input[1:] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert pairs and all(sizes[scale] == sizes[zero] for scale, zero in pairs)


def test_clipping_activations_are_written_out_where_a_quantizer_does_not_clip_alike(export: Export) -> None:
    assert kinds(export("plain", "w4a8", profile="tensorrt")[1])["Relu"] == 3
    assert kinds(export("depthwise", "w4a8", profile="tensorrt")[1])["Clip"] == 3
    for profile in ("portable", "qdq"):
        assert "Relu" not in kinds(export("plain", "w4a8", profile=profile)[1])


def test_what_a_layers_kernel_goes_on_with_is_not_rounded_first(export: Export) -> None:
    """TensorRT adds a shortcut and applies an activation function inside the layer before them."""
    _, exported = export("swish", "w4a8", profile="tensorrt")
    made_by = {output: node.op_type for node in exported.model.graph.node for output in node.output}
    gates = [node for node in exported.model.graph.node if node.op_type == "Sigmoid"]
    assert gates and {made_by[gate.input[0]] for gate in gates} == {"Conv"}
    _, exported = export("grouped", "w4a8", profile="tensorrt")
    made_by = {output: node.op_type for node in exported.model.graph.node for output in node.output}
    (addition,) = (node for node in exported.model.graph.node if node.op_type == "Add")
    assert sorted(made_by[name] for name in addition.input) == ["Conv", "DequantizeLinear"]


# --- qdq -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "kind"),
    [
        (2, TensorProto.INT2), (3, TensorProto.INT4), (4, TensorProto.INT4), (5, TensorProto.INT8),
        (6, TensorProto.INT8), (7, TensorProto.INT8), (8, TensorProto.INT8),
    ],
)  # fmt: skip
def test_qdq_weights_stand_in_the_narrowest_type_that_onnx_has(
    export: Export, weight: int, kind: int
) -> None:
    student, exported = export("plain", f"w{weight}a8", profile="qdq")
    constants = {t.name: t for t in exported.model.graph.initializer}
    readers = {name: node for node in exported.model.graph.node for name in node.input}
    for layer in student.layers():
        assert constants[f"{layer}.weight"].data_type == kind
        assert readers[f"{layer}.weight"].op_type == "DequantizeLinear"


def test_qdq_tells_the_grid_of_what_only_moved_too(export: Export) -> None:
    """Behind max-pooling stands a pair with the parameters of the one before it."""
    graph = export("plain", "w8a8", profile="qdq")[1].model.graph
    made_by = {output: node for node in graph.node for output in node.output}
    (pool,) = (node for node in graph.node if node.op_type == "MaxPool")
    (behind,) = (node for node in graph.node if pool.output[0] in node.input)
    assert behind.op_type == "QuantizeLinear"
    assert list(behind.input[1:]) == list(made_by[pool.input[0]].input[1:])
