"""ONNX Runtime's own int8 file: really int8, close to float32, and never more than a reason when it fails."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto

from core.errors import ExportError
from core.evaluate.metrics import sqnr_db
from core.export import onnxruntime_int8
from core.export.onnx import export_float
from core.export.onnxruntime_int8 import quantize_int8
from core.export.session import open_session, run
from core.networks.fold_bn import fold_bn
from tests.core import small


def float_file(folder: Path, name: str) -> Path:
    path = folder / "float32.onnx"
    onnx.save(export_float(fold_bn(small.teacher(name)), small.SHAPE, small.CLASSES, {}), path)
    return path


@pytest.fixture
def made(tmp_path: Path) -> Path:
    target = tmp_path / "int8.onnx"
    quantize_int8(float_file(tmp_path, "plain"), small.images(8), target)
    return target


def test_weights_are_int8_per_channel_and_activations_uint8(made: Path) -> None:
    graph = onnx.load(made).graph
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    read = [n.input for n in graph.node if n.op_type == "DequantizeLinear"]
    weights = [initializers[i[0]] for i in read if i[0] in initializers and len(initializers[i[0]].dims) > 1]
    assert {tensor.data_type for tensor in weights} == {TensorProto.INT8}
    scales = {tuple(initializers[i[1]].dims) for i in read if i[0] in initializers}
    assert {(8,), (16,)} <= scales  # one for each output channel
    zero_points = [initializers[n.input[2]] for n in graph.node if n.op_type == "QuantizeLinear"]
    assert {tensor.data_type for tensor in zero_points} == {TensorProto.UINT8}


def test_every_layer_runs_in_an_integer_kernel(made: Path, tmp_path: Path) -> None:
    open_session(made, optimized=tmp_path / "optimized.onnx")
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert kinds["QLinearConv"] == 3 and kinds["QGemm"] == 1
    assert kinds["Conv"] == kinds["FusedConv"] == kinds["Gemm"] == 0


def test_it_computes_the_same_network(made: Path, tmp_path: Path) -> None:
    x = small.images(8)
    expected = run(open_session(float_file(tmp_path, "plain")), x)
    assert sqnr_db(expected, run(open_session(made), x)) > 20


def test_nothing_else_stays_and_nothing_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Of attention, the quantizer warns a great deal."""
    source = float_file(tmp_path, "attention")
    caplog.clear()
    handlers, elsewhere = list(logging.root.handlers), set(Path(tempfile.gettempdir()).glob("*quant.*"))
    quantize_int8(source, small.images(2), tmp_path / "int8.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"float32.onnx", "int8.onnx"}
    assert set(Path(tempfile.gettempdir()).glob("*quant.*")) == elsewhere
    said = capfd.readouterr()
    assert (said.out, said.err, caplog.text) == ("", "", "")
    assert logging.root.handlers == handlers and logging.root.isEnabledFor(logging.ERROR)


def test_a_network_it_cannot_take_is_a_reason_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "int8.onnx"
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"this is no model")
    with pytest.raises(ExportError) as caught:
        quantize_int8(broken, small.images(2), target)
    assert caught.value.detail and "\n" not in caught.value.detail
    with pytest.raises(ExportError):
        quantize_int8(float_file(tmp_path, "plain"), torch.zeros(2, 3, 5, 7)[:, :2], target)
    monkeypatch.setattr(onnxruntime_int8, "MAX_BYTES", 1000)
    with pytest.raises(ExportError, match="float32 file"):
        quantize_int8(float_file(tmp_path, "plain"), small.images(2), target)
    assert not target.exists()
