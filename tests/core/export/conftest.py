"""Exported students, made once a session."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from core.export.onnx import Exported, export_student
from core.fake_quant.insert import Student
from core.spec import BitSpec
from tests.core import small

Export = Callable[[str, str], tuple[Student, Exported]]


@cache
def _export(name: str, bits: str, bias: int) -> tuple[Student, Exported]:
    parsed = BitSpec.parse(bits)
    student = small.student(name, BitSpec(parsed.weight, parsed.activation, bias))
    return student, export_student(student, small.SHAPE, small.CLASSES, {"zsq.mean": "[0, 0, 0]"})


@pytest.fixture(scope="session")
def export() -> Callable[..., tuple[Student, Exported]]:
    """(network of tests.core.small, "wXaY", bias bits = 32) -> the student and its file."""

    def make(name: str, bits: str = "w4a4", bias: int = 32) -> tuple[Student, Exported]:
        return _export(name, bits, bias)

    return make
