"""Which architectures go all the way: trace, place, quantize (minmax), export, run in ONNX Runtime.

    python benchmarks/architectures.py [--bits w8a8] [--family-only] [NAME ...]

Random weights (batch normalization fitted to noise, so that activations have a sane size), small
inputs. For each: the largest step between an operator of the file and the student's, given identical
integer inputs; the share of those integers that differ; the share of multiply-accumulates in
integer kernels; what stays float. Writes benchmarks/architectures_<hardware>_<date>.md.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import tempfile
import time
from pathlib import Path

import onnx
import torch
from torch import nn

from core.context import RunContext
from core.errors import ZsqError
from core.export.onnx import export_student
from core.export.operators import check_operators
from core.export.parity import compare
from core.export.realized import realized_precision
from core.fake_quant.insert import build_student
from core.methods import registry
from core.networks import architectures
from core.networks.graph import trace
from core.networks.macs import layer_macs, product_macs
from core.spec import BitSpec, MinMaxConfig

# One of each family of torchvision, and the CIFAR ResNet.
FAMILIES = [
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet",
    "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small",
    "regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnet50", "resnext50_32x4d", "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0", "squeezenet1_0", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vgg16_bn",
    "vit_b_16", "wide_resnet50_2", "densenet169", "mnasnet1_3", "efficientnet_b1", "regnet_y_800mf",
    "resnet34",
]  # fmt: skip
SIDES = {"inception_v3": 96, "vit_b_16": 224, "maxvit_t": 224, "alexnet": 80}


def sane(network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Fits the running statistics to noise."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    with torch.no_grad():
        network(torch.randn(8, *shape))
    return network.eval()


def check(name: str, bits: str, scratch: Path) -> dict[str, object]:
    torch.manual_seed(0)
    short = name.partition("/")[2]
    side = 32 if name.startswith("cifar/") else SIDES.get(short, 64)
    shape = (3, side, side)
    began = time.perf_counter()
    network = sane(architectures.build(name, num_classes=10), shape)
    teacher = trace(network, shape)
    check_operators(teacher)
    student = build_student(teacher, BitSpec.parse(bits)).eval()
    context = RunContext(scratch, device=torch.device("cpu"))
    registry.run(teacher, student, MinMaxConfig(images=8, iterations=2), context)
    exported = export_student(student, shape, 10, {})
    path = scratch / "model.onnx"
    onnx.save(exported.model, path)
    x = torch.randn(4, *shape)
    parity = compare(student, exported, x)
    realized = realized_precision(path, layer_macs(student.graph), product_macs(student.graph), scratch)
    floats = ", ".join(f"{kind} ×{entry['count']}" for kind, entry in realized.float_operators.items())
    return {
        "network": name,
        "input": side,
        "layers": len(student.placement.layers),
        "largest step": parity.largest_step,
        "differ %": f"{100 * parity.different_share:.3f}",
        "integer MACs %": f"{100 * realized.integer_share:.2f}",
        "float operators": floats or "none",
        "conversions": realized.conversions,
        "seconds": f"{time.perf_counter() - began:.0f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--bits", default="w8a8")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    names = arguments.names or [f"torchvision/{name}" for name in FAMILIES] + ["cifar/resnet20"]
    works: list[dict[str, object]] = []
    fails: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            try:
                row = check(name, arguments.bits, Path(folder))
                works.append(row)
                print(" | ".join(str(value) for value in row.values()), flush=True)
            except ZsqError as error:
                fails.append((name, f"`{error.code}`: {error.detail}"))
                print(f"{name}: {error.code}: {error.detail}", flush=True)
    if arguments.write:
        write(works, fails, arguments.bits)


def write(works: list[dict[str, object]], fails: list[tuple[str, str]], bits: str) -> None:
    today = datetime.date.today().isoformat()
    lines = [
        f"# Architectures at {bits}, `minmax`, ONNX Runtime on the CPU",
        "",
        f"{platform.machine()}, {today}, random weights. `largest step` compares every",
        "operator of the file with the student's, given identical integer inputs.",
        "",
        "| " + " | ".join(works[0]) + " |",
        "|" + " --- |" * len(works[0]),
        *("| " + " | ".join(str(value) for value in row.values()) + " |" for row in works),
        "",
        "## What does not work, and why",
        "",
        *([f"- `{name}`: {why}" for name, why in fails] or ["Every architecture that was tried works."]),
    ]
    path = Path(__file__).parent / f"architectures_cpu_{today}.md"
    path.write_text("\n".join(lines) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
