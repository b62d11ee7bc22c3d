"""The report of a job as tables for a terminal. What was not measured is shown as a dash."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

DASH = "–"
NETWORKS = {
    "float32": "float32",
    "minmax": "round to nearest",
    "student": "quantized",
    "onnxruntime": "quantized, in ONNX Runtime",
}


def _at(data: Any, *path: str) -> Any:
    for key in path:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def percent(value: Any) -> str:
    return f"{value:.2f} %" if isinstance(value, int | float) else DASH


def size(value: Any) -> str:
    """Bytes, in KiB or MiB from 1024 up."""
    if not isinstance(value, int | float):
        return DASH
    for unit in ("B", "KiB", "MiB"):
        if value < 1024 or unit == "MiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def milliseconds(value: Any) -> str:
    return f"{value:.2f} ms" if isinstance(value, int | float) else DASH


def accuracy_table(report: Mapping[str, Any], method: str) -> Table:
    """One row a network: top-1 in percent, how many of how many images, the 95 % interval."""
    table = Table(title="Accuracy on the evaluation set", title_justify="left")
    table.add_column("network")
    for name in ("top-1", "correct", "95 % interval"):
        table.add_column(name, justify="right")
    for key, label in NETWORKS.items():
        row = _at(report, "accuracy", key)
        if key == "student":
            label = f"{method}, fake-quantized"
        elif key == "onnxruntime":
            label = f"{method}, ONNX file in ONNX Runtime"
        counts = f"{_at(row, 'correct')} of {_at(row, 'total')}" if _at(row, "total") else DASH
        low, high = _interval(_at(row, "ci95"))
        table.add_row(label, percent(_at(row, "top1")), counts, f"{low} … {high}" if low else DASH)
    return table


def _interval(value: Any) -> tuple[str, str]:
    if isinstance(value, list | tuple) and len(value) == 2:
        return f"{value[0]:.2f}", f"{value[1]:.2f}"
    return "", ""


def file_table(report: Mapping[str, Any]) -> Table:
    """float32 against what was made: bytes (and what the bits alone would take), latency of one image,
    also that of the int8 file which ONNX Runtime's own quantizer makes. The ratio is to float32."""
    table = Table(title="File and speed", title_justify="left")
    table.add_column("")
    for name in ("float32", "ONNX Runtime's int8", "quantized", "ratio"):
        table.add_column(name, justify="right")
    full, ours = _at(report, "artifact", "float32_bytes"), _at(report, "artifact", "bytes")
    ideal = _at(report, "artifact", "ideal_bytes")
    table.add_row("size", size(full), "", size(ours), _ratio(full, ours))
    table.add_row("size, ideal (bits × weights)", "", "", size(ideal), _ratio(full, ideal))
    for measured in _latencies(report):
        threads = _at(measured, "threads")
        on = f", {threads} thread{'s' if threads != 1 else ''}" if threads else ""
        for label, key in (("median", "median_ms"), ("p90", "p90_ms")):
            files = ("float32", "onnxruntime_int8", "quantized")
            before, int8, after = (_at(measured, file, key) for file in files)
            shown = map(milliseconds, (before, int8, after))
            table.add_row(f"latency{on}, {label}", *shown, _ratio(before, after))
    share = _at(report, "verification", "integer_mac_share")
    if isinstance(share, int | float):
        table.add_row("multiplications in integer kernels", "", "", f"{share:.1%}", "")
    return table


def _latencies(report: Mapping[str, Any]) -> list[Any]:
    """One entry a number of threads; at least one, so that what is missing is seen to be."""
    found = report.get("latency")
    return found if isinstance(found, list) and found else [found]


def _ratio(before: Any, after: Any) -> str:
    if isinstance(before, int | float) and isinstance(after, int | float) and after:
        return f"{before / after:.2f}×"
    return DASH


def print_report(out: Console, report: Mapping[str, Any], method: str) -> None:
    out.print(accuracy_table(report, method.upper() if method == "zaq" else method))
    out.print(file_table(report))
