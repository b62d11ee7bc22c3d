"""Exported students, made once a session."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from core.export.onnx import Exported, export_student
from core.fake_quant.insert import Student
from core.spec import BitSpec
from tests.core import small

Export = Callable[..., tuple[Student, Exported]]


@cache
def _export(name: str, bits: str, bias: int, profile: str) -> tuple[Student, Exported]:
    parsed = BitSpec.parse(bits)
    student = small.student(name, BitSpec(parsed.weight, parsed.activation, bias), profile=profile)
    exported = export_student(student, small.SHAPE, small.CLASSES, {"zsq.mean": "[0, 0, 0]"}, profile)
    return student, exported


@pytest.fixture(scope="session")
def export() -> Export:
    """(network of tests.core.small, "wXaY", bias bits = 32, profile = "packed") -> student and file."""

    def make(
        name: str, bits: str = "w4a4", bias: int = 32, profile: str = "packed"
    ) -> tuple[Student, Exported]:
        return _export(name, bits, bias, profile)

    return make
