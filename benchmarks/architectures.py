"""Which architectures go all the way: trace, place, quantize (minmax), export, run in ONNX Runtime.

    python benchmarks/architectures.py [--bits w8a8] [--timm] [--limit 90] [--write] [NAME ...]

Without names: one network of each family of torchvision, or with --timm the smallest of each of timm's
(its own test networks and those above 60 million parameters left out) and a few that are much used. Random
weights (batch normalization fitted to noise, so that activations have a sane size, and nothing left at
zero), small inputs. For each: the largest step between an operator of the file and the student's, given
identical integer inputs; the share of those integers that differ; the share of multiply-accumulates in
integer kernels; what stays float. Each network has a process of its own, and --limit seconds of processor
time. --write writes benchmarks/architectures_[timm_]<hardware>_<date>.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import markdown
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
from core.networks import architectures, catalogue
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
# What timm is used for most, besides the smallest of each family.
MUCH_USED = [
    "tf_efficientnet_lite0", "efficientnet_lite0", "tf_efficientnet_b0", "efficientnet_b0", "mixnet_s",
    "mobilenetv2_100", "mobilenetv3_large_100", "mobilenetv4_conv_small", "ghostnet_100", "hardcorenas_a",
    "fbnetc_100", "resnet18", "resnet50", "resnet50d", "seresnet50", "ecaresnet26t", "resnetv2_50x1_bit",
    "repvgg_a0", "vgg11_bn", "convnext_atto", "convnextv2_atto", "dm_nfnet_f0", "darknet53",
    "vit_base_patch16_224",
]  # fmt: skip
SIDES = (64, 80, 96, 128, 160, 192, 224, 256)  # the smallest that the network takes
LARGEST = 60_000_000  # parameters


def sane(network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Fits the running statistics to noise; gains and tables that begin as zeros are as after training."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not name.endswith("bias") and not parameter.any():
                parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.1)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    with torch.no_grad():
        network(torch.randn(8, *shape))
    return network.eval()


def smallest(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """The network, and the smallest square image that it takes, (3, S, S)."""
    _, height, width = architectures.defaults(name).input_shape
    for side in [side for side in SIDES if side < min(height, width)]:
        try:
            network = architectures.build(name, 10, input_shape=(3, side, side))
            with torch.no_grad():
                if network(torch.randn(2, 3, side, side)).shape == (2, 10):
                    return network, (3, side, side)
        except (ZsqError, RuntimeError, AssertionError, ValueError, IndexError, ZeroDivisionError):
            continue
    return architectures.build(name, 10), (3, height, width)


def check(name: str, bits: str, scratch: Path) -> dict[str, object]:
    torch.manual_seed(0)
    began = time.perf_counter()
    network, shape = smallest(name)
    teacher = trace(sane(network, shape), shape)
    check_operators(teacher)
    student = build_student(teacher, BitSpec.parse(bits)).eval()
    context = RunContext(scratch, device=torch.device("cpu"))
    registry.run(teacher, student, MinMaxConfig(images=8, iterations=2), context)
    exported = export_student(student, shape, 10, {})
    path = scratch / "model.onnx"
    onnx.save(exported.model, path)
    parity = compare(student, exported, torch.randn(4, *shape))
    realized = realized_precision(path, layer_macs(student.graph), product_macs(student.graph), scratch)
    floats = ", ".join(f"{kind} ×{entry['count']}" for kind, entry in realized.float_operators.items())
    return {
        "network": name,
        "input": shape[1],
        "layers": len(student.placement.layers),
        "largest step": parity.largest_step,
        "differ %": f"{100 * parity.different_share:.3f}",
        "integer MACs %": f"{100 * realized.integer_share:.2f}",
        "float operators": floats or "none",
        "conversions": realized.conversions,
        "seconds": f"{time.perf_counter() - began:.0f}",
    }


def check_alone(name: str, bits: str, limit: int) -> dict[str, Any] | str:
    """The row of a network that works, or why it does not."""
    command = [sys.executable, __file__, "--child", "--bits", bits, "--limit", str(limit), name]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == -signal.SIGXCPU:
        return f"took longer than {limit} s of processor time"
    if done.returncode:
        return f"**defect**: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
    answer: dict[str, Any] | str = json.loads(done.stdout.splitlines()[-1])
    return answer


def child(name: str, bits: str, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        try:
            print(json.dumps(check(name, bits, Path(folder))))
        except ZsqError as error:
            print(json.dumps(f"`{error.code}`: {error.detail}"))


def timm_names() -> list[str]:
    chosen: dict[str, dict[str, Any]] = {}
    for entry in sorted(catalogue.load(), key=lambda entry: entry["parameters"]):
        if entry["name"].startswith("timm/") and not entry["name"].startswith("timm/test_"):
            chosen.setdefault(entry["family"], entry)
    smallest = [entry["name"] for _, entry in sorted(chosen.items()) if entry["parameters"] <= LARGEST]
    return list(dict.fromkeys([*smallest, *(f"timm/{name}" for name in MUCH_USED)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--bits", default="w8a8")
    parser.add_argument("--timm", action="store_true")
    parser.add_argument("--limit", type=int, default=90)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.names[0], arguments.bits, arguments.limit)
        return
    torchvision = [f"torchvision/{name}" for name in FAMILIES] + ["cifar/resnet20"]
    names = arguments.names or (timm_names() if arguments.timm else torchvision)
    works: list[dict[str, Any]] = []
    fails: list[tuple[str, str]] = []
    for name in names:
        answer = check_alone(name, arguments.bits, arguments.limit)
        if isinstance(answer, str):
            fails.append((name, answer))
            print(f"{name}: {answer}", flush=True)
        else:
            works.append(answer)
            print(" | ".join(str(value) for value in answer.values()), flush=True)
    if arguments.write:
        write(works, fails, arguments.bits, "timm_" if arguments.timm else "")


def write(works: list[dict[str, Any]], fails: list[tuple[str, str]], bits: str, part: str) -> None:
    lines = [
        f"# Architectures at {bits}, `minmax`, ONNX Runtime on the CPU",
        "",
        f"{platform.machine()}, {markdown.today()}, random weights. `largest step` compares every",
        "operator of the file with the student's, given identical integer inputs.",
        "",
        *markdown.records(works),
        "",
        "## What does not work, and why",
        "",
        *([f"- `{name}`: {why}" for name, why in fails] or ["Every architecture that was tried works."]),
    ]
    markdown.write(markdown.page("architectures", f"{part}cpu"), lines)


if __name__ == "__main__":
    main()
