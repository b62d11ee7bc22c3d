"""What is packed comes out of ONNX Runtime as the integers that went in."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto
from torch.nn import functional as F

from core.export.builder import INPUT, OUTPUT, Builder
from core.export.packing import PLANES, Stored, emit_weight, ideal_bytes, pack, pack_bits, planes_of
from core.fake_quant.affine import Grid, weight_grid

WIDTHS = range(2, 9)
LEVELS = {
    "default": ort.SessionOptions().graph_optimization_level,
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


def random_weight(shape: list[int], bits: int, seed: int) -> tuple[torch.Tensor, Grid]:
    """Codes of any value and zero-points of any value, each row its own."""
    random = torch.Generator().manual_seed(seed)
    if bits == 8:
        codes = torch.randint(-127, 128, shape, generator=random)
        return codes, Grid(torch.ones(shape[0]), torch.zeros(shape[0]), -127, 127)
    codes = torch.randint(0, 1 << bits, shape, generator=random)
    zero_point = torch.randint(0, 1 << bits, (shape[0],), generator=random).float()
    return codes, Grid(torch.ones(shape[0]), zero_point, 0, (1 << bits) - 1)


def built(codes: torch.Tensor, grid: Grid, bits: int) -> tuple[Builder, str]:
    b = Builder()
    scale = b.constant(grid.scale.numpy(), "scale")
    integers, _ = emit_weight(b, codes.int().numpy(), grid, bits, [scale], "layer.weight")
    return b, integers


def run(
    b: Builder, result: str, shape: torch.Size, level: Any, x: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """What ONNX Runtime computes for `result`, as floats."""
    x = np.zeros((1, 1), np.float32) if x is None else x
    row = b.node("Reshape", [result, b.shared([1, -1], np.int64)], "row")
    floats = b.node("Cast", [row], "floats", to=TensorProto.FLOAT)
    model, _ = b.model(x.shape[1:], shape.numel(), floats, {})
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (found,) = session.run([OUTPUT], {INPUT: x})
    return found.reshape(shape)  # type: ignore[no-any-return]


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    bits=st.sampled_from(WIDTHS),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_integers_are_code_minus_zero_point(level: str, shape: list[int], bits: int, seed: int) -> None:
    codes, grid = random_weight(shape, bits, seed)
    found = run(*built(codes, grid, bits), codes.shape, LEVELS[level])
    expected = codes - grid.zero_point.view(-1, *[1] * (len(shape) - 1))
    assert np.array_equal(found, expected.numpy())


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=40, deadline=None)
@given(
    groups=st.integers(1, 4),
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 5),
    kernel=st.integers(1, 3),
    bits=st.sampled_from(WIDTHS),
    seed=st.integers(0, 2**32 - 1),
)
def test_integer_kernels_compute_with_them(
    level: str, groups: int, inputs: int, outputs: int, kernel: int, bits: int, seed: int
) -> None:
    codes, grid = random_weight([groups * outputs, inputs, kernel, kernel], bits, seed)
    random = np.random.default_rng(seed)
    x = random.integers(0, 256, (2, groups * inputs, 5, 5)).astype(np.float32)
    b, weight = built(codes, grid, bits)
    image = b.node("Cast", [INPUT], "codes", to=TensorProto.UINT8)
    expected = F.conv2d(
        torch.from_numpy(x).double(), codes.double() - grid.zero_point.view(-1, 1, 1, 1), groups=groups
    )
    sums = b.node("ConvInteger", [image, weight], "sums", group=groups)
    found = run(b, sums, expected.shape, LEVELS[level], x)
    assert np.array_equal(found, expected.numpy())


@pytest.mark.parametrize("bits", WIDTHS)
def test_the_grid_of_a_weight_fits(bits: int) -> None:
    w_OI = torch.randn(16, 100) + torch.randn(16, 1)
    grid = weight_grid(w_OI, bits)
    codes = grid.codes(w_OI)
    found = run(*built(codes, grid, bits), codes.shape, LEVELS["default"])
    assert np.array_equal(found, (codes - grid.zero_point[:, None]).numpy())


@pytest.mark.parametrize("bits", WIDTHS)
def test_a_weight_takes_its_bits_and_a_zero_point_for_each_row(bits: int) -> None:
    b, _ = built(*random_weight([16, 100], bits, 0), bits)
    stored = {name: t for name, t in b.initializers.items() if name.startswith("layer.")}
    zero_points = 16 if bits < 8 else 0
    assert sum(len(t.raw_data) for t in stored.values()) == 1600 * bits // 8 + zero_points
    assert not any(t.int32_data for t in stored.values())


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(PLANES)), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_planes_join_to_the_codes(bits: int, count: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, count)
    joined = np.zeros_like(codes)
    for plane, width in zip(planes_of(codes, bits), PLANES[bits], strict=True):
        assert plane.max() < 1 << width
        joined = (joined << width) + plane
    assert np.array_equal(joined, codes)
    assert sum(PLANES[bits]) == bits


def test_the_first_value_stands_in_the_lowest_bits() -> None:
    assert pack_bits(np.array([1, 0, 0, 0, 0, 0, 0, 1], np.uint8)) == bytes([0b10000001])
    # Nine bits take two bytes: rows of two, of which the last are filled up.
    assert pack_bits(np.array([1, 0, 0, 0, 0, 0, 0, 1, 1], np.uint8)) == bytes([0b00010001, 0b00001000])
    assert pack(np.array([1, 2, 3, 0, 2], np.uint8), 2) == bytes([0b00111001, 2])
    assert pack(np.array([1, 15, 7], np.uint8), 4) == bytes([0xF1, 7])


@pytest.mark.parametrize("bits", sorted(PLANES))
def test_onnx_reads_the_planes_as_written(bits: int) -> None:
    codes, grid = random_weight([5, 7], bits, 1)
    b, _ = built(codes, grid, bits)
    for plane, width in zip(planes_of(codes.numpy(), bits), PLANES[bits], strict=True):
        if width > 1:
            tensor = b.initializers[f"layer.weight.{width}bit"]
            assert tensor.data_type == {2: TensorProto.UINT2, 4: TensorProto.UINT4}[width]
            assert np.array_equal(onnx.numpy_helper.to_array(tensor).astype(np.uint8), plane)


@pytest.mark.parametrize("value", [-1, 8])
def test_what_three_bits_cannot_hold_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="3 bits hold 0 to 7"):
        planes_of(np.array([0, value]), 3)


@pytest.mark.parametrize("bits", WIDTHS)
def test_only_two_bit_planes_ask_for_a_new_opset(bits: int) -> None:
    b, _ = built(*random_weight([4, 4], bits, 0), bits)
    newer = bits in (2, 3, 6, 7)
    assert (b.opset, b.ir_version) == ((25, 13) if newer else (21, 10))


def test_a_function_is_written_once() -> None:
    b = Builder()
    codes, grid = random_weight([4, 4], 3, 0)
    scale = [b.constant(grid.scale.numpy(), "scale")]
    names = [emit_weight(b, codes.int().numpy(), grid, 3, scale, f"{layer}.weight")[1] for layer in "ab"]
    model, _ = b.model((1,), 1, b.node("Add", names, "sum"), {})
    assert [function.name for function in model.functions] == ["Weight3"]
    assert [node.op_type for node in model.graph.node] == ["Weight3", "Weight3", "Add", "Identity"]


def test_ideal_bytes_by_hand() -> None:
    assert ideal_bytes([Stored(100, 4, 10, bias=True, zero_points=True)]) == 50 + 10 * (4 + 4 + 1)
    layers = [Stored(3, 3, 1, bias=False, zero_points=True), Stored(8, 8, 2, bias=True, zero_points=False)]
    assert ideal_bytes(layers) == 2 + 5 + 8 + 16
