"""What ONNX Runtime really runs, read from its optimized graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

from core.export.onnx import Exported, export_float
from core.export.realized import INTEGER_KERNELS, Realized, realized_precision
from core.export.session import open_session
from core.fake_quant.insert import Student
from core.networks.fold_bn import fold_bn
from core.networks.macs import layer_macs, product_macs
from tests.core import small

Export = Callable[..., tuple[Student, Exported]]

# Networks all of whose operators have integer kernels.
INTEGER = [
    "plain", "residual", "depthwise", "grouped", "gated", "swish", "dead", "concat", "shuffle", "padded",
    "unfoldable", "twice", "channel attention", "same pooling",
]  # fmt: skip

# What the network "plain" is run by, besides its layers.
OTHER = {"QuantizeLinear", "DequantizeLinear", "NhwcMaxPool", "Clip", "Transpose", "QLinearGlobalAveragePool"}


def realized(export: Export, name: str, bits: str, folder: Path, profile: str = "packed") -> Realized:
    student, exported = export(name, bits, profile=profile)
    path = folder / "model.onnx"
    onnx.save(exported.model, path)
    return realized_precision(path, layer_macs(student.graph), product_macs(student.graph), folder)


@pytest.mark.parametrize("bits", ["w8a8", "w7a7", "w6a8", "w5a5", "w4a4", "w3a3", "w2a8"])
@pytest.mark.parametrize("name", INTEGER)
def test_everything_runs_in_integers_where_kernels_exist(
    export: Export, name: str, bits: str, tmp_path: Path
) -> None:
    found = realized(export, name, bits, tmp_path)
    assert found.integer_share == 1.0
    assert found.float_operators == {}
    assert found.conversions == 0
    assert set(found.kernels) == set(export(name, bits)[0].layers())
    assert set(found.kernels.values()) <= {"QLinearConv", "QGemm"}


@pytest.mark.parametrize("bits", ["w8a8", "w5a7", "w3a3", "w2a8"])
@pytest.mark.parametrize("name", INTEGER)
def test_portable_files_run_in_integers_too(export: Export, name: str, bits: str, tmp_path: Path) -> None:
    found = realized(export, name, bits, tmp_path, "portable")
    assert found.integer_share == 1.0
    assert found.float_operators == {}
    assert set(found.kernels) == set(export(name, bits, profile="portable")[0].layers())


@pytest.mark.parametrize(("bits", "share"), [("w8a8", 1.0), ("w6a8", 1.0), ("w4a4", 0.0), ("w2a8", 0.0)])
def test_native_types_of_fewer_bits_run_in_float_and_that_is_said(
    export: Export, bits: str, share: float, tmp_path: Path
) -> None:
    found = realized(export, "plain", bits, tmp_path, "qdq")
    assert found.integer_share == share
    layers = set(export("plain", bits, profile="qdq")[0].layers())
    assert set(found.kernels) == layers
    if not share:
        assert set(found.kernels.values()) == {"Conv", "Gemm"}
        assert found.float_operators["Conv"]["count"] == len(layers) - 1


def test_int8_around_zero_runs_partly_in_float_and_that_is_said(export: Export, tmp_path: Path) -> None:
    found = realized(export, "depthwise", "w8a8", tmp_path, "tensorrt")
    assert set(found.kernels.values()) == {"FusedConv", "QLinearConv", "Gemm"}
    macs = layer_macs(export("depthwise", "w8a8", profile="tensorrt")[0].graph)
    integer = sum(macs[name] for name, kernel in found.kernels.items() if kernel == "QLinearConv")
    assert found.integer_share == pytest.approx(integer / sum(macs.values()))
    fused = sum(kernel == "FusedConv" for kernel in found.kernels.values())
    assert found.float_operators["FusedConv"]["count"] == fused > 0


@pytest.mark.parametrize("bits", range(2, 9))
def test_weights_of_every_width_are_put_together_at_load(export: Export, bits: int, tmp_path: Path) -> None:
    """Nothing of what joins planes is left to run: kernels read int8 constants, with zero-point 0."""
    student, exported = export("plain", f"w{bits}a4")
    path = tmp_path / "optimized.onnx"
    open_session(exported.model, optimized=path)
    graph = onnx.load(path).graph
    assert {node.op_type for node in graph.node} <= {"QLinearConv", "QGemm", "Reshape"} | OTHER
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for name in student.layers():
        (reader,) = (node for node in graph.node if f"{name}.weight" in node.input)
        at = list(reader.input).index(f"{name}.weight")
        assert constants[reader.input[at]].data_type == TensorProto.INT8
        assert not onnx.numpy_helper.to_array(constants[reader.input[at + 2]]).any()


@pytest.mark.parametrize("name", sorted(set(small.NETWORKS) - set(INTEGER) - {"attention"}))
def test_layers_run_in_integers_beside_float_operators(export: Export, name: str, tmp_path: Path) -> None:
    found = realized(export, name, "w4a4", tmp_path)
    assert found.integer_share == 1.0
    assert set(found.kernels.values()) <= INTEGER_KERNELS
    assert found.float_operators
    assert all(entry["count"] and entry["reason"] for entry in found.float_operators.values())


def test_products_of_two_tensors_count_as_float(export: Export, tmp_path: Path) -> None:
    found = realized(export, "attention", "w8a8", tmp_path)
    assert 0 < found.integer_share < 1
    assert "Softmax" in found.float_operators


def test_what_stays_float_is_named(export: Export, tmp_path: Path) -> None:
    assert set(realized(export, "pooled", "w8a8", tmp_path).float_operators) == {"MatMul"}
    assert {"Gelu", "LayerNormalization"} <= set(realized(export, "mixer", "w8a8", tmp_path).float_operators)


def test_a_float_file_has_no_integer_share(tmp_path: Path) -> None:
    graph = fold_bn(small.teacher("plain"))
    path = tmp_path / "model.onnx"
    onnx.save(export_float(graph, small.SHAPE, small.CLASSES, {}), path)
    found = realized_precision(path, layer_macs(graph), product_macs(graph), tmp_path)
    assert found.integer_share == 0.0
    assert found.float_operators


def test_nothing_but_the_file_is_left_behind(export: Export, tmp_path: Path) -> None:
    realized(export, "plain", "w4a4", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
