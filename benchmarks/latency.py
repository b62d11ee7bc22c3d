"""Is the file as fast as ONNX Runtime's own int8 file, at every width?

    python benchmarks/latency.py [--bits w8a8 w6a6 w4a4] [--seconds 6] [--repeats 10]
                                 [--hardware NAME] [NETWORK ...]

NETWORK is ARCHITECTURE@SIDE. Random weights with batch normalization fitted to noise, ranges from
the same noise: neither changes what the kernels do. For each network, width, and one and all
threads, four files are run interleaved (core/export/latency.py): float32, the int8 file that
ONNX Runtime's quantizer makes (core/export/onnxruntime_int8.py), ours, and ours again in a session
of its own: what that differs from the first is what a ratio of this run can differ by chance. The
first and the second network are then measured `--repeats` times more, one file against itself.
Ratios are told of median times and of processor times, since those are the same on a machine that
does other things meanwhile. With `--hardware`, writes benchmarks/latency_<hardware>_<date>.md.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import markdown
import onnx
import onnxruntime
import torch
from architectures import sane

from core.context import RunContext
from core.errors import ExportError
from core.export.latency import Latency, measure_latency
from core.export.onnx import export_float, export_student
from core.export.onnxruntime_int8 import quantize_int8
from core.fake_quant.insert import build_student
from core.methods import registry
from core.networks import architectures
from core.networks.fold_bn import fold_bn
from core.networks.graph import trace
from core.reporting import processor
from core.spec import BitSpec, MinMaxConfig

NETWORKS = [
    "cifar/resnet20@32",
    "torchvision/resnet18@224",
    "torchvision/resnet50@224",
    "torchvision/mobilenet_v2@224",
    "torchvision/mobilenet_v3_large@224",
]
BITS = ["w8a8", "w6a6", "w4a4"]
COLUMNS = ["network", "bits", "threads", "float32 ms", "ONNX Runtime int8 ms", "zsq ms", "rounds",
           "float32 / zsq", "zsq / ONNX Runtime int8", "zsq / zsq"]  # fmt: skip
Shape = tuple[int, int, int]


class Files:
    """The files of one network, in a folder of their own."""

    def __init__(self, network: str, folder: Path) -> None:
        self.name, _, side = network.partition("@")
        self.shape: Shape = (3, int(side), int(side))
        self.classes = 10 if self.name.startswith("cifar/") else 1000
        self.folder = folder
        torch.manual_seed(0)
        built = sane(architectures.build(self.name, num_classes=self.classes), self.shape)
        self.teacher = trace(built, self.shape).requires_grad_(False)
        self.float32, self.int8 = folder / "float32.onnx", folder / "int8.onnx"
        onnx.save(export_float(fold_bn(self.teacher), self.shape, self.classes, {}), self.float32)
        try:
            quantize_int8(self.float32, torch.randn(8, *self.shape), self.int8)
        except ExportError as error:
            print(f"{self.name}: no int8 file of ONNX Runtime's: {error.detail}", flush=True)

    def quantized(self, bits: str) -> Path:
        path = self.folder / f"{bits}.onnx"
        if not path.exists():
            student = build_student(self.teacher, BitSpec.parse(bits)).eval()
            context = RunContext(self.folder, device=torch.device("cpu"))
            registry.run(self.teacher, student, MinMaxConfig(images=8, iterations=0), context)
            onnx.save(export_student(student, self.shape, self.classes, {}).model, path)
        return path

    def measure(self, bits: str, threads: int, seconds: float) -> dict[str, Latency]:
        ours = self.quantized(bits)
        files = {"float32": self.float32, "int8": self.int8, "ours": ours, "again": ours}
        there = {name: path for name, path in files.items() if path.exists()}
        return measure_latency(there, self.shape, threads=threads, seconds=seconds)


def row(files: Files, bits: str, threads: int, found: dict[str, Latency]) -> list[str]:
    full, ours, again = (found[name] for name in ("float32", "ours", "again"))
    int8 = found.get("int8")
    return [
        f"{files.name} {files.shape[1]}",
        bits,
        str(threads or os.cpu_count()),
        _time(full),
        _time(int8) if int8 else "none",
        _time(ours),
        str(ours.runs),
        _ratio(full, ours),
        _ratio(ours, int8) if int8 else "",
        _ratio(again, ours),
    ]


def against_itself(files: Files, bits: str, seconds: float, repeats: int) -> list[list[str]]:
    rows = []
    for threads in (1, 0):
        twice = {"a": files.quantized(bits), "b": files.quantized(bits)}
        medians, processor_times = [], []
        for _ in range(repeats):
            found = measure_latency(twice, files.shape, threads=threads, seconds=seconds)
            medians.append(found["a"].median_ms / found["b"].median_ms)
            processor_times.append(found["a"].processor_ms / found["b"].processor_ms)
        rows.append(
            [
                f"{files.name} {files.shape[1]}",
                str(threads or os.cpu_count()),
                str(repeats),
                f"{min(medians):.3f} to {max(medians):.3f}",
                f"{min(processor_times):.3f} to {max(processor_times):.3f}",
            ]
        )
        print(" | ".join(rows[-1]), flush=True)
    return rows


def _time(latency: Latency) -> str:
    return f"{latency.median_ms:.2f} ({latency.p90_ms:.2f}; {latency.processor_ms:.2f})"


def _ratio(one: Latency, other: Latency) -> str:
    return f"{one.median_ms / other.median_ms:.3f} ({one.processor_ms / other.processor_ms:.3f})"


def write(hardware: str, rows: list[list[str]], itself: list[list[str]], seconds: float) -> None:
    lines = [
        "# Latency against ONNX Runtime's own int8 file",
        "",
        f"{markdown.today()}, {processor()}, {os.cpu_count()} cores, onnxruntime {onnxruntime.__version__},",
        f"load average at the end {os.getloadavg()[1]:.1f}. Times are median (90th percentile; processor",
        f"time) of a batch of one, four files interleaved for {seconds:g} s, spinning off. Ratios are of the",
        "medians (of the processor times). `zsq / zsq` is a second session of the same file in the same run.",
        "",
        *markdown.table(COLUMNS, rows),
        "",
        "## A file against itself",
        "",
        f"Least and greatest ratio of two sessions of one w8a8 file, interleaved for {seconds:g} s.",
        "",
        *markdown.table(["network", "threads", "repeats", "of medians", "of processor times"], itself),
        "",
        "Made by `python benchmarks/latency.py`.",
    ]
    markdown.write(markdown.page("latency", hardware), lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--bits", nargs="+", default=BITS)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--hardware", help="for the table's name: amd-epyc-2core")
    arguments = parser.parse_args()
    rows: list[list[str]] = []
    itself: list[list[str]] = []
    for index, network in enumerate(arguments.networks):
        with tempfile.TemporaryDirectory() as folder:
            files = Files(network, Path(folder))
            for bits in arguments.bits:
                for threads in (1, 0):
                    found = files.measure(bits, threads, arguments.seconds)
                    rows.append(row(files, bits, threads, found))
                    print(" | ".join(rows[-1]), flush=True)
            if index < 2 and arguments.repeats:
                itself += against_itself(files, arguments.bits[0], arguments.seconds, arguments.repeats)
    if arguments.hardware:
        write(arguments.hardware, rows, itself, arguments.seconds)


if __name__ == "__main__":
    main()
