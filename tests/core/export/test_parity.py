"""ONNX Runtime computes what the student computes: operator by operator, one step at most."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from core.export.onnx import Exported
from core.export.parity import Parity, TensorParity, compare
from core.export.session import open_session, run
from core.fake_quant.insert import Student
from tests.core import small

Export = Callable[..., tuple[Student, Exported]]

WIDTHS = ["w8a8", "w7a5", "w6a8", "w5a7", "w4a4", "w2a8", "w3a3"]


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("name", small.NETWORKS)
def test_every_tensor_is_at_most_one_step_apart(export: Export, name: str, bits: str) -> None:
    student, exported = export(name, bits)
    found = compare(student, exported, small.images(16, seed=3))
    assert len(found.tensors) == len(student.activation_quantizers())
    assert found.images == 16
    assert found.largest_step <= 1
    assert found.different_share < 5e-3  # in a 2-bit network many elements share one rounding tie
    assert found.logits_error < 1e-5


@pytest.mark.parametrize("bias", [8, 16])
@pytest.mark.parametrize("name", ["plain", "depthwise", "mixer"])
def test_narrow_biases_agree_too(export: Export, name: str, bias: int) -> None:
    student, exported = export(name, "w4a4", bias)
    found = compare(student, exported, small.images(16, seed=3))
    assert found.largest_step <= 1
    assert found.logits_error < 1e-5


@torch.no_grad()
def test_end_to_end_the_file_names_the_students_classes(export: Export) -> None:
    student, exported = export("plain", "w4a4")
    x = small.images(200, seed=5)
    same = run(open_session(exported.model), x).argmax(1) == student(x).argmax(1)
    assert float(same.float().mean()) >= 0.99


def test_a_difference_is_seen(export: Export) -> None:
    """The comparison itself works: a file with another scale does not pass."""
    student, exported = export("plain", "w8a8")
    quantizer = next(q for n, q in student.activation_quantizers().items() if n.startswith("relu"))
    scale = quantizer.scale.detach().clone()
    try:
        with torch.no_grad():
            quantizer.scale.mul_(1.1)
        found = compare(student, exported, small.images(4))
        assert found.largest_step > 1
        first = found.most_different(1)[0]
        assert first.different == max(tensor.different for tensor in found.tensors) > 0
        assert found.elements == sum(tensor.elements for tensor in found.tensors) > found.different
    finally:
        with torch.no_grad():
            quantizer.scale.copy_(scale)


def test_shares_are_of_all_elements() -> None:
    found = Parity([TensorParity("a", 30, 3, 1), TensorParity("b", 70, 2, 2)], 0.0, 1)
    assert (found.different, found.elements, found.different_share) == (5, 100, 0.05)
    assert found.largest_step == 2
    assert Parity([], 0.0, 0).different_share == 0.0


def test_the_tensors_with_most_differences_come_first() -> None:
    counts = [0, 3, 9, 1, 0, 4]
    found = Parity([TensorParity(str(n), 100, n, min(n, 1)) for n in counts], 0.0, 1)
    assert [tensor.name for tensor in found.most_different(3)] == ["9", "4", "3"]
    assert [tensor.different for tensor in found.most_different(9)] == [9, 4, 3, 1]
