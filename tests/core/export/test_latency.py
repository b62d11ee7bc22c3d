"""Timings are taken in turns and come as median and 90th percentile; what they are is not asserted."""

from __future__ import annotations

from pathlib import Path

import onnx

from core.export.latency import measure_latency
from core.export.onnx import export_float
from core.networks.fold_bn import fold_bn
from tests.core import small


def test_every_file_is_run_as_often_as_the_others(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(export_float(fold_bn(small.teacher("plain")), small.SHAPE, small.CLASSES, {}), path)
    found = measure_latency({"a": path, "b": path}, (3, 12, 12), threads=1, seconds=0.0)
    assert set(found) == {"a", "b"}
    assert {entry.runs for entry in found.values()} == {5}
    assert all(0 < entry.median_ms <= entry.p90_ms for entry in found.values())
