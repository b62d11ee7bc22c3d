"""What is packed comes out of ONNX Runtime as the integers that went in."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from core.export.builder import IR_VERSION, OPSET
from core.export.packing import ideal_bytes, pack_int4, weight_nodes
from core.fake_quant.affine import weight_grid

shapes = st.lists(st.integers(1, 7), min_size=1, max_size=4)


def loaded(
    initializers: list[onnx.TensorProto], nodes: list[onnx.NodeProto], name: str, rank: int
) -> NDArray[np.int8]:
    """The tensor as ONNX Runtime computes it at its default settings."""
    nodes = [*nodes, helper.make_node("Identity", [name], ["result"])]
    result = helper.make_tensor_value_info("result", TensorProto.INT8, [None] * rank)
    graph = helper.make_graph(nodes, "packed", [], [result], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {})
    return found  # type: ignore[no-any-return]


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(0, 2**32 - 1))
def test_int4_comes_out_as_it_went_in(shape: list[int], seed: int) -> None:
    values = np.random.default_rng(seed).integers(-8, 8, shape)
    tensor = pack_int4(values, "packed")
    cast = helper.make_node("Cast", ["packed"], ["cast"], to=TensorProto.INT8)
    assert np.array_equal(loaded([tensor], [cast], "cast", len(shape)), values)
    assert len(tensor.raw_data) == -(-values.size // 2)
    assert not tensor.int32_data


@pytest.mark.parametrize("value", [-9, 8])
def test_what_int4_cannot_hold_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="-8 to 7"):
        pack_int4(np.array([0, value]), "packed")


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(2, 8), st.integers(0, 2**32 - 1))
def test_kernels_see_code_minus_zero_point(shape: list[int], bits: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    w_OI = torch.randn(*shape, 2, generator=random) + torch.randn(
        shape[0], *[1] * len(shape), generator=random
    )
    grid = weight_grid(w_OI, bits)
    codes = grid.codes(w_OI)
    initializers, nodes, name = weight_nodes(codes.numpy(), grid, bits, "layer.weight")
    expected = codes - grid.zero_point.int().view(-1, *[1] * len(shape))
    assert np.array_equal(loaded(initializers, nodes, name, len(shape) + 1), expected.numpy())


def test_four_bits_take_half_a_byte_and_a_zero_point_for_each_row() -> None:
    w_OI = torch.randn(16, 100)
    grid = weight_grid(w_OI, 4)
    initializers, _, _ = weight_nodes(grid.codes(w_OI).numpy(), grid, 4, "w")
    assert sum(len(tensor.raw_data) for tensor in initializers) == 16 * 100 // 2 + 16


def test_ideal_bytes_by_hand() -> None:
    assert ideal_bytes([(100, 4, 10)]) == 50 + 10 * 9
    assert ideal_bytes([(3, 3, 1), (8, 8, 2)]) == 2 + 9 + 8 + 18
