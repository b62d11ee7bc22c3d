"""What is stored in a type of ONNX comes out of DequantizeLinear as the numbers that it stands for."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from core.export.builder import Builder
from core.export.containers import emit_contained
from core.export.session import open_session
from core.fake_quant.affine import weight_grid

TYPES = {8: TensorProto.INT8, 4: TensorProto.INT4, 2: TensorProto.INT2}


def random_codes(bits: int, shape: tuple[int, ...] = (5, 3, 3, 3)) -> np.ndarray:
    top = 1 << (bits - 1)
    return np.random.default_rng(bits).integers(-top, top, shape).astype(np.int32)


def built(codes: np.ndarray, width: int) -> tuple[Builder, str, str]:
    b = Builder()
    scale = b.constant(np.arange(1, len(codes) + 1, dtype=np.float32) / 7, "scale")
    return b, *emit_contained(b, codes, width, scale, "layer.weight")


@pytest.mark.parametrize(("bits", "width"), [(2, 2), (2, 4), (2, 8), (3, 4), (4, 4), (5, 8), (8, 8)])
@pytest.mark.parametrize("shape", [(5, 3, 3, 3), (7, 5), (1, 1)])
def test_onnx_runtime_reads_the_numbers(bits: int, width: int, shape: tuple[int, ...]) -> None:
    codes = random_codes(bits, shape)
    b, _, floats = built(codes, width)
    row = b.node("Reshape", [floats, b.shared([1, -1], np.int64)], "row")
    model, _ = b.model((1,), codes.size, row, {})
    onnx.checker.check_model(model, full_check=True)
    (found,) = open_session(model).run(None, {"image": np.zeros((1, 1), np.float32)})
    scale = np.arange(1, len(codes) + 1, dtype=np.float32).reshape(-1, *[1] * (codes.ndim - 1)) / 7
    assert np.array_equal(found.reshape(shape), codes.astype(np.float32) * scale)


@pytest.mark.parametrize("width", TYPES)
def test_a_weight_takes_the_bits_of_its_type(width: int) -> None:
    b, integers, _ = built(random_codes(width), width)
    tensor = b.initializers[integers]
    assert (tensor.name, tensor.data_type) == ("layer.weight", TYPES[width])
    assert len(tensor.raw_data) == -(-5 * 27 * width // 8)
    assert np.array_equal(onnx.numpy_helper.to_array(tensor).astype(np.int32), random_codes(width))


@pytest.mark.parametrize("width", TYPES)
def test_only_int2_asks_for_a_new_opset(width: int) -> None:
    b, _, _ = built(random_codes(width), width)
    assert (b.opset, b.ir_version) == ((25, 13) if width == 2 else (21, 10))


@pytest.mark.parametrize(("width", "value"), [(2, 2), (2, -3), (4, 8), (4, -9), (8, 128)])
def test_what_a_type_cannot_hold_is_refused(width: int, value: int) -> None:
    with pytest.raises(ValueError, match=f"INT{width} holds"):
        built(np.array([[0, value]], np.int32), width)


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_symmetric_grid_of_a_weight_fits_the_next_larger_type(bits: int) -> None:
    w_OI = torch.randn(4, 30, generator=torch.Generator().manual_seed(bits))
    codes = weight_grid(w_OI, bits, symmetric=True).codes(w_OI).numpy()
    width = min(each for each in TYPES if each >= bits)
    b, integers, _ = built(codes, width)
    assert np.array_equal(onnx.numpy_helper.to_array(b.initializers[integers]).astype(np.int32), codes)
