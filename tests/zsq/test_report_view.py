"""A report with holes is shown with dashes: a number is measured, or it is not there."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from zsq.report_view import print_report, size
from zsq.terminal import duration


@pytest.mark.parametrize(
    "report",
    [
        {},
        {"accuracy": None, "artifact": None, "latency": None},
        {"accuracy": {"float32": None, "student": {"top1": None, "ci95": None}}},
        {"artifact": {"bytes": 10, "float32_bytes": 0}, "latency": {"float32": {"median_ms": 1.0}}},
    ],
)
def test_holes_are_dashes(report: dict[str, object]) -> None:
    out = io.StringIO()
    print_report(Console(file=out, width=120), report, "zaq")
    shown = out.getvalue()
    assert "–" in shown and "None" not in shown and "nan" not in shown


def test_units() -> None:
    assert [size(n) for n in (0, 1023, 1024, 5 * 2**20, 3 * 2**30)] == [
        "0 B", "1023 B", "1.0 KiB", "5.0 MiB", "3072.0 MiB",
    ]  # fmt: skip
    assert [duration(s) for s in (None, 0.4, 59.4, 61, 3661)] == ["–", "0 s", "59 s", "1:01", "1:01:01"]
