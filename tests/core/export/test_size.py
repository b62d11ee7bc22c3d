"""A file is hardly larger than the numbers in it."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import fx

from core.export.onnx import export_float, export_student
from core.export.packing import Stored, ideal_bytes
from core.fake_quant.insert import build_student
from core.networks.architectures import build, defaults
from core.networks.fold_bn import fold_bn
from core.networks.graph import trace
from core.spec import BitSpec

METADATA = {"zsq.bits": "x" * 1000}  # about what a job writes


@cache
def traced(architecture: str) -> tuple[fx.GraphModule, tuple[int, int, int]]:
    torch.manual_seed(0)
    shape = defaults(architecture).input_shape
    return trace(build(architecture), shape).requires_grad_(False), shape


@cache
def sizes(architecture: str, bits: str) -> tuple[int, int, int]:
    """(bytes of the file, ideal, layers) of a student with random weights."""
    graph, shape = traced(architecture)
    student = build_student(graph, BitSpec.parse(bits))
    with torch.no_grad(), student.observing():
        student(torch.randn(1, *shape))
    layers = student.layers()
    ideal = ideal_bytes(
        Stored(layer.weight.numel(), layer.bits, len(layer.weight), layer.bias is not None, layer.bits < 8)
        for layer in layers.values()
    )
    classes = defaults(architecture).num_classes
    return export_student(student, shape, classes, METADATA).model.ByteSize(), ideal, len(layers)


@cache
def float32_bytes(architecture: str) -> int:
    graph, shape = traced(architecture)
    model = export_float(fold_bn(graph), shape, defaults(architecture).num_classes, {})
    return len(model.SerializeToString())


@pytest.mark.parametrize("weight", range(2, 9))
@pytest.mark.parametrize("architecture", ["cifar/resnet20", "torchvision/resnet18"])
def test_a_file_is_as_small_as_its_bits(architecture: str, weight: int) -> None:
    file, ideal, layers = sizes(architecture, f"w{weight}a{8 if architecture.startswith('torch') else 4}")
    assert ideal < file <= 1.03 * ideal + 500 * layers


@pytest.mark.parametrize(("bits", "share"), [("w2a8", 0.066), ("w4a8", 0.128), ("w6a8", 0.19)])
def test_shares_of_the_float32_file(bits: str, share: float) -> None:
    file, _, _ = sizes("torchvision/resnet18", bits)
    assert file <= share * float32_bytes("torchvision/resnet18")
