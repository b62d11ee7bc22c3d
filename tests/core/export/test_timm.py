"""timm's networks go all the way: traced, placed, exported, and compared in ONNX Runtime."""

from __future__ import annotations

import pytest
import torch

from core.export.onnx import export_student
from core.export.operators import check_operators
from core.export.parity import compare
from core.fake_quant.insert import build_student
from core.networks import architectures
from core.networks.graph import trace
from core.spec import BitSpec

SHAPE = (3, 32, 32)


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("timm/tf_efficientnet_lite0", "w8a8"),  # pads like TensorFlow, by the size of the image
        ("timm/test_nfnet", "w4a8"),  # standardizes its weights
        ("timm/test_vit", "w8a8"),  # resizes its position embedding
    ],
)
@torch.no_grad()
def test_every_tensor_is_at_most_one_step_apart(name: str, bits: str) -> None:
    torch.manual_seed(0)
    teacher = trace(architectures.build(name, 10, input_shape=SHAPE), SHAPE)
    check_operators(teacher)
    student = build_student(teacher, BitSpec.parse(bits)).eval()
    with student.observing():
        student(torch.randn(8, *SHAPE))
    found = compare(student, export_student(student, SHAPE, 10, {}), torch.randn(4, *SHAPE))
    assert found.tensors and found.largest_step <= 1
